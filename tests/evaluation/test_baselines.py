"""Baselines on toy units, hostile splits, and the published figures of real units."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechprompt.errors import CorpusError, UsageError
from speechprompt.evaluation.baselines import (
    WHOLE,
    Examples,
    LinearProbe,
    Majority,
    NgramBaseline,
    majority,
    run_baseline,
    slot_labels,
)

rng = np.random.default_rng(0)


def toy_units(count: int, seed: int) -> tuple[list[list[int]], list[str]]:
    """Utterances of the same units in two orders: only n-grams tell them apart."""
    random = np.random.default_rng(seed)
    labels = random.choice(["falling", "rising"], count).tolist()
    step = {"rising": 1, "falling": -1}
    units = [[(start + step[label] * i) % 20 for i in range(30)] for start, label in enumerate(labels)]
    return units, labels


def test_ngrams_hear_the_order_of_units() -> None:
    train, test = Examples(*toy_units(40, 0)), Examples(*toy_units(30, 1))
    result = run_baseline(NgramBaseline(), train, test)
    assert result.accuracy == 1
    assert result.interval.low < 1
    assert result.predictions == tuple(test.labels)
    assert result.trained_parameters > 20
    again = run_baseline(NgramBaseline(), train, test)
    assert again.predictions == result.predictions


def test_scores_belong_to_labels_and_agree_with_predictions() -> None:
    units = [[label] * 3 + [9] for label in (1, 2, 3)] * 4
    labels = ["b", "c", "a"] * 4
    for answers in (
        NgramBaseline().fit(units, labels).predict(units),
        LinearProbe().fit(np.eye(3).tolist() * 4, labels).predict(np.eye(3).tolist() * 4),
    ):
        assert answers.labels == ("a", "b", "c")
        assert list(answers.predictions) == labels
        assert answers.scores.shape == (12, 3)
        assert [answers.labels[i] for i in answers.scores.argmax(axis=1)] == labels


def test_unknown_units_and_silent_utterances_are_answered() -> None:
    units, labels = toy_units(20, 0)
    answers = NgramBaseline().fit(units, labels).predict([[], [999, 998], units[0]])
    assert len(answers.predictions) == 3
    assert answers.predictions[2] == labels[0]


def test_a_folder_of_two_clips_still_has_ngrams() -> None:
    answers = NgramBaseline().fit([[1, 2], [3, 4]], ["a", "b"]).predict([[3, 4]])
    assert answers.predictions == ("b",)


def test_ngrams_of_one_clip_a_label_are_kept() -> None:
    """With one clip a label every n-gram of two clips is one of two labels: what tells them apart is in one alone."""
    inputs, labels = [[1, 2, 3, 9], [4, 5, 6, 9], [7, 8, 3, 9]], ["a", "b", "c"]
    svm = NgramBaseline().fit(inputs, labels)
    assert svm.trained_parameters == 3 * 23 + 3  # 3 clips of 9 n-grams; 9 is in all, 3 and 3 9 in two
    assert svm.predict([[2], [5, 6], [7, 8]]).predictions == ("a", "b", "c")
    twice = NgramBaseline().fit([*inputs, [1, 2, 0]], [*labels, "a"])
    assert twice.trained_parameters == 3 * 6 + 3  # 1, 2, 3, 9, 1 2 and 3 9


def test_majority_is_learned_from_train_not_peeked_from_test() -> None:
    result = majority(["a", "a", "b"], ["b", "b", "b", "a"], speakers=["s", "s", "t", "t"])
    assert result.predictions == ("a",) * 4
    assert result.accuracy == 0.25
    assert majority(["b", "a"], ["a"]).predictions == ("a",)
    assert Majority().fit([0, 0, 0], ["b", "b", "a"]).predict([1]).scores.tolist() == [[1 / 3, 2 / 3]]


def test_probe_chooses_its_strength_on_valid_alone() -> None:
    """Next to no strength answers the majority always: right only where valid says so."""
    features = np.r_[rng.normal(-3, 1, (30, 2)), rng.normal(3, 1, (10, 2))]
    labels = ["a"] * 30 + ["b"] * 10
    for valid_labels, strength in ((labels, 1.0), (["a"] * 40, 1e-9)):
        probe = LinearProbe(strengths=(1e-9, 1.0)).fit(features, labels, (features, valid_labels))
        assert probe.strength == strength
        assert probe.trained_parameters == 3
        assert len(set(probe.predict(features).predictions)) == (2 if strength == 1 else 1)


def test_probe_ignores_the_scale_of_features_and_constant_ones() -> None:
    features = rng.normal(size=(60, 4))
    labels = np.where(features[:, 0] > 0, "yes", "no").tolist()
    scaled = np.c_[features * [1e-6, 1e6, 1, 1] + 5, np.full(60, 3.0)]
    plain = LinearProbe().fit(features, labels).predict(features)
    assert LinearProbe().fit(scaled, labels).predict(scaled).predictions == plain.predictions


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: majority([], ["a"]), CorpusError),
        (lambda: majority(["a"], []), CorpusError),
        (lambda: NgramBaseline().fit([], []), CorpusError),
        (lambda: NgramBaseline().fit([[1], [2]], ["a", "a"]), CorpusError),
        (lambda: NgramBaseline().fit([[], []], ["a", "b"]), CorpusError),
        (lambda: LinearProbe().fit([[1.0], [2.0]], ["a", "a"]), CorpusError),
        (lambda: LinearProbe().fit([[1.0], [2.0]], ["a", "b", "a"]), CorpusError),
        (lambda: LinearProbe().fit([[np.nan], [2.0]], ["a", "b"]), UsageError),
        (lambda: LinearProbe().fit([1.0, 2.0], ["a", "b"]), UsageError),
        (lambda: Examples([[1]], ["a", "b"]), CorpusError),
        (lambda: slot_labels([{"a": "x"}], "b"), CorpusError),
        (lambda: slot_labels([{"a": "x · y", "b": "z"}, {"a": "x", "b": "y · z"}], WHOLE), CorpusError),
    ],
)
def test_splits_that_teach_nothing_are_refused(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_whole_labels_join_slots_in_one_order() -> None:
    rows = [{"action": "on", "place": "hall"}, {"place": "hall", "action": "off"}]
    assert slot_labels(rows, WHOLE) == ["on · hall", "off · hall"]
    assert slot_labels(rows, "action") == ["on", "off"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("corpus", "slot", "field", "train", "test", "published"),
    [
        ("esd_en", "emotion", "split", "train", "test", 0.432),
        ("esd_en", "emotion", "official_split", "test", "valid", 0.386),
        ("vctk", "gender", "split", "train", "test", 0.745),
    ],
)
def test_published_figures(
    shared: Path, corpus: str, slot: str, field: str, train: str, test: str, published: float
) -> None:
    with gzip.open(shared / "data" / "units" / f"{corpus}_hubert100.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines][1:]
    parts = [
        Examples([r["units"] for r in chosen], [r["labels"][slot] for r in chosen])
        for chosen in ([r for r in rows if r[field] == name] for name in (train, test))
    ]
    assert run_baseline(NgramBaseline(), *parts).accuracy == pytest.approx(published, abs=0.0006)
