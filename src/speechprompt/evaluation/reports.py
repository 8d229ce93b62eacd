"""A report: plain values that JSON can hold, and the one HTML file that shows them.

The file needs nothing but itself: styles, plots and clips are inside, and its content policy forbids requests
and scripts. It knows numbers and words; it does not know corpora, models or audio files.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from speechprompt.errors import OutputExists, UsageError
from speechprompt.evaluation.baselines import LABEL_JOINT, BaselineResult
from speechprompt.evaluation.clips import ClipPicture
from speechprompt.evaluation.summary import (
    AnsweredUtterance,
    TaskEvaluation,
    interval_groups,
    read_json,
    rightness,
)
from speechprompt.metrics import Interval, paired_difference_interval

EXAMPLE_COUNT = 16
UNIT_COUNT = 40
LOSSLESS_SECONDS = 10.0
"""Longer clips are compressed: a report is one file that people mail."""


@dataclass(frozen=True, slots=True)
class BaselineScore:
    """A baseline beside the prompt; `difference` is prompt minus baseline on the same utterances."""

    name: str
    accuracy: Interval
    macro_f1: float
    difference: Interval
    trained_parameters: int
    seconds: float

    @classmethod
    def beside(cls, result: BaselineResult, rows: Sequence[AnsweredUtterance], seed: int = 0) -> Self:
        """Compare a baseline with the prompt's answers `rows`, in the order of the baseline's predictions.

        The baseline answered all slots as one label. UsageError when it answered other utterances.
        """
        right = [p == joined_labels(row)[0] for p, row in zip(result.predictions, rows, strict=False)]
        if len(result.predictions) != len(rows) or abs(np.mean(right) - result.accuracy) > 1e-9:
            raise UsageError(
                f"baseline '{result.name}' was not scored on these {len(rows)} utterances in order"
            )
        groups = interval_groups([row.speaker for row in rows])
        return cls(
            name=result.name,
            accuracy=result.interval,
            macro_f1=result.macro_f1,
            difference=paired_difference_interval(rightness(rows), right, groups, seed),
            trained_parameters=result.trained_parameters,
            seconds=result.seconds,
        )


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """A point of the learning curve: the loss since the last one and, where valid was scored, the accuracy on it."""

    step: int
    train_loss: float | None = None
    valid_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class VerbalizerMap:
    """Weights (C, U) of the named units for a slot's labels."""

    labels: tuple[str, ...]
    units: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """An answered utterance to look at; `audio` is a `data:` URI of its clip, or None.

    `excerpt` says which part of a long clip that is. UsageError when `audio` points outside the report.
    """

    id: str
    true: str
    predicted: str
    score: float
    is_right: bool
    audio: str | None = None
    excerpt: str = ""
    picture: ClipPicture | None = None

    def __post_init__(self) -> None:
        if self.audio is not None and not self.audio.startswith("data:audio/"):
            raise UsageError(f"the clip of example '{self.id}' must be embedded as a data:audio/ URI")


@dataclass(frozen=True, slots=True)
class TaskSection:
    """Everything about one task; empty parts are left out of the page. Seconds are those of training."""

    name: str
    evaluation: TaskEvaluation
    trained_parameters: int
    seconds: float | None = None
    baselines: tuple[BaselineScore, ...] = ()
    learning: tuple[LearningPoint, ...] = ()
    verbalizers: Mapping[str, VerbalizerMap] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    notices: tuple[str, ...] = ()

    def baseline(self, name: str) -> BaselineScore | None:
        """The baseline of that name, if it was run."""
        return next((score for score in self.baselines if score.name == name), None)


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A row of a study in numbers, for its plot; `tick` an accuracy to compare with, published or a ceiling."""

    name: str
    ours: Interval
    baseline: Interval | None = None
    tick: float | None = None


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of a study as people read it: cells are words; empty columns are left out of the page.

    `remarks` is empty or has a text a row, which stands below it. `plotted` are the rows that are also drawn;
    `key` says what the drawing's marks are.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()
    note: str = ""
    plotted: tuple[StudyRow, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A title, a section a task, and where the numbers come from (versions, seed, fingerprints, command).

    `table` stands before the sections, and may stand alone.
    """

    title: str
    sections: tuple[TaskSection, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)
    subtitle: str = ""
    table: ReportTable | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> Self:
        """The inverse of `to_json`. WorkError naming the first field that does not fit."""
        return read_json(cls, document)


def joined_labels(row: AnsweredUtterance) -> tuple[str, str]:
    """The true and the predicted label of an utterance, several slots joined as one."""
    answers = list(row.slots.values())
    return LABEL_JOINT.join(a[0] for a in answers), LABEL_JOINT.join(a[1] for a in answers)


def pick_examples(
    rows: Sequence[AnsweredUtterance],
    slot_labels: Mapping[str, Sequence[str]],
    count: int = EXAMPLE_COUNT,
) -> tuple[Example, ...]:
    """The most confident mistakes, then the least confident right answers: where listening teaches most.

    They come without clips and pictures. The score is the product over slots of the answer's probability.
    """
    examples = [_example(row, slot_labels) for row in rows]
    mistakes = sorted((e for e in examples if not e.is_right), key=lambda e: (-e.score, e.id))
    right = sorted((e for e in examples if e.is_right), key=lambda e: (e.score, e.id))
    shown = mistakes[: max(count * 3 // 4, count - len(right))]
    return tuple(shown + right[: count - len(shown)])


def verbalizer_map(
    labels: Sequence[str], units: Sequence[str], weights: ArrayLike, limit: int = UNIT_COUNT
) -> VerbalizerMap:
    """Weights (C, V) reduced to at most `limit` units: in turn each label's strongest, in unit order.

    UsageError when the weights do not fit the labels and units.
    """
    table = np.asarray(weights, dtype=np.float64)
    if table.shape != (len(labels), len(units)) or not np.isfinite(table).all():
        raise UsageError(f"verbalizer weights {table.shape} for {len(labels)} labels and {len(units)} units")
    by_strength = np.argsort(-np.abs(table), axis=1, kind="stable").T.ravel()
    kept = sorted(list(dict.fromkeys(by_strength.tolist()))[:limit])
    rows = tuple(tuple(round(value, 6) for value in row) for row in table[:, kept].tolist())
    return VerbalizerMap(tuple(labels), tuple(units[index] for index in kept), rows)


def embedded_clip(waveform: ArrayLike, sample_rate: int) -> str:
    """A waveform (S,) as a `data:` URI that browsers play: FLAC, or MP3 from `LOSSLESS_SECONDS` on."""
    import soundfile

    samples, buffer = np.asarray(waveform), BytesIO()
    if len(samples) <= LOSSLESS_SECONDS * sample_rate:
        soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
        kind = "flac"
    else:
        soundfile.write(buffer, samples, sample_rate, format="MP3", subtype="MPEG_LAYER_III")
        kind = "mpeg"
    return f"data:audio/{kind};base64,{b64encode(buffer.getvalue()).decode()}"


def render_report(report: Report) -> str:
    """The report as one HTML document. UsageError when it has neither section nor table."""
    # jinja2 and the plots load only when a page is drawn.
    from speechprompt.evaluation.page import render_page

    if not report.sections and report.table is None:
        raise UsageError("a report needs at least one task, or a table")
    return render_page(report)


def write_report(report: Report, path: Path, force: bool = False) -> Path:
    """Write the report to `path`, whole or not at all. OutputExists unless `force`. Side effect: a file."""
    if path.exists() and not force:
        raise OutputExists(path)
    document = render_report(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # File names that are not UTF-8 reach Python as lone surrogates.
        unfinished.write_bytes(document.encode("utf-8", errors="replace"))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _example(row: AnsweredUtterance, slot_labels: Mapping[str, Sequence[str]]) -> Example:
    score = 1.0
    for slot, (_, predicted, scores) in row.slots.items():
        score *= scores[list(slot_labels[slot]).index(predicted)]
    true, answered = joined_labels(row)
    return Example(row.id, true, answered, float(score), row.is_right)
