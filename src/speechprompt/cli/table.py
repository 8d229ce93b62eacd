"""The command `table`: declared tests under every method, each cell measured once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechprompt.cli.commands import Device, Dtype, Threads, add_command, check_writable, names_of
from speechprompt.cli.compare import stages
from speechprompt.cli.materials import chosen_device
from speechprompt.cli.terminal import Terminal
from speechprompt.cli.terminal import table as drawn
from speechprompt.errors import UsageError

if TYPE_CHECKING:
    from speechprompt.experiments.results_lines import ResultsTable
    from speechprompt.spoken_lm import SpokenLM

OUT = Path("speechprompt-table")

Rows = Annotated[
    Path,
    typer.Argument(metavar="FILE.toml", help="The rows: sources, protocols, options of the methods."),
]
Material = Annotated[
    Path,
    typer.Option(
        "--material",
        metavar="FOLDER",
        envvar="SPEECHPROMPT_MATERIAL",
        help="Where the rows' sources lie.",
    ),
]
LmFolders = Annotated[
    list[str] | None,
    typer.Option("--lm", metavar="NAME=FOLDER", help="The folder of a spoken LM that rows name; repeatable."),
]
Chosen = Annotated[str | None, typer.Option("--rows", metavar="A,B", help="Rows to measure; by default all.")]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="A,B",
        help="Methods: majority, n-gram, n-gram copies, n-gram tuned, mfcc n-gram, probe, prompt, cnn, finetune.",
    ),
]
SeedCount = Annotated[
    int | None, typer.Option("--seeds", min=1, help="Trainings of a row with fixed splits.")
]
Budget = Annotated[
    float | None, typer.Option("--budget-minutes", min=0, help="Begin no cell after so many minutes.")
]
Tuning = Annotated[
    bool,
    typer.Option("--tuning", help="Show accuracy on validation instead of the test, to choose options by."),
]
Cells = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where measured cells are kept.")]
Unpacked = Annotated[
    Path | None,
    typer.Option(
        "--unpacked", metavar="FOLDER", help="Where archives are unpacked; by default FOLDER/audio."
    ),
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--write",
        metavar="FILE.md",
        help="The table; its JSON and pictures beside it. By default FOLDER/table.md, of validation tuning.md.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        table,
        "speechprompt table recipes/table.toml --material DATA --lm hubert100-small=lms/hubert100-small",
    )


def table(
    terminal: Terminal,
    declaration: Rows,
    material: Material = Path(),
    lm: LmFolders = None,
    rows: Chosen = None,
    columns: Columns = None,
    seeds: SeedCount = None,
    budget_minutes: Budget = None,
    tuning: Tuning = False,
    out: Cells = OUT,
    unpacked: Unpacked = None,
    write: Page = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Prompts beside baselines and supervised ceilings on declared tests, as Markdown and JSON, with intervals.

    FOLDER keeps each cell under a hash of all that it depends on: the same command goes on where a stopped one was,
    and after a change measures again only what depends on it. Rows and methods that this call does not measure stay
    on the page, as long as their inputs are the same. A row whose data is not there says so.
    """
    from speechprompt.experiments.results_table import Study, make_table
    from speechprompt.experiments.table_rows import check_columns, read_declaration

    declared = read_declaration(declaration)
    chosen = declared.chosen(names_of(rows))
    methods = None if columns is None else check_columns(names_of(columns) or [])
    folders = _folders(lm or [])
    page = _page(write or out / ("tuning.md" if tuning else "table.md"))
    check_writable(out)
    chosen_on = chosen_device(device, threads)
    load = _loader(folders, chosen_on, dtype)
    audio, stage = unpacked or out / "audio", stages(terminal)
    study = Study(declared, material, audio, out, load, stage, seeds or declared.seeds, methods)
    study.tuning, study.device = tuning, chosen_on
    if budget_minutes is not None:
        study.deadline = time.monotonic() + 60 * budget_minutes
    try:
        found = make_table(study, chosen, page)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; measured cells are in {out}, the same command goes on from there"
        ) from None
    for notice in study.notices:
        terminal.notice(notice)
    _show(terminal, found, f"{study.measured} cells measured, {study.reused} reused: {page}")


def _page(path: Path) -> Path:
    """The path, when a page can be written there. UsageError, or the errors of `check_writable`."""
    if path.suffix != ".md":
        raise UsageError(f"{path} must end in .md; the JSON is written beside it")
    check_writable(path)
    return path


def _loader(folders: dict[str, str], device: str, dtype: Dtype) -> Callable[[str], SpokenLM]:
    """Loads a spoken LM by the name that rows use."""
    from speechprompt.spoken_lm import SpokenLM

    return lambda name: SpokenLM.load(folders.get(name, name), device, dtype)


def _show(terminal: Terminal, found: ResultsTable, last: str) -> None:
    """Print the columns that have anything in them, then the rows that failed; exit code 1 if any did."""
    terminal.show(found.to_json(), drawn(*found.shown()), "", last)
    failed = [line for line in found.lines if line.remark.startswith("failed")]
    for line in failed:
        terminal.complain(f"{line.name}: {line.remark}")
    if failed:
        raise typer.Exit(1)


def _folders(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for text, (name, _, folder) in zip(given, pairs, strict=True):
        if not name or not folder:
            raise UsageError(f"--lm {text} must be NAME=FOLDER, the name as rows use it")
    return {name: folder for name, _, folder in pairs}
