"""The commands `pretrain tokenizer`, `pretrain kmeans` and `pretrain lm`: from unlabelled audio to a spoken LM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speechprompt.cli.commands import Device, Force, Out, Threads, add_command, check_writable, names_of
from speechprompt.cli.materials import chosen_device
from speechprompt.cli.pretraining_sources import (
    learnable_audio,
    open_tokenizer,
    read_units,
    tokenizer_name,
)
from speechprompt.cli.terminal import Terminal, pairs
from speechprompt.cli.train import Config
from speechprompt.cli.training_options import NOTHING, option_flag

if TYPE_CHECKING:
    from speechprompt.pretraining.run_folder import Progress

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="Folders, manifests, tables or data set ids; labels are not read."
    ),
]
Tokenizer = Annotated[
    str, typer.Option("--tokenizer", metavar="NAME", help="A published tokenizer, or a tokenizer's folder.")
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="What to call it; by default the folder's name.")
]
SplitFields = Annotated[
    str,
    typer.Option(
        "--split-fields",
        metavar="A,B",
        help="A row trains only where all of these fields that it has say train.",
    ),
]

Untested = Annotated[
    str | None,
    typer.Option(
        "--untested",
        metavar="A,B",
        help="Corpora among the sources that no test scores: all their rows train.",
    ),
]


def register(app: typer.Typer, wanted: Sequence[str]) -> None:
    """Add the group; only the command that is called pays for reading its options."""
    group = typer.Typer(
        help="Pretrain a tokenizer, its centres, or a unit LM from speech without labels.",
        rich_markup_mode=None,
    )
    called = "pretrain" in wanted
    tokenizer_flags = _tokenizer_flags() if called and "tokenizer" in wanted else []
    lm_flags = _lm_flags() if called and "lm" in wanted else []
    add_command(
        group,
        tokenizer,
        "speechprompt pretrain tokenizer speech/ --config recipes/tiny/tokenizer.toml --out tokenizer",
        flags=tokenizer_flags or _NO_FLAGS,
    )
    add_command(
        group, kmeans, "speechprompt pretrain kmeans speech/ --tokenizer tokenizer --out tokenizer-200"
    )
    add_command(
        group,
        lm,
        "speechprompt pretrain lm units.jsonl.gz --tokenizer hubert-base-l6-km100 --out lms/mine",
        flags=lm_flags or _NO_FLAGS,
    )
    app.add_typer(group, name="pretrain")


def _tokenizer_flags() -> list[Parameter]:
    from speechprompt.pretraining.tokenizer_kinds import KINDS, MEL_HUBERT

    return _flags_of(KINDS[MEL_HUBERT].options)


def _lm_flags() -> list[Parameter]:
    from speechprompt.pretraining.unit_lm_options import UnitLmOptions

    return _flags_of(UnitLmOptions)


def _flags_of(kind: type[Any]) -> list[Parameter]:
    from speechprompt.pretraining.options import flat_fields

    return [option_flag(name, hint, default) for name, (hint, default) in flat_fields(kind).items()]


_NO_FLAGS = [option_flag("seed", int, 0)]
"""Stands in where a command is listed, not called."""


def tokenizer(
    terminal: Terminal,
    sources: Sources,
    out: Out,
    changes: Mapping[str, Any],
    name: Name = None,
    config: Config = None,
    split_fields: SplitFields = "split,official_split",
    untested: Untested = None,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Teach a tokenizer from the audio of training rows: frames, MFCC clusters, masked prediction, k-means.

    While it runs, PATH.run holds frames, clusters and the encoder's state: the same command goes on where a
    stopped one was. Options of a table in the configuration file are flags that begin with its name.
    """
    from speechprompt.pretraining.options import read_options
    from speechprompt.pretraining.tokenizer_kinds import KINDS, MEL_HUBERT, check_tokenizer_output

    kind = KINDS[MEL_HUBERT]
    options = read_options(kind.options, given(changes))
    check_tokenizer_output(out, force)
    check_writable(out)
    utterances = learnable_audio(terminal, sources, names_of(split_fields) or [], names_of(untested) or [])
    place, started = chosen_device(device, threads), perf_counter()
    with resumable(terminal, out, "tokenizer") as (work, progress):
        made = kind.pretrain(name or out.name, utterances, work, options, device=place, progress=progress)
        made.save(_replaced(out, force))
    document = {
        "tokenizer": str(out),
        "name": made.name,
        "unit_count": made.unit_count,
        "fingerprint": made.fingerprint,
        "clips": len(utterances),
        "seconds": round(perf_counter() - started, 1),
    }
    hint = f"next: speechprompt pretrain lm SOURCE... --tokenizer {out} --out lms/{made.name}"
    terminal.show(document, pairs(document), hint)


def kmeans(
    terminal: Terminal,
    sources: Sources,
    tokenizer: Tokenizer,
    out: Out,
    unit_count: Annotated[int, typer.Option("--units", min=2, help="How many centres, that is units.")] = 100,
    clips: Annotated[
        int, typer.Option("--clips", min=1, help="Listen to so many clips, drawn at random.")
    ] = 2500,
    frames: Annotated[int, typer.Option("--frames", min=2, help="Fit on so many frames at most.")] = 150_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws clips, frames and first centres.")] = 0,
    name: Name = None,
    config: Config = None,
    split_fields: SplitFields = "split,official_split",
    untested: Untested = None,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Fit other centres on what a tokenizer's encoder hears: another number of units, or other speech."""
    from speechprompt.pretraining.refitting import RefittingOptions, refitted
    from speechprompt.pretraining.tokenizer_kinds import check_tokenizer_output

    check_tokenizer_output(out, force)
    check_writable(out)
    options = RefittingOptions(unit_count, clips, frames, seed)
    utterances = learnable_audio(terminal, sources, names_of(split_fields) or [], names_of(untested) or [])
    old = open_tokenizer(tokenizer, chosen_device(device, threads))
    with resumable(terminal, out, "k-means") as (work, progress):
        made = refitted(old, name or out.name, utterances, work, options, progress)
        made.save(_replaced(out, force))
    document = {
        "tokenizer": str(out),
        "name": made.name,
        "unit_count": made.unit_count,
        "fingerprint": made.fingerprint,
    }
    terminal.show(document, pairs(document))


def lm(
    terminal: Terminal,
    sources: Sources,
    tokenizer: Tokenizer,
    out: Out,
    changes: Mapping[str, Any],
    name: Name = None,
    version: Annotated[str, typer.Option("--version", help="The part of its name after @.")] = "1",
    license: Annotated[
        str | None, typer.Option("--license", metavar="TEXT", help="Under which licence it may be used.")
    ] = None,
    without: Annotated[
        str | None,
        typer.Option("--without", metavar="A,B", help="Corpora among the sources, by name, to leave out."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", metavar="SOURCE", help="Learn no unit sequence that occurs in any row of it."
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", min=0.0001, max=0.5, help="Share that measures bits per unit.")
    ] = 0.01,
    stored: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option("--stored", help="What its weights are kept in."),
    ] = "float16",
    config: Config = None,
    split_fields: SplitFields = "split,official_split",
    untested: Untested = None,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Pretrain a unit LM (GSLM's architecture at any size) and leave a spoken LM for `--lm PATH`.

    A source brings units, audio (encoded first) or is a unit store. Only training rows teach, each distinct unit
    sequence once, and none that a validation or test row also has. While it runs, PATH.run holds the state: the
    same command goes on where a stopped one was.
    """
    from speechprompt.pretraining.lm_folder import LmIdentity, pretrain_lm_folder
    from speechprompt.pretraining.material import gather
    from speechprompt.pretraining.options import read_options
    from speechprompt.pretraining.unit_lm_options import UnitLmOptions
    from speechprompt.spoken_lm_folder import check_folder_output

    options = read_options(UnitLmOptions, given(changes))
    check_folder_output(out, force)
    check_writable(out)
    fields = names_of(split_fields) or []
    place, started = chosen_device(device, threads), perf_counter()
    part = tokenizer_name(tokenizer, place)
    corpora = read_units(terminal, sources, part, fields, names_of(without) or [], names_of(untested) or [])
    excluded = read_units(terminal, exclude or [], part, None)
    material = gather(corpora, excluded, fields, held_out)
    terminal.say(
        f"{len(material.taught):,} sequences, {sum(map(len, material.taught)):,} units to learn from; "
        f"{len(material.held_out):,} held out, {material.left_out:,} left out"
    )
    identity = LmIdentity(name or out.name, version, part.name, part.unit_count, part.folder, license)
    with resumable(terminal, out, "unit LM") as (work, progress):
        record = pretrain_lm_folder(
            material,
            identity,
            out,
            work,
            options,
            stored=stored,
            device=place,
            progress=progress,
            force=force,
        )
    document = {"lm": str(out), **record, "seconds": round(perf_counter() - started, 1)}
    facts = {
        key.replace("_", " "): value for key, value in document.items() if key not in ("options", "material")
    }
    terminal.show(document, pairs(facts), f"next: speechprompt train SOURCE --lm {out} --out prompts/TASK")


def given(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a flag or the configuration file gave."""
    return {name: None if value == NOTHING else value for name, value in changes.items() if value is not None}


@contextmanager
def resumable(terminal: Terminal, out: Path, title: str) -> Iterator[tuple[Path, Progress]]:
    """The folder `OUT.run` and how a pretraining tells where it stands; the folder goes when all is done."""
    work = out.with_name(out.name + ".run")
    with terminal.progress(title) as shown:
        seen: dict[str, str] = {}

        def progress(record: Mapping[str, float | int | str]) -> None:
            for key, value in record.items():
                if key not in ("step", "steps"):
                    seen[key] = f"{value:.3f}" if isinstance(value, float) else str(value)
            text = "  ".join(f"{key.replace('_', ' ')} {value}" for key, value in seen.items())
            shown.update(int(record.get("step", 0)), int(record.get("steps", 0)) or None, text)

        try:
            yield work, progress
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the same command goes on from {work}") from None
    shutil.rmtree(work, ignore_errors=True)


def _replaced(out: Path, force: bool) -> Path:
    if force and out.exists():
        shutil.rmtree(out)
    return out
