"""The command `pretrain lm`: from units, or from audio through a tokenizer, to a spoken LM folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from speechprompt.cli.commands import Device, Force, Out, Threads, check_writable, names_of
from speechprompt.cli.materials import chosen_device
from speechprompt.cli.pretraining_run import (
    Name,
    Sources,
    SplitFields,
    Tokenizer,
    Untested,
    given,
    resumable,
)
from speechprompt.cli.pretraining_sources import read_units
from speechprompt.cli.terminal import Terminal, next_command, pairs
from speechprompt.cli.tokenizer_part import TokenizerPart, tokenizer_name
from speechprompt.cli.train import Config
from speechprompt.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from speechprompt.pretraining.lm_folder import LmIdentity
    from speechprompt.pretraining.material import UnitMaterial
    from speechprompt.pretraining.unit_lm_options import UnitLmOptions

STREAMS = ("durations", "f0")

Version = Annotated[str, typer.Option("--version", help="The part of its name after @.")]
License = Annotated[
    str | None, typer.Option("--license", metavar="TEXT", help="Under which licence it may be used.")
]
Without = Annotated[
    str | None,
    typer.Option("--without", metavar="A,B", help="Corpora among the sources, by name, to leave out."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="SOURCE", help="Learn no unit sequence that occurs in any row of it; repeatable."
    ),
]
HeldOut = Annotated[
    float, typer.Option("--held-out", min=0.0001, max=0.5, help="Share that measures bits per unit.")
]
Streams = Annotated[
    str | None,
    typer.Option(
        "--streams",
        metavar="A,B",
        help="Read and predict prosody beside the units: durations, f0 or both. Codes of timbre and prosody among "
        "the units are then left out.",
    ),
]
MeanF0 = Annotated[
    str | None,
    typer.Option(
        "--f0-mean",
        metavar="utterance|absolute",
        help="What log-F0 is measured from: the utterance's mean (default), or nothing (absolute).",
    ),
]
StoredAs = Annotated[
    Literal["float32", "float16", "bfloat16"],
    typer.Option("--stored", help="What its weights are kept in."),
]


def lm(
    terminal: Terminal,
    sources: Sources,
    tokenizer: Tokenizer,
    out: Out,
    changes: Mapping[str, Any],
    name: Name = None,
    version: Version = "1",
    license: License = None,
    without: Without = None,
    exclude: Exclude = None,
    held_out: HeldOut = 0.01,
    streams: Streams = None,
    f0_mean: MeanF0 = None,
    stored: StoredAs = "float16",
    config: Config = None,
    split_fields: SplitFields = "split,official_split",
    untested: Untested = None,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Pretrain a unit LM (GSLM's or, with prosody, pGSLM's architecture at any size) for `--lm PATH`.

    A source brings units, audio (encoded first) or is a unit store. Only training rows teach, each distinct unit
    sequence once, and none that a validation or test row also has. While it runs, PATH.run holds the state: the
    same command goes on where a stopped one was.
    """
    from speechprompt.pretraining.lm_folder import pretrain_lm_folder
    from speechprompt.pretraining.material import gather
    from speechprompt.spoken_lm_folder import check_folder_output

    options, read = lm_options(given(changes), names_of(streams))
    check_folder_output(out, force)
    check_writable(out)
    fields = names_of(split_fields) or []
    place, started = chosen_device(device, threads), perf_counter()
    part = prosodic(tokenizer_name(tokenizer, place), read, f0_mean, terminal)
    corpora = read_units(terminal, sources, part, fields, names_of(without) or [], names_of(untested) or [])
    material = gather(corpora, read_units(terminal, exclude or [], part), fields, held_out)
    terminal.say(_amounts(material))
    with resumable(terminal, out, "unit LM") as (work, progress):
        identity = _identity(name or out.name, version, license, part, work / "tokenizer")
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
    hint = next_command("train", "SOURCE", "--lm", out, "--out", "prompts/TASK")
    terminal.show(document, pairs(facts), hint)


def _amounts(material: UnitMaterial) -> str:
    return (
        f"{len(material.taught):,} sequences, {sum(map(len, material.taught)):,} units to learn from; "
        f"{len(material.held_out):,} held out, {material.left_out:,} left out"
    )


def _identity(name: str, version: str, license: str | None, part: TokenizerPart, scratch: Path) -> LmIdentity:
    """What the new LM is called; a tokenizer that goes into its folder is written to `scratch`."""
    from speechprompt.pretraining.lm_folder import LmIdentity

    folder = part.written(scratch)
    return LmIdentity(
        name, version, part.name, part.unit_count, folder, license, part.fingerprint, part.f0_from
    )


def lm_options(
    values: Mapping[str, Any], streams: Sequence[str] | None
) -> tuple[UnitLmOptions, frozenset[str]]:
    """The options of a unit LM, or with `streams` of a prosodic one, and the streams it reads.

    UnknownName for a stream that is none; UsageError for options of prosody without streams.
    """
    from speechprompt.pretraining.options import flat_fields, read_options
    from speechprompt.pretraining.unit_lm_options import ProsodicLmOptions, UnitLmOptions

    read = frozenset(streams or ())
    for stream in sorted(read - set(STREAMS)):
        raise UnknownName("stream", stream, STREAMS)
    if read:
        wanted = {"reads_duration": "durations" in read, "reads_f0": "f0" in read}
        return read_options(ProsodicLmOptions, {**values, **wanted}), read
    for name in values:
        if name in flat_fields(ProsodicLmOptions) and name not in flat_fields(UnitLmOptions):
            raise UsageError(
                f"--{name.replace('_', '-')} is for an LM with prosody; say which: --streams durations,f0"
            )
    return read_options(UnitLmOptions, values), read


def prosodic(
    part: TokenizerPart, streams: frozenset[str], f0_mean: str | None, terminal: Terminal
) -> TokenizerPart:
    """The tokenizer whose units carry the streams. UsageError where --f0-mean has nothing to say or is unknown."""
    from speechprompt.tokenizers.prosody import F0Mean

    known: dict[str, F0Mean] = {mean: mean for mean in get_args(F0Mean)}
    if f0_mean is not None and f0_mean not in known:
        raise UnknownName("--f0-mean", f0_mean, known)
    if f0_mean is not None and ("f0" not in streams or part.f0_from):
        raise UsageError("--f0-mean goes with --streams f0 and a tokenizer that brings no F0 of its own")
    if not streams or part.f0_from:
        return part
    content = part.content()
    if content is not part:
        terminal.notice(
            f"the codes of timbre and prosody of {part.name} are left out: {content.name} is read"
        )
    return content.with_f0(known[f0_mean or "utterance"]) if "f0" in streams else content
