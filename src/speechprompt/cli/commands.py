"""How a function becomes a command: its own options, then the ones that every command has, and an example."""

from __future__ import annotations

import errno
import inspect
import os
import re
from collections.abc import Callable, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from speechprompt.cli.terminal import Terminal
from speechprompt.prompting.kinds import LARGEST_SEED

Command = Callable[..., None]
MOST_THREADS_ASKED = 1024
"""More than any machine here has cores; with a hundred thousand, torch's allocator crashes."""

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of label folders, a manifest, a csv or tsv, or a data set id (hf:owner/name).",
    ),
]
LmName = Annotated[
    str, typer.Option("--lm", metavar="NAME", help="Spoken LM: a name of `speechprompt lms`, or a folder.")
]
ArtifactLm = Annotated[
    str | None,
    typer.Option("--lm", metavar="NAME", help="Spoken LM; by default the one that the prompt names."),
]
SlotNames = Annotated[
    str | None,
    typer.Option("--slots", metavar="A,B", help="Label slots to use, in this order; by default all."),
]
SplitField = Annotated[
    str, typer.Option("--split-field", metavar="FIELD", help="The field that names an utterance's split.")
]
SplitName = Annotated[str, typer.Option("--split", metavar="SPLIT", help="The split to score.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable",
        help="Leave out clips that cannot be read or are too long for the LM, instead of stopping.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="PATH", help="Where to write.", show_default=False)]
Device = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1; auto takes a GPU if there is one."),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--dtype", help="What the LM computes in; auto takes bfloat16 where it pays."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_THREADS_ASKED,
        help="CPU threads; by default the cores of this process, at most 4.",
    ),
]
Copies = Annotated[
    int | None,
    typer.Option(
        "--copies",
        metavar="N",
        help="Hear every clip at N (even) other speeds too and answer with the mean; 2 cost three times the time. "
        "By default as each prompt was trained to (train --answer-copies; 4 for up to 2,000 clips, else 0).",
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Draws the bootstraps of the intervals.")
]


def _common() -> list[Parameter]:
    kinds = {
        "as_json": typer.Option("--json", help="Print JSON on stdout, nothing else."),
        "quiet": typer.Option("--quiet", "-q", help="No progress, no notices."),
        "debug": typer.Option("--debug", help="Show where an error came from."),
    }
    return [flag(name, bool, option, False) for name, option in kinds.items()]


def flag(name: str, kind: Any, option: Any, default: object = None) -> Parameter:
    """A keyword parameter that typer reads as an option."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def add_command(
    app: typer.Typer,
    function: Command,
    example: str,
    name: str | None = None,
    flags: Sequence[Parameter] = (),
) -> None:
    """Register `function(terminal, ...)` under its own name; its docstring is the help, `example` ends it.

    `flags` are further options, which arrive together as the mapping `changes`.
    """
    app.command(
        name or function.__name__.replace("_", "-"),
        short_help=re.split(r"[:;.]\s", inspect.getdoc(function) or "", maxsplit=1)[0],
        epilog=f"Example: {example}",
    )(with_terminal(function, flags))


def with_terminal(function: Command, flags: Sequence[Parameter] = ()) -> Command:
    """`function` without its parameters `terminal` and `changes`, with the options that become them."""
    kept = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.name not in ("terminal", "changes")
    ]
    common = _common()

    def call(**values: Any) -> None:
        as_json, quiet, _ = (values.pop(parameter.name) for parameter in common)
        if flags:
            values["changes"] = {parameter.name: values.pop(parameter.name) for parameter in flags}
        function(Terminal(as_json, quiet), **values)

    parameters = [*kept, *flags, *common]
    call.__doc__, call.__name__ = inspect.getdoc(function), function.__name__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def names_of(text: str | None) -> list[str] | None:
    """`a,b,c` as a list; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def free_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_writable(out: Path) -> None:
    """PermissionError or NotADirectoryError, before any work, when nothing can be written at `out`."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))
