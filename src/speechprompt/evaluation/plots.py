"""The plots of a report: numbers in, one inline SVG out; narrow ones fit a phone at full size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechprompt.evaluation.summary import LabelEvaluation, SpeakerEvaluation
from speechprompt.evaluation.svg import ACCENT, CONTRAST, INK, MUTED, ON_FILL, RULE, render_svg, shortened
from speechprompt.metrics import CalibrationBin, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from speechprompt.evaluation.reports import StudyRow

NARROW = 4.4
WIDE = 7.6
STUDY = 6.0
CHARACTERS_PER_INCH = 10.6
ROOM_FOR_SHARES = 6
ROOM_FOR_COUNTS = 16
DARK_FILL = 0.55
SPEAKER_COUNT = 24
_DASHES = ("--", ":", "-.")
LABEL_COUNT = 60
"""Labels that one grid shows; ESC-50 fits, a thousand speakers do not."""


def accuracy_plot(
    accuracies: Sequence[tuple[str, Interval]], differences: Sequence[tuple[str, Interval]]
) -> str:
    """Accuracies with 95 % intervals, the prompt first; below, prompt minus baseline by baseline.

    Differences have their own axis: on the scale from nothing to all right they are too small to see.
    """

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2 if differences else 1, 1, squeeze=False, height_ratios=heights)[:, 0]
        _share_axis(panels[0])
        _interval_rows(panels[0], accuracies)
        if differences:
            panels[1].set_title("prompt minus baseline, points", loc="left", fontsize=8.5, color=MUTED)
            panels[1].xaxis.set_major_formatter(_percent(""))
            panels[1].axvline(0, color=MUTED, linewidth=1)
            _interval_rows(panels[1], differences, are_differences=True)

    heights = [len(accuracies) + 0.5, len(differences) + 0.5][: 2 if differences else 1]
    height = 0.5 + 0.38 * sum(heights) + 0.3 * bool(differences)
    return render_svg(draw, NARROW, height, "Accuracy with 95 % intervals beside baselines")


def study_plot(rows: Sequence[StudyRow], wide: bool = False) -> str:
    """A line a row: ours with its interval, the baseline below it, and what they are compared with as a tick.

    `wide` leaves room for names of a sentence.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for position, row in enumerate(rows):
            for interval, shift, colour in ((row.ours, -0.14, ACCENT), (row.baseline, 0.14, MUTED)):
                if interval is not None:
                    height = position + shift
                    axes.plot(
                        [interval.low, interval.high], [height] * 2, color=colour, linewidth=2, alpha=0.6
                    )
                    axes.plot(interval.estimate, height, "o", color=colour, markersize=5, clip_on=False)
            if row.tick is not None:
                ends = [position - 0.38, position + 0.38]
                axes.plot([row.tick] * 2, ends, color=CONTRAST, linewidth=2, clip_on=False)
        axes.set_yticks(range(len(rows)), [shortened(row.name, 64 if wide else 34) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _share_axis(axes)

    return render_svg(
        draw, WIDE if wide else STUDY, 0.55 + 0.42 * max(len(rows), 2), "Accuracies of the table"
    )


def learning_plot(
    steps: Sequence[int], losses: Sequence[float | None], accuracies: Sequence[float | None]
) -> str:
    """Training loss above, where it is known, and accuracy on valid, over steps; the best step is marked."""
    loss, reached = (
        np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        for values in (losses, accuracies)
    )
    curves = [(reached, "accuracy on valid")]
    if np.isfinite(loss).any():
        curves.insert(0, (loss, "training loss"))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (values, name) in zip(panels, curves, strict=True):
            marker = "o" if len(steps) < 25 else None
            axes.plot(steps, values, color=ACCENT, linewidth=1.6, marker=marker, markersize=3)
            axes.set_title(name, loc="left", fontsize=8.5, color=MUTED)
            axes.grid(True, axis="y")
            axes.tick_params(axis="y", labelcolor=MUTED)
            axes.margins(y=0.15)
            axes.ticklabel_format(useOffset=False)
        below = panels[-1]
        below.yaxis.set_major_formatter(_percent())
        below.xaxis.get_major_locator().set_params(integer=True)
        below.set_xlabel("step")
        if np.isfinite(reached).any():
            best = int(np.nanargmax(reached))
            below.plot(steps[best], reached[best], "o", color=CONTRAST, markersize=6)

    title = " and ".join(name for _, name in curves)
    return render_svg(draw, NARROW, 0.5 + 1.4 * len(curves), f"{title.capitalize()} by step")


def confusion_plot(labels: Sequence[str], counts: ArrayLike) -> str:
    """Confusion matrix (C, C): the shade is the share of the row; counts are written where they fit."""
    table = np.asarray(counts)
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros(table.shape), where=totals > 0)
    size = len(labels)
    names = [shortened(label, 14) for label in labels]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        wrong = np.where(np.eye(size, dtype=bool), 0.0, shares)
        _shade(axes, shares - wrong, ACCENT)
        _shade(axes, wrong, CONTRAST)
        for row, column in zip(*np.nonzero(table), strict=True) if size <= ROOM_FOR_COUNTS else ():
            _write_cell(axes, row, column, int(table[row, column]), shares[row, column], size)
        _grid_axes(axes, names, names, width)
        axes.set_xlabel("answered")
        axes.set_ylabel("said")
        axes.set_aspect("equal")

    width = confusion_width(size)
    return render_svg(
        draw, width, width * 0.94, "Confusion matrix: rows are true labels, columns are answers"
    )


def confusion_width(label_count: int) -> float:
    """Inches: narrow while counts can be read on a phone."""
    if label_count <= 12:
        return min(NARROW, 1.9 + 0.5 * label_count)
    return min(WIDE, 2.2 + 0.28 * label_count)


def label_plot(labels: Sequence[LabelEvaluation]) -> str:
    """Recall as a bar and precision as a tick by label, the lowest recall first; counts at the right.

    Of more than `LABEL_COUNT` labels the lowest are drawn.
    """
    occurring = [(row.recall, row) for row in labels if row.recall is not None]
    rows = sorted(occurring, key=lambda pair: (pair[0], pair[1].label))[:LABEL_COUNT]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for position, (recall, row) in enumerate(rows):
            axes.barh(position, recall, height=0.62, color=ACCENT, alpha=0.75)
            if row.precision is not None:
                ends = [position - 0.42, position + 0.42]
                axes.plot([row.precision] * 2, ends, color=CONTRAST, linewidth=2, clip_on=False)
            axes.text(1.03, position, f"{row.true_count:,}", color=MUTED, va="center")
        axes.set_yticks(range(len(rows)), [shortened(row.label) for _, row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _share_axis(axes)

    return render_svg(draw, NARROW, 0.55 + 0.215 * max(len(rows), 3), "Recall and precision by label")


def speaker_plot(speakers: Sequence[SpeakerEvaluation]) -> str:
    """Accuracy as a bar by speaker, the lowest first; of many speakers the `SPEAKER_COUNT` lowest.

    The line is the mean over all speakers; counts of utterances stand at the right.
    """
    ordered = sorted(speakers, key=lambda one: (one.accuracy, -one.utterance_count, one.speaker))
    rows = ordered[:SPEAKER_COUNT]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for position, row in enumerate(rows):
            axes.barh(position, row.accuracy, height=0.62, color=ACCENT, alpha=0.75)
            axes.text(1.03, position, f"{row.utterance_count:,}", color=MUTED, va="center")
        mean = float(np.mean([row.accuracy for row in speakers]))
        axes.axvline(mean, color=CONTRAST, linewidth=1.2, linestyle=(0, (3, 3)))
        axes.set_yticks(range(len(rows)), [shortened(row.speaker) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _share_axis(axes)

    return render_svg(draw, NARROW, 0.55 + 0.215 * max(len(rows), 3), "Accuracy by speaker")


def reliability_plot(bins: Sequence[CalibrationBin]) -> str:
    """Accuracy over confidence against the honest diagonal; below, how many answers each bin has."""
    most = max(one.count for one in bins)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for one in bins:
            ends = [one.confidence, one.accuracy]
            above.plot([one.confidence] * 2, ends, color=CONTRAST, linewidth=1.2, alpha=0.8)
            below.bar(one.low, one.count, one.high - one.low, align="edge", color=ACCENT, alpha=0.55)
            size = 3 + 5 * (one.count / most) ** 0.5
            above.plot(one.confidence, one.accuracy, "o", color=ACCENT, markersize=size, clip_on=False)
        _share_axis(above, vertical=True)
        above.set_ylabel("accuracy")
        below.set_ylabel("answers")
        below.set_xlabel("confidence")
        below.tick_params(axis="y", labelcolor=MUTED)
        below.yaxis.get_major_locator().set_params(nbins=2, integer=True)

    return render_svg(draw, NARROW, 3.6, "Reliability: accuracy over confidence")


def shots_plot(shots: Sequence[int], curves: Sequence[tuple[str, Sequence[Interval]]], title: str) -> str:
    """Accuracy with 95 % intervals over training utterances a label, on a logarithmic axis; the first curve is ours."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        for number, (name, values) in enumerate(curves):
            colour, form = (ACCENT, "-") if number == 0 else (MUTED, _DASHES[(number - 1) % len(_DASHES)])
            middle = [value.estimate for value in values]
            axes.plot(shots, middle, form, color=colour, linewidth=1.6, marker="o", markersize=3, label=name)
            if number < 2:
                ends = [value.low for value in values], [value.high for value in values]
                axes.fill_between(shots, *ends, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(list(shots), [str(shot) for shot in shots])
        axes.minorticks_off()
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(_percent())
        axes.tick_params(axis="y", labelcolor=MUTED)
        axes.set_xlabel("training utterances a label")
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, labelcolor=INK, loc="lower right")

    return render_svg(draw, NARROW, 2.8, title)


def growth_plot(
    sizes: Sequence[float],
    measured: Sequence[float],
    theory: Sequence[float],
    size_name: str,
    cost_name: str,
    title: str,
) -> str:
    """Cost over size on logarithmic axes: measured as dots, what theory says as a dashed line."""
    from matplotlib.ticker import EngFormatter, LogLocator

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.plot(sizes, theory, color=CONTRAST, linewidth=1.2, linestyle=(0, (3, 3)), label="theory")
        axes.plot(sizes, measured, color=ACCENT, linewidth=1.6, marker="o", markersize=4, label="measured")
        axes.set_xticks(list(sizes), [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(EngFormatter())
        axes.tick_params(axis="y", labelcolor=MUTED)
        most = max(*measured, *theory)
        # a cost that hardly grows shall look like it
        axes.set_ylim(min(*measured, *theory, most / 8) / 1.2, most * 1.3)
        axes.set_xlabel(size_name)
        axes.set_title(cost_name, loc="left", fontsize=8.5, color=MUTED)
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, labelcolor=INK)

    return render_svg(draw, NARROW, 2.6, title)


def bound_plot(rows: Sequence[tuple[str, float, float | None]]) -> str:
    """A bar a row: the fraction of the bound that is reached; a tick where one is aimed at."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for position, (_, share, aim) in enumerate(rows):
            axes.barh(position, min(share, 1.0), height=0.62, color=ACCENT, alpha=0.75)
            axes.text(1.03, position, f"{share:.2f}", color=MUTED, va="center")
            if aim is not None:
                axes.plot([aim] * 2, [position - 0.4, position + 0.4], color=CONTRAST, linewidth=2)
        axes.set_yticks(range(len(rows)), [shortened(name, 64) for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _share_axis(axes)

    return render_svg(draw, WIDE, 0.55 + 0.235 * max(len(rows), 3), "Fraction of the bound")


def verbalizer_plot(labels: Sequence[str], units: Sequence[str], weights: ArrayLike) -> str:
    """Weights (C, U) of units for labels: one hue speaks for the label, the other against it."""
    table = np.asarray(weights, dtype=np.float64)
    scaled = table / (np.abs(table).max() or 1.0)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _shade(axes, np.maximum(scaled, 0), ACCENT)
        _shade(axes, np.maximum(-scaled, 0), CONTRAST)
        _grid_axes(
            axes, [shortened(label, 14) for label in labels], [shortened(unit, 6) for unit in units], width
        )
        axes.set_xlabel("unit")

    width, height = verbalizer_width(len(units)), 0.75 + 0.2 * max(len(labels), 2)
    return render_svg(draw, width, height, "Verbalizer weights of units by label")


def verbalizer_width(unit_count: int) -> float:
    """Inches: narrow while the unit numbers can be read on a phone."""
    return NARROW if unit_count <= 14 else WIDE


def _interval_rows(axes: Axes, rows: Sequence[tuple[str, Interval]], are_differences: bool = False) -> None:
    """A line a row: the interval, its estimate as a dot and as a figure at the right.

    The first accuracy (the prompt's) stands out, and every difference whose interval excludes zero.
    """
    sign, unit = ("+", "") if are_differences else ("", "%")
    for position, (_, interval) in enumerate(rows):
        stands_out = interval.excludes_zero if are_differences else position == 0
        colour = (CONTRAST if interval.estimate < 0 else ACCENT) if stands_out else MUTED
        axes.plot([interval.low, interval.high], [position] * 2, color=colour, linewidth=2, alpha=0.6)
        axes.plot(interval.estimate, position, "o", color=colour, markersize=5, clip_on=False)
        figure = f"{interval.estimate * 100:{sign}.1f}{unit}".replace("-", "\u2212")
        axes.annotate(
            figure,
            (1, position),
            (8, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    axes.set_yticks(range(len(rows)), [shortened(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)


def _percent(unit: str = "%") -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value * 100:.3g}{unit}".replace("-", "\u2212"))


def _share_axis(axes: Axes, vertical: bool = False) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(_percent())
    axes.grid(True, axis="both" if vertical else "x")
    axes.set_axisbelow(True)
    axes.spines["bottom"].set_visible(vertical)
    if vertical:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(_percent())
        axes.tick_params(axis="y", labelcolor=MUTED)


def _shade(axes: Axes, shares: NDArray[np.float64], colour: str) -> None:
    """Fill the cells above 0.4 % with `colour`, as opaque as their share, so that the page shows through."""
    from matplotlib.patches import Rectangle

    for row, column in zip(*np.nonzero(shares > 0.004), strict=True):
        corner, opacity = (column - 0.47, row - 0.47), float(max(shares[row, column], 0.12))
        axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=colour, alpha=opacity, linewidth=0))


def _write_cell(axes: Axes, row: int, column: int, count: int, share: float, size: int) -> None:
    colour = ON_FILL if share > DARK_FILL else INK
    cell: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
    if size > ROOM_FOR_SHARES:
        axes.text(column, row, f"{count:,}", fontsize=7.5, **cell)
        return
    for text, rise, points in ((f"{share:.0%}", 5, 9.5), (f"{count:,}", -7, 7)):
        place = (column, row), (0, rise)
        axes.annotate(text, *place, textcoords="offset points", fontsize=points, **cell)


def _grid_axes(axes: Axes, rows: Sequence[str], columns: Sequence[str], width: float) -> None:
    longest = max(map(len, columns))
    upright = longest * len(columns) > CHARACTERS_PER_INCH * width
    size = 8.5 if max(len(rows), len(columns)) <= 20 else 7
    axes.set_xticks(range(len(columns)), columns, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(axis="x", labelcolor=INK)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)
