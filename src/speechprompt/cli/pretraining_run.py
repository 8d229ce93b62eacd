"""What the commands of `pretrain` share: flags, and a run that an interruption leaves ready to go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.terminal import Terminal
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


def tokenizer_flags() -> list[Parameter]:
    """A flag for every option of the tokenizer that is taught here."""
    from speechprompt.pretraining.tokenizer_kinds import KINDS, MEL_HUBERT

    return _flags_of(KINDS[MEL_HUBERT].options)


def lm_flags() -> list[Parameter]:
    """A flag for every option of a unit LM, with prosody or without; which streams it reads is one flag's choice."""
    from speechprompt.pretraining.unit_lm_options import ProsodicLmOptions

    return [flag for flag in _flags_of(ProsodicLmOptions) if not flag.name.startswith("reads_")]


def _flags_of(kind: type[Any]) -> list[Parameter]:
    from speechprompt.pretraining.options import flat_fields

    return [option_flag(name, hint, default) for name, (hint, default) in flat_fields(kind).items()]


NO_FLAGS = [option_flag("seed", int, 0)]
"""Stands in where a command is listed, not called."""


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
