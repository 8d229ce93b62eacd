"""Numbers of a task from answered utterances: right ones, and refusals of what cannot be summarised."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from speechprompt import metrics
from speechprompt.errors import UsageError, WorkError
from speechprompt.evaluation.summary import (
    AnsweredUtterance,
    SlotAnswer,
    TaskEvaluation,
    interval_groups,
    rightness,
    summarise,
)

SLOTS = {"action": ("on", "off"), "place": ("hall", "bath", "attic")}


def answered(count: int = 60, seed: int = 0, speakers: int | None = 5) -> list[AnsweredUtterance]:
    """Answers of a classifier that is mostly right; the score vectors are softmaxes."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        slots = {}
        for slot, labels in SLOTS.items():
            true = int(rng.integers(len(labels)))
            logits = rng.normal(size=len(labels)) + 1.5 * np.eye(len(labels))[true]
            scores = np.exp(logits) / np.exp(logits).sum()
            slots[slot] = SlotAnswer(labels[true], labels[int(scores.argmax())], tuple(scores.tolist()))
        speaker = None if speakers is None else f"s{number % speakers}"
        rows.append(AnsweredUtterance(f"u{number}", slots, speaker))
    return rows


def test_a_task_is_right_when_every_slot_is() -> None:
    rows = answered()
    task = summarise(rows, SLOTS)
    both = [all(a.true == a.predicted for a in row.slots.values()) for row in rows]
    assert task.accuracy.estimate == np.mean(both) == rightness(rows).mean()
    assert all(task.accuracy.estimate <= slot.accuracy.estimate for slot in task.slots.values())
    assert (task.utterance_count, task.speaker_count, task.interval_over) == (60, 5, "speakers")


def test_slot_numbers_are_those_of_metrics() -> None:
    rows = answered()
    slot = summarise(rows, SLOTS, seed=3).slots["action"]
    true, predicted = zip(*((r.slots["action"].true, r.slots["action"].predicted) for r in rows), strict=True)
    positive = [label == "off" for label in true]
    assert slot.equal_error_rate == metrics.equal_error_rate(
        [r.slots["action"].scores[1] for r in rows], positive
    )
    assert slot.macro_f1.estimate == metrics.macro_f1(true, predicted)
    assert np.array(slot.confusion).sum() == len(rows)
    assert sum(b.count for b in slot.calibration) == len(rows)
    assert slot.per_label[0].true_count == true.count("on")
    assert slot.top_five_accuracy is None
    assert summarise(rows, SLOTS).slots["place"].equal_error_rate is None


def test_the_equal_error_rate_does_not_ask_which_label_comes_first() -> None:
    rows = answered()
    turned = [
        AnsweredUtterance(
            row.id, {"action": row.slots["action"]._replace(scores=tuple(row.slots["action"].scores)[::-1])}
        )
        for row in rows
    ]
    one = summarise(rows, SLOTS).slots["action"].equal_error_rate
    other = summarise(turned, {"action": SLOTS["action"][::-1]}).slots["action"].equal_error_rate
    assert one == pytest.approx(other, abs=1e-12)


def test_speakers_are_counted_one_by_one() -> None:
    rows = answered(60, speakers=7)
    found = {one.speaker: (one.utterance_count, one.accuracy) for one in summarise(rows, SLOTS).speakers}
    for speaker in {row.speaker for row in rows}:
        own = [row.is_right for row in rows if row.speaker == speaker]
        assert found[speaker] == (len(own), np.mean(own))
    assert list(found) == sorted(found)
    assert summarise(answered(speakers=None), SLOTS).speakers == ()


def test_one_seed_gives_the_same_bytes_and_json_brings_it_back() -> None:
    first, second = (summarise(answered(), SLOTS, seed=1) for _ in range(2))
    text = json.dumps(first.to_json(), allow_nan=False)
    assert text == json.dumps(second.to_json())
    assert TaskEvaluation.from_json(json.loads(text)) == first


def test_labels_that_never_occur_have_no_recall() -> None:
    rows = [AnsweredUtterance("u", {"s": SlotAnswer("a", "a", (0.5, 0.3, 0.2))})]
    slot = summarise(rows, {"s": ("a", "b", "c")}).slots["s"]
    assert [label.recall for label in slot.per_label] == [1.0, None, None]
    assert slot.accuracy.low < 0.05


def test_two_labels_of_which_one_occurs_have_no_equal_error_rate() -> None:
    rows = [AnsweredUtterance(str(i), {"s": SlotAnswer("a", "a", (0.9, 0.1))}) for i in range(3)]
    assert summarise(rows, {"s": ("a", "b")}).slots["s"].equal_error_rate is None


def test_speakers_carry_the_interval_when_two_are_known() -> None:
    assert summarise(answered(speakers=None), SLOTS).interval_over == "utterances"
    assert summarise(answered(speakers=1), SLOTS).interval_over == "utterances"
    assert interval_groups(["a", None]) is None
    assert interval_groups(["a", "b"]) == ["a", "b"]
    assert interval_groups(None) is None
    assert interval_groups(["a", None, "b", None]) == ["speaker a", "utterance 1", "speaker b", "utterance 3"]
    assert interval_groups(["a", None, "b"], ["x", "y", "z"]) == ["speaker a", "utterance y", "speaker b"]


def test_a_clip_of_nobody_known_does_not_make_the_others_independent() -> None:
    rows = answered(speakers=5)
    odd = [replace(rows[0], speaker=None), *rows[1:]]
    whole, one_less = summarise(rows, SLOTS), summarise(odd, SLOTS)
    assert (one_less.interval_over, one_less.speaker_count) == ("speakers", None)
    widths = [found.accuracy.high - found.accuracy.low for found in (whole, one_less)]
    alone = summarise([replace(row, speaker=None) for row in rows], SLOTS).accuracy
    assert abs(widths[1] - widths[0]) < abs(widths[1] - (alone.high - alone.low))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [AnsweredUtterance("u", {})],
        [AnsweredUtterance("u", {"other": SlotAnswer("a", "a", (1.0, 0.0))})],
        [AnsweredUtterance("u", {"s": SlotAnswer("c", "a", (1.0, 0.0))})],
        [AnsweredUtterance("u", {"s": SlotAnswer("a", "a", (1.0,))})],
        [AnsweredUtterance("u", {"s": SlotAnswer("a", "a", (7.2, -3.0))})],
        [AnsweredUtterance("u", {"s": SlotAnswer("a", "a", (float("nan"), 1.0))})],
    ],
)
def test_what_cannot_be_summarised_is_refused(rows: list[AnsweredUtterance]) -> None:
    with pytest.raises(UsageError) as refusal:
        summarise(rows, {"s": ("a", "b")})
    assert "\n" not in str(refusal.value)


def test_a_foreign_document_is_refused_by_field() -> None:
    document = summarise(answered(), SLOTS).to_json()
    document["accuracy"] = {"estimate": "high", "low": 0, "high": 1}
    with pytest.raises(WorkError, match=r"accuracy\.estimate"):
        TaskEvaluation.from_json(document)
    with pytest.raises(WorkError):
        TaskEvaluation.from_json([1, 2])
