"""The command `bench`: how fast this machine is at every stage, and how fast it could be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from speechprompt.cli.commands import Device, Force, Threads, add_command, check_writable, names_of
from speechprompt.cli.materials import chosen_device
from speechprompt.cli.terminal import Terminal, table
from speechprompt.errors import OutputExists


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, bench, "speechprompt bench --stages train,predict,tiny --threads 1 --out speed")


def bench(
    terminal: Terminal,
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages",
            metavar="A,B",
            help="Any of decode, resample, hubert, k-means, deduplicate, train, predict, tasks, mixed, seeds, "
            "attention, tiny, server, cold-start, memory, growth; by default all.",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Times that each form is run; medians are shown.")
    ] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes: shows what is measured, not how fast it is.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Also write report.json, report.md and plots."),
    ] = None,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure every stage here: ours beside the naive form, peft's prefix tuning and the bound of the machine.

    The bound is the time of the matrix products that are needed, measured alone at the same shapes and precision, or
    of the bytes that must be copied. True sizes (GSLM 12x1024, HuBERT-base) with random weights need 3 GB and about a
    quarter of an hour of one core. One thread is measured in CPU seconds. The peft column needs the extra 'peft', the
    stage server the extra 'server'; its bound is the library's predictor on the same clips.
    """
    from speechprompt.benchmarking import report as form
    from speechprompt.benchmarking.suite import chosen_stages, run_stages

    chosen = chosen_stages(names_of(stages))
    if out is not None:
        if (out / "report.json").exists() and not force:
            raise OutputExists(out)
        check_writable(out / "report.json")
    place = chosen_device(device, threads)
    with terminal.progress("bench") as progress:
        found = run_stages(chosen, place, repeats, quick, progress.update)
    if out is not None:
        form.write_report(found, out)
        terminal.say(f"written to {out}")
    parts: list[RenderableType] = [form.sentence(found), *form.left_out(found)]
    for headings, cells in form.tables(found):
        parts += ["", table(headings, cells)]
    terminal.show(found.to_json(), *parts)
