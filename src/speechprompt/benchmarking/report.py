"""A run as tables, as Markdown and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechprompt.benchmarking.case import BOUND, NAIVE, OURS, PEFT, Figure, Row
from speechprompt.benchmarking.suite import Report
from speechprompt.evaluation.plots import bound_plot, growth_plot
from speechprompt.evaluation.svg import standalone
from speechprompt.experiments.tables import json_text, markdown_table, write_whole

ROW_HEADINGS = ("stage", "case", "ours a second", NAIVE, PEFT, BOUND, "share", "ours against others")
AIM_HEADINGS = ("stage", "case or figure", "aim", "reached", "")
FIGURE_HEADINGS = ("stage", "figure", "value")
CURVE_HEADINGS = ("stage", "cost", "against", "from", "to", "grew, times", "in theory, times")
Cells = list[tuple[str, ...]]


def tables(report: Report) -> list[tuple[Sequence[str], Cells]]:
    """Headings and lines of every table that has any, without columns that are empty; small sizes have no aims."""
    found: tuple[tuple[Sequence[str], Cells], ...] = (
        (ROW_HEADINGS, row_cells(report)),
        (FIGURE_HEADINGS, [(one.stage, one.name, _value(one)) for one in report.figures]),
        (CURVE_HEADINGS, curve_cells(report)),
        (AIM_HEADINGS, [] if report.machine["quick"] else aim_cells(report)),
    )
    return [_without_empty_columns(headings, cells) for headings, cells in found if cells]


def _without_empty_columns(headings: Sequence[str], cells: Cells) -> tuple[Sequence[str], Cells]:
    kept = [column for column in range(len(headings)) if any(row[column] for row in cells)]
    return [headings[column] for column in kept], [tuple(row[column] for column in kept) for row in cells]


def row_cells(report: Report) -> Cells:
    """A line a throughput; others' rates with how many times as fast ours is; `share` is ours of the bound."""
    absent = "" if report.machine["peft"] else "not installed"
    return [
        (
            row.stage,
            row.name,
            f"{rate(row.rates[OURS])} {row.unit}",
            _against(row, NAIVE),
            _against(row, PEFT) or (absent if PEFT in row.aims else ""),
            rate(row.rates[BOUND]) if BOUND in row.rates else "",
            f"{row.fraction:.2f}" if row.fraction is not None else "",
            "; ".join(f"{row.ratio(name):.2f} x {name}" for name in row.others),
        )
        for row in report.rows
    ]


def aim_cells(report: Report) -> Cells:
    """A line an aim: what was aimed at, what was reached, and whether that is enough."""
    cells: Cells = []
    for row in report.rows:
        for name, (value, aim) in row.reached().items():
            what = {"rate": f"{rate(aim)} a second", BOUND: f"{aim:g} of the bound"}.get(
                name, f"{aim:g} x {name}"
            )
            reached = rate(value) if name == "rate" else f"{value:.2f}"
            cells.append((row.stage, row.name, f"at least {what}", reached, _verdict(value >= aim)))
    for one in report.figures:
        if one.most is not None:
            cells.append(
                (one.stage, one.name, f"at most {one.most:g}", _value(one), _verdict(one.value <= one.most))
            )
    return cells


def curve_cells(report: Report) -> Cells:
    """A line a curve: how many times its first cost its last one is."""
    cells: Cells = []
    for curve in report.curves:
        measured, theory = curve.growth
        ends = (f"{curve.sizes[0]:g}", f"{curve.sizes[-1]:g}")
        name = f"{curve.unit}, {curve.name}"
        cells.append((curve.stage, name, curve.size, *ends, f"{measured:.2f}", f"{theory:.2f}"))
    return cells


def sentence(report: Report) -> str:
    """What was measured, and how."""
    machine = report.machine
    quick = " Small sizes (--quick): the numbers say nothing about speed." if machine["quick"] else ""
    return (
        f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}; {machine['seconds']}, "
        f"medians of {machine['repeats']}; a copy moves {machine['copy_bytes_per_second'] / 1e9:.1f} GB/s.{quick}"
    )


def left_out(report: Report) -> list[str]:
    """A line for each stage that could not run here."""
    return [f"left out: {lack}" for lack in report.left_out.values()]


def markdown(report: Report, plots: Sequence[tuple[str, str]] = ()) -> str:
    """The run as a Markdown document; `plots` are titles and file names beside it."""
    parts = ["# speechprompt bench", sentence(report), *left_out(report)]
    parts += [markdown_table(headings, cells) for headings, cells in tables(report)]
    parts += [f"![{title}]({name})" for title, name in plots]
    return "\n\n".join(parts) + "\n"


def write_report(report: Report, folder: Path) -> None:
    """report.json, report.md and a plot for every curve, as files of a folder. Side effects: those files."""
    plots: list[tuple[str, str]] = []
    bounded = [(f"{row.stage}: {row.name}", row.fraction, row.aims.get(BOUND)) for row in report.rows]
    shares = [(name, share, aim) for name, share, aim in bounded if share is not None]
    if shares:
        title = "Fraction of the bound"
        plots.append((title, "bound.svg"))
        write_whole(folder / "bound.svg", standalone(bound_plot(shares)))
    for number, curve in enumerate(report.curves, 1):
        title, name = f"{curve.unit} of {curve.name} against {curve.size}", f"{curve.stage}-{number}.svg"
        drawn = growth_plot(curve.sizes, curve.measured, curve.scaled_theory, curve.size, curve.unit, title)
        plots.append((title, name))
        write_whole(folder / name, standalone(drawn))
    write_whole(folder / "report.json", json_text(report.to_json()))
    write_whole(folder / "report.md", markdown(report, plots))


def rate(value: float) -> str:
    """A number with three digits that count, thousands apart.

    >>> rate(12345.6), rate(45.678), rate(0.01234)
    ('12,300', '45.7', '0.0123')
    """
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def _against(row: Row, other: str) -> str:
    ratio = row.ratio(other)
    return "" if ratio is None else f"{rate(row.rates[other])} ({ratio:.2f} x)"


def _value(figure: Figure) -> str:
    return f"{rate(figure.value)} {figure.unit}".rstrip()


def _verdict(met: bool) -> str:
    return "met" if met else "missed"
