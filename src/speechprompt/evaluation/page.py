"""From a report's values to its page: words for numbers, plots per section, and the templates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from speechprompt.evaluation import plots
from speechprompt.evaluation.clips import draw_clip
from speechprompt.evaluation.summary import SlotEvaluation, TaskEvaluation
from speechprompt.metrics import Interval

if TYPE_CHECKING:
    from speechprompt.evaluation.reports import Report, ReportTable, TaskSection

TEMPLATES = Path(__file__).parent / "templates"
CONFUSION_COUNT = 6


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its caption; a wide one scrolls sideways on a phone instead of shrinking."""

    svg: Markup
    title: str
    caption: str
    is_wide: bool = False


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot's numbers as (name, value, meaning) and its plots; `confusions` are (said, answered, count)."""

    name: str
    numbers: tuple[tuple[str, str, str], ...]
    plots: tuple[Plot, ...]
    confusions: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class SectionView:
    """A task's section as the template shows it; `pictures` are drawings of its examples, in their order."""

    section: TaskSection
    anchor: str
    verdict: str
    plots: tuple[Plot, ...]
    slots: tuple[SlotView, ...]
    pictures: tuple[Markup | None, ...]


@dataclass(frozen=True, slots=True)
class TableView:
    """A table without its empty columns, and its plot; a row has cells and a remark.

    A cell is (heading, text, whether it is a number).
    """

    headings: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[tuple[tuple[str, str, bool], ...], str], ...]
    note: str
    plot: Plot | None


def render_page(report: Report) -> str:
    """The HTML document of a report."""
    views = [_section_view(section, f"task-{number}") for number, section in enumerate(report.sections, 1)]
    return (
        _environment()
        .get_template("report.html")
        .render(report=report, views=views, table=None if report.table is None else _table_view(report.table))
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        span=span,
        points=points,
        parameters=parameters,
        duration=duration,
        labels=label_counts,
    )
    return environment


def percent(share: float) -> str:
    """A share in percent with one decimal.

    >>> percent(0.9421)
    '94.2 %'
    """
    return f"{share * 100:.1f}\u202f%"


def span(interval: Interval, signed: bool = False) -> str:
    """The ends of an interval in percent, or in signed points."""
    sign = "+" if signed else ""
    ends = (f"{end * 100:{sign}.1f}".replace("-", "\u2212") for end in (interval.low, interval.high))
    return " to ".join(ends)


def points(difference: float) -> str:
    """A difference of shares in signed percentage points."""
    return f"{difference * 100:+.1f}".replace("-", "\u2212")


def parameters(count: int) -> str:
    """A count of parameters, rounded as people say it.

    >>> parameters(980), parameters(16_900), parameters(4_800_000)
    ('980', '16.9 k', '4.8 M')
    """
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.1f}\u202fk" if count < 999_950 else f"{count / 1e6:.1f}\u202fM"


def duration(seconds: float | None) -> str:
    """Seconds as people say them; a dash for None.

    >>> duration(0.41), duration(42.3), duration(372), duration(7500)
    ('0.4 s', '42 s', '6 min 12 s', '2 h 5 min')
    """
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.1f}\u202fs" if seconds < 9.95 else f"{seconds:.0f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"


def label_counts(evaluation: TaskEvaluation) -> str:
    """How many labels each slot has: `12`, or `6 × 14 × 4`."""
    return " × ".join(str(len(slot.labels)) for slot in evaluation.slots.values())


def _section_view(section: TaskSection, anchor: str) -> SectionView:
    pictures = tuple(
        None if one.picture is None else Markup(draw_clip(one.picture)) for one in section.examples
    )
    return SectionView(
        section, anchor, _verdict(section), _task_plots(section), _slot_views(section), pictures
    )


def _table_view(table: ReportTable) -> TableView:
    """Columns that hold anything; one of figures only stands at the right."""
    columns = []
    for place, heading in enumerate(table.headings):
        cells = [row[place] for row in table.rows]
        if any(cells):
            numeric = all(not cell or cell.lstrip("+-")[:1].isdigit() for cell in cells)
            shown = [cell.replace("-", "\u2212") for cell in cells] if numeric else cells
            columns.append([(heading, cell, numeric) for cell in shown])
    plot = None
    if table.plotted:
        plot = Plot(Markup(plots.study_plot(table.plotted)), "Accuracy", table.key)
    headings = tuple((column[0][0], column[0][2]) for column in columns)
    remarks = table.remarks or ("",) * len(table.rows)
    return TableView(headings, tuple(zip(zip(*columns, strict=True), remarks, strict=True)), table.note, plot)


def _verdict(section: TaskSection) -> str:
    rival = section.baseline("n-gram") or next(iter(section.baselines), None)
    if rival is None:
        return "No baseline was run beside it."
    interval = span(rival.difference, signed=True)
    gap = f"{abs(rival.difference.estimate) * 100:.1f} points"
    if not rival.difference.excludes_zero:
        return f"Not distinguishable from the {rival.name} baseline (difference {interval} points)."
    side = "above" if rival.difference.estimate > 0 else "below"
    return f"{gap} {side} the {rival.name} baseline (95\u202f% interval {interval})."


def _task_plots(section: TaskSection) -> tuple[Plot, ...]:
    accuracies = [("prompt", section.evaluation.accuracy), *((b.name, b.accuracy) for b in section.baselines)]
    # The majority is so far off that beside it no other difference could be seen.
    differences = [(b.name, b.difference) for b in section.baselines if b.name != "majority"]
    svg = plots.accuracy_plot(accuracies, differences)
    drawn = [Plot(Markup(svg), "Beside the baselines", "Accuracy, 95\u202f% intervals.")]
    if section.learning:
        numbers, losses, reached = zip(
            *((p.step, p.train_loss, p.valid_accuracy) for p in section.learning), strict=True
        )
        svg = plots.learning_plot(numbers, losses, reached)
        drawn.append(Plot(Markup(svg), "Learning", "The marked step is the best on valid."))
    speakers = section.evaluation.speakers
    if len(speakers) > 1:
        svg, rest = plots.speaker_plot(speakers), len(speakers) - plots.SPEAKER_COUNT
        caption = "Lowest first; dashed: their mean. Right: utterances."
        if rest > 0:
            caption += f" {rest} speakers with higher accuracy are not shown."
        unknown = section.evaluation.utterance_count - sum(one.utterance_count for one in speakers)
        if unknown:
            caption += f" Of {unknown} utterances the speaker is not known."
        drawn.append(Plot(Markup(svg), "By speaker", caption))
    return tuple(drawn)


def _slot_views(section: TaskSection) -> tuple[SlotView, ...]:
    return tuple(
        SlotView(
            name=name if len(section.evaluation.slots) > 1 else "",
            numbers=_numbers(slot),
            plots=_slot_plots(section, name, slot),
            confusions=_frequent_confusions(slot),
        )
        for name, slot in section.evaluation.slots.items()
    )


def _numbers(slot: SlotEvaluation) -> tuple[tuple[str, str, str], ...]:
    rows = [
        ("Accuracy", percent(slot.accuracy.estimate), span(slot.accuracy)),
        ("Macro F1", percent(slot.macro_f1.estimate), span(slot.macro_f1)),
        ("Unweighted recall", percent(slot.unweighted_average_recall), "mean over labels"),
        ("Calibration error", percent(slot.expected_calibration_error), "confidence against accuracy"),
    ]
    if slot.equal_error_rate is not None:
        rows.append(
            ("Equal error rate", percent(slot.equal_error_rate), f"{slot.labels[0]} against {slot.labels[1]}")
        )
    if slot.top_five_accuracy is not None:
        rows.append(("Top five", percent(slot.top_five_accuracy), "true label in the best five"))
    return tuple(rows)


def _slot_plots(section: TaskSection, name: str, slot: SlotEvaluation) -> tuple[Plot, ...]:
    shown = _shown_labels(slot)
    labels, size = [slot.labels[i] for i in shown], len(shown)
    counts = [[slot.confusion[i][j] for j in shown] for i in shown]
    part = (
        "" if size == len(slot.labels) else f" The {size} of {len(slot.labels):,} labels with most mistakes."
    )
    cut = len(slot.labels) - plots.LABEL_COUNT
    drawn = [
        Plot(
            Markup(plots.confusion_plot(labels, counts)),
            "Confusion",
            "Shade: share of the row."
            + (" Figures: utterances." if size <= plots.ROOM_FOR_COUNTS else "")
            + part,
            plots.confusion_width(size) > plots.NARROW,
        ),
        Plot(
            Markup(plots.label_plot(slot.per_label)),
            "By label",
            "Bar: recall. Tick: precision. Right: utterances. Lowest recall first"
            + (f"; {cut:,} labels more are not shown." if cut > 0 else "."),
        ),
        Plot(
            Markup(plots.reliability_plot(slot.calibration)),
            "Reliability",
            "On the dashed line, confidence means what it says.",
        ),
    ]
    weights = section.verbalizers.get(name)
    if weights is not None:
        rows = [weights.weights[i] for i in shown]
        drawn.append(
            Plot(
                Markup(plots.verbalizer_plot(labels, weights.units, rows)),
                "Verbalizer",
                "First hue: the unit speaks for the label. Second: against it." + part,
                plots.verbalizer_width(len(weights.units)) > plots.NARROW,
            )
        )
    return tuple(sorted(drawn, key=lambda plot: plot.is_wide))


def _shown_labels(slot: SlotEvaluation) -> list[int]:
    """Which labels the grids show: all, or where they are too many those with the most mistakes, in label order."""
    if len(slot.labels) <= plots.LABEL_COUNT:
        return list(range(len(slot.labels)))
    table = np.array(slot.confusion)
    mistakes = table.sum(axis=0) + table.sum(axis=1) - 2 * np.diag(table)
    return sorted(np.argsort(-mistakes, kind="stable")[: plots.LABEL_COUNT].tolist())


def _frequent_confusions(slot: SlotEvaluation) -> tuple[tuple[str, str, int], ...]:
    pairs = [
        (said, answered, count)
        for said, row in zip(slot.labels, slot.confusion, strict=True)
        for answered, count in zip(slot.labels, row, strict=True)
        if count and said != answered
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair[2])[:CONFUSION_COUNT])
