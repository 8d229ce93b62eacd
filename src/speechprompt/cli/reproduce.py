"""The command `reproduce`: the paper's table on the corpora at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import Device, LmName, Threads, add_command, check_writable
from speechprompt.cli.compare import Seeds, Steps, stages
from speechprompt.cli.materials import open_spoken_lm
from speechprompt.cli.terminal import Terminal, table
from speechprompt.cli.train import Recipe

if TYPE_CHECKING:
    from speechprompt.experiments.reproduce import Reproduction

OUT = Path("speechprompt-reproduction")


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, reproduce, "speechprompt reproduce --roots roots.toml --lm gslm-hubert100 --seeds 3")


def reproduce(
    terminal: Terminal,
    rows: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CORPUS:TASK]...", help="Rows to reproduce; by default all of the paper's."),
    ] = None,
    roots: Annotated[
        Path | None,
        typer.Option(
            "--roots",
            metavar="FILE.toml",
            help='Where the corpora are: esc-50 = "folder", or [esc-50] with root, split_list, split_rule, variant.',
        ),
    ] = None,
    lm: LmName = "tiny",
    recipe: Recipe = "default",
    seeds: Seeds = 1,
    steps: Steps = None,
    speed_copies: Annotated[
        int | None,
        typer.Option(
            "--speed-copies", min=0, help="Train on so many copies of each clip at other speeds too."
        ),
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Train all rows and seeds at once, in one batch of prompts.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where everything is kept.")] = OUT,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """The paper's table: prepare, encode, train and score each row whose corpus is here, beside what is published.

    FOLDER keeps manifests, prompts and numbers: the same command goes on where a stopped one was, and trains
    nothing twice. It ends in table.md, table.json and report.html. Rows without their corpus say where to get it.
    """
    from speechprompt.experiments.reproduce import Study, row_names
    from speechprompt.experiments.reproduce import reproduce as reproduce_rows
    from speechprompt.experiments.roots import read_roots

    names = row_names(rows or [])
    places = {} if roots is None else read_roots(roots)
    check_writable(out)
    given = {"steps": steps, "speed_copies": speed_copies}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    spoken_lm = open_spoken_lm(lm, device, threads=threads)
    study = Study(spoken_lm, places, out, stages(terminal), terminal.notice, recipe, seeds, joint, changes)
    try:
        found = reproduce_rows(names, study)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; finished runs are in {out}, the same command goes on from there"
        ) from None
    _show(terminal, found)


def _show(terminal: Terminal, found: Reproduction) -> None:
    """Print the table, then what failed; a failed row makes the command fail."""
    from speechprompt.experiments.reproduce import HEADINGS

    terminal.show(found.to_json(), table(HEADINGS, found.cells()), "", f"report: {found.report}")
    failed = [row for row in found.rows if row.state == "failed"]
    for row in failed:
        terminal.complain(f"{row.name}: {row.remark}")
    if failed:
        raise typer.Exit(1)
