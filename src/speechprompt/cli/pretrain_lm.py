"""The command `pretrain lm`: from units, or from audio through a tokenizer, to a spoken LM folder."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Annotated, Any, Literal

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
from speechprompt.cli.pretraining_sources import read_units, tokenizer_name
from speechprompt.cli.terminal import Terminal, pairs
from speechprompt.cli.train import Config

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
    stored: StoredAs = "float16",
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
