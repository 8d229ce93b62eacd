"""The commands `pretrain tokenizer` and `pretrain kmeans`, and the group that `pretrain lm` belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Annotated, Any

import typer

from speechprompt.cli.commands import Device, Force, Out, Threads, add_command, check_writable, names_of
from speechprompt.cli.materials import chosen_device
from speechprompt.cli.pretrain_lm import lm
from speechprompt.cli.pretraining_run import (
    NO_FLAGS,
    Name,
    Sources,
    SplitFields,
    Tokenizer,
    Untested,
    given,
    lm_flags,
    resumable,
    tokenizer_flags,
)
from speechprompt.cli.pretraining_sources import learnable_audio, open_tokenizer
from speechprompt.cli.terminal import Terminal, next_command, pairs
from speechprompt.cli.train import Config
from speechprompt.prompting.kinds import LARGEST_SEED


def register(app: typer.Typer, wanted: Sequence[str]) -> None:
    """Add the group; only the command that is called pays for reading its options."""
    group = typer.Typer(
        help="Pretrain a tokenizer, its centres, or a unit LM from speech without labels.",
        rich_markup_mode=None,
    )
    called = "pretrain" in wanted
    add_command(
        group,
        tokenizer,
        "speechprompt pretrain tokenizer speech/ --config recipes/tiny/tokenizer.toml --out tokenizer",
        flags=tokenizer_flags() if called and "tokenizer" in wanted else NO_FLAGS,
    )
    add_command(
        group, kmeans, "speechprompt pretrain kmeans speech/ --tokenizer tokenizer --out tokenizer-200"
    )
    add_command(
        group,
        lm,
        "speechprompt pretrain lm units.jsonl.gz --tokenizer hubert-base-l6-km100 --out lms/mine",
        flags=lm_flags() if called and "lm" in wanted else NO_FLAGS,
    )
    app.add_typer(group, name="pretrain")


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
    from speechprompt.pretraining.tokenizer_kinds import (
        KINDS,
        MEL_HUBERT,
        check_tokenizer_output,
        record_of,
        write_tokenizer,
    )

    kind = KINDS[MEL_HUBERT]
    options = read_options(kind.options, given(changes))
    check_tokenizer_output(out, force)
    check_writable(out)
    utterances = learnable_audio(terminal, sources, names_of(split_fields) or [], names_of(untested) or [])
    place, started = chosen_device(device, threads), perf_counter()
    with resumable(terminal, out, "tokenizer") as (work, progress):
        made = kind.pretrain(name or out.name, utterances, work, options, device=place, progress=progress)
        write_tokenizer(out, made, record_of(kind.name, options, utterances), force)
    document = {
        "tokenizer": str(out),
        "name": made.name,
        "unit_count": made.unit_count,
        "fingerprint": made.fingerprint,
        "clips": len(utterances),
        "seconds": round(perf_counter() - started, 1),
    }
    hint = next_command("pretrain", "lm", "SOURCE...", "--tokenizer", out, "--out", f"lms/{made.name}")
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
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Draws clips, frames and first centres.")
    ] = 0,
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
    from speechprompt.pretraining.tokenizer_kinds import check_tokenizer_output, write_tokenizer

    check_tokenizer_output(out, force)
    check_writable(out)
    options = RefittingOptions(unit_count, clips, frames, seed)
    utterances = learnable_audio(terminal, sources, names_of(split_fields) or [], names_of(untested) or [])
    old = open_tokenizer(tokenizer, chosen_device(device, threads))
    with resumable(terminal, out, "k-means") as (work, progress):
        made = refitted(old, name or out.name, utterances, work, options, progress)
        write_tokenizer(out, made, force=force)
    document = {
        "tokenizer": str(out),
        "name": made.name,
        "unit_count": made.unit_count,
        "fingerprint": made.fingerprint,
    }
    terminal.show(document, pairs(document))
