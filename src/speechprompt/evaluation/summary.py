"""From the answers to a test split to its numbers, with intervals: one value that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import UsageError, WorkError
from speechprompt.metrics import (
    CalibrationBin,
    Interval,
    accuracy_interval,
    calibration_bins,
    confusion_matrix,
    equal_error_rate,
    expected_calibration_error,
    macro_f1_interval,
    top_k_accuracy,
    unweighted_average_recall,
)

MANY_LABELS = 10
TOP_LABELS = 5

ValueT = TypeVar("ValueT")


class SlotAnswer(NamedTuple):
    """What was said, what was answered, and the probabilities (C,) in the slot's label order."""

    true: str
    predicted: str
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class AnsweredUtterance:
    """One utterance of the test split with the answer of every slot."""

    id: str
    slots: Mapping[str, SlotAnswer]
    speaker: str | None = None

    @property
    def is_right(self) -> bool:
        """True when every slot is right."""
        return all(answer.true == answer.predicted for answer in self.slots.values())


@dataclass(frozen=True, slots=True)
class LabelEvaluation:
    """How often a label is recognised (None when it never occurs), and how often it was said and answered."""

    label: str
    recall: float | None
    precision: float | None
    true_count: int
    predicted_count: int


@dataclass(frozen=True, slots=True)
class SlotEvaluation:
    """The numbers of one slot.

    `confusion` (C, C) has a row per true label. `equal_error_rate` exists for two labels that both occur, the
    second one being the positive (two probabilities sum to one, so the first gives the same rate);
    `top_five_accuracy` for more than ten labels.
    """

    labels: tuple[str, ...]
    accuracy: Interval
    macro_f1: Interval
    unweighted_average_recall: float
    expected_calibration_error: float
    equal_error_rate: float | None
    top_five_accuracy: float | None
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[CalibrationBin, ...]

    @property
    def per_label(self) -> tuple[LabelEvaluation, ...]:
        """Recall and precision of each label, in label order."""
        counts = np.array(self.confusion)
        said, answered, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
        return tuple(
            LabelEvaluation(
                label=label,
                recall=float(right[i] / said[i]) if said[i] else None,
                precision=float(right[i] / answered[i]) if answered[i] else None,
                true_count=int(said[i]),
                predicted_count=int(answered[i]),
            )
            for i, label in enumerate(self.labels)
        )


@dataclass(frozen=True, slots=True)
class SpeakerEvaluation:
    """One speaker's utterances: how many, and the share that is right in every slot."""

    speaker: str
    utterance_count: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class TaskEvaluation:
    """The numbers of a task: an utterance is right when every slot is.

    `interval_over` says what the bootstrap drew: speakers when at least two are known, and then utterances of nobody
    known by themselves.
    `speakers` are those that are known, by name.
    """

    accuracy: Interval
    utterance_count: int
    speaker_count: int | None
    interval_over: Literal["speakers", "utterances"]
    slots: Mapping[str, SlotEvaluation]
    speakers: tuple[SpeakerEvaluation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> Self:
        """The inverse of `to_json`. WorkError when the document is something else."""
        return read_json(cls, document)


def summarise(
    rows: Sequence[AnsweredUtterance], slot_labels: Mapping[str, Sequence[str]], seed: int = 0
) -> TaskEvaluation:
    """The numbers of a task from the answers to its test split.

    `slot_labels` maps slot to its ordered labels. Side effects: none; `seed` draws the bootstraps. UsageError
    when there are no rows, a row has other slots, a label is unknown, or scores are not probabilities (C,).
    """
    if not rows:
        raise UsageError("no answered utterances to summarise; is the test split empty?")
    for row in rows:
        if set(row.slots) != set(slot_labels):
            raise UsageError(f"utterance '{row.id}' answers {sorted(row.slots)}, not {sorted(slot_labels)}")
    speakers = [row.speaker for row in rows]
    groups = interval_groups(speakers)
    return TaskEvaluation(
        accuracy=accuracy_interval(rightness(rows), groups, seed),
        utterance_count=len(rows),
        speaker_count=None if None in speakers else len(set(speakers)),
        interval_over="utterances" if groups is None else "speakers",
        slots={
            slot: _summarise_slot(rows, slot, tuple(labels), groups, seed)
            for slot, labels in slot_labels.items()
        },
        speakers=_by_speaker(rows),
    )


def rightness(rows: Sequence[AnsweredUtterance]) -> NDArray[np.bool_]:
    """Which utterances (B,) are right in every slot: the input of paired tests and intervals over seeds."""
    return np.array([row.is_right for row in rows], dtype=bool)


def interval_groups(
    speakers: Sequence[str | None] | None, ids: Sequence[str] | None = None
) -> Sequence[str] | None:
    """What an interval draws, an entry an utterance: its speaker, or itself where nobody is known.

    None where fewer than two speakers are known: utterances are drawn. `ids` name the utterances, by default numbers.
    """
    known = [speaker for speaker in speakers or () if speaker is not None]
    if speakers is None or len(set(known)) < 2:
        return None
    if len(known) == len(speakers):
        return known
    names = [str(i) for i in range(len(speakers))] if ids is None else ids
    return [
        f"utterance {name}" if speaker is None else f"speaker {speaker}"
        for speaker, name in zip(speakers, names, strict=True)
    ]


def read_json(kind: type[ValueT], document: object) -> ValueT:
    """A dataclass from what `asdict` made of it. WorkError naming the first field that does not fit."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WorkError(f"not a {kind.__name__}: {where or 'document'}: {first['msg']}") from None


def _by_speaker(rows: Sequence[AnsweredUtterance]) -> tuple[SpeakerEvaluation, ...]:
    right: dict[str, list[bool]] = {}
    for row in rows:
        if row.speaker is not None:
            right.setdefault(row.speaker, []).append(row.is_right)
    return tuple(
        SpeakerEvaluation(speaker, len(answers), sum(answers) / len(answers))
        for speaker, answers in sorted(right.items())
    )


def _summarise_slot(
    rows: Sequence[AnsweredUtterance],
    slot: str,
    labels: tuple[str, ...],
    groups: Sequence[str] | None,
    seed: int,
) -> SlotEvaluation:
    answers = [row.slots[slot] for row in rows]
    true, predicted = [a[0] for a in answers], [a[1] for a in answers]
    confusion = confusion_matrix(true, predicted, labels)
    probabilities = _probabilities(answers, slot, len(labels))
    right = np.array([a == b for a, b in zip(true, predicted, strict=True)])
    index = {label: position for position, label in enumerate(labels)}
    true_indices = np.array([index[label] for label in true])
    confidences = probabilities[np.arange(len(rows)), [index[label] for label in predicted]]
    two_occur = len(labels) == 2 and 0 < true_indices.sum() < len(rows)
    return SlotEvaluation(
        labels=labels,
        accuracy=accuracy_interval(right, groups, seed),
        macro_f1=macro_f1_interval(true, predicted, groups, seed),
        unweighted_average_recall=unweighted_average_recall(true, predicted),
        expected_calibration_error=expected_calibration_error(confidences, right),
        equal_error_rate=equal_error_rate(probabilities[:, 1], true_indices == 1) if two_occur else None,
        top_five_accuracy=(
            top_k_accuracy(true_indices, probabilities, TOP_LABELS) if len(labels) > MANY_LABELS else None
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        calibration=tuple(calibration_bins(confidences, right)),
    )


def _probabilities(answers: Sequence[SlotAnswer], slot: str, label_count: int) -> NDArray[np.float64]:
    widths = {len(answer[2]) for answer in answers}
    if widths != {label_count}:
        raise UsageError(f"slot '{slot}' has {label_count} labels but answers carry {sorted(widths)} scores")
    table = np.array([answer[2] for answer in answers], dtype=np.float64)
    sums = table.sum(axis=1)
    # A sum in half precision over many labels strays by up to a percent.
    if not (np.all(table >= 0) and np.all(np.abs(sums - 1) < 1e-2)):
        raise UsageError(
            f"the scores of slot '{slot}' are not probabilities; apply a softmax over its labels"
        )
    return np.minimum(table, 1.0)
