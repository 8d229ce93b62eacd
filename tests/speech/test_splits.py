"""Splits, folds and shots: speakers stay whole, labels stay represented, and the draw repeats itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import CorpusError, UnknownName, UsageError
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.splits import (
    canonical_split,
    draw_splits,
    folds,
    require_labels,
    require_trainable,
    shots,
    with_fold,
)
from speechprompt.speech.units import Units


def corpus(
    count: int, labels: int = 2, speakers: int | None = None, split: str = "train", skew: int = 1
) -> Corpus:
    rows = tuple(
        Utterance(
            f"clip{i}",
            split,
            {"label": f"label{i // skew % labels}"},
            units=Units([i]),
            speaker=None if speakers is None else f"s{(i * 7919) % speakers}",
        )
        for i in range(count)
    )
    return Corpus("toy", rows, {"label": tuple(f"label{i}" for i in range(labels))})


@pytest.mark.parametrize(
    ("written", "means"),
    [("dev", "valid"), ("val", "valid"), ("validation", "valid"), ("eval", "test"), ("evaluation", "test")]
    + [(name, name) for name in ("train", "valid", "test", "fold1", "fold10")]
    + [(name, None) for name in ("fold0", "fold", "folds1", "train1", "", "holdout", "fold01")],
)
def test_split_names(written: str, means: str | None) -> None:
    assert canonical_split(written) == means


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.none() | st.integers(1, 12), st.integers(0, 5))
def test_drawn_splits_keep_speakers_whole_and_every_label_in_train(
    count: int, labels: int, speakers: int | None, seed: int
) -> None:
    rows = corpus(count, labels, speakers).utterances
    drawn, text = draw_splits(rows, seed)
    assert [u.id for u in drawn] == [u.id for u in rows]
    assert {u.labels["label"] for u in drawn} == {u.labels["label"] for u in drawn if u.split == "train"}
    if "grouped by speaker" in text:
        of_speaker = defaultdict(set)
        for utterance in drawn:
            of_speaker[utterance.speaker].add(utterance.split)
        assert all(len(splits) == 1 for splits in of_speaker.values())
    elif count >= 3 * labels:
        for split in ("valid", "test"):
            assert {u.labels["label"] for u in drawn if u.split == split} == {
                f"label{i}" for i in range(labels)
            }
    assert draw_splits(rows, seed)[0] == drawn
    backwards = draw_splits(rows[::-1], seed)[0]
    assert {u.id: u.split for u in backwards} == {u.id: u.split for u in drawn}


@given(st.integers(0, 20))
@settings(deadline=None, max_examples=10)
def test_adding_files_moves_no_other_file(seed: int) -> None:
    before = {u.id: u.split for u in draw_splits(corpus(400).utterances, seed)[0]}
    after = {u.id: u.split for u in draw_splits(corpus(900).utterances, seed)[0]}
    assert {name: after[name] for name in before} == before
    shares = Counter(after.values())
    assert 50 < shares["valid"] < 140
    assert 50 < shares["test"] < 140


def test_spans_of_one_recording_stay_together() -> None:
    rows = [
        Utterance(f"u{i}", "", {"label": "ab"[i % 2]}, Path(f"/d/{i // 4}.wav"), float(i % 4), i % 4 + 1.0)
        for i in range(80)
    ]
    drawn, text = draw_splits(rows, 0)
    assert "grouped by recording" in text
    assert all(len({u.split for u in drawn if u.audio == row.audio}) == 1 for row in rows)


@pytest.mark.parametrize("speakers", [None, 2])
def test_spans_stay_together_whatever_their_files_are_called(speakers: int | None) -> None:
    """Every recording is `audio/mic.wav` in a folder of its own, and two speakers are too few to draw by."""
    rows = [
        Utterance(
            f"u{i}",
            "",
            {"label": "ab"[i % 2]},
            Path(f"/d/interview{i // 10:02}/audio/mic.wav"),
            float(i % 10),
            i % 10 + 2.0,
            speaker=None if speakers is None else f"s{i // 10 % speakers}",
        )
        for i in range(200)
    ]
    drawn, text = draw_splits(rows, 0)
    assert "grouped by recording" in text
    assert all(len({u.split for u in drawn if u.audio == row.audio}) == 1 for row in rows)


def test_two_speakers_cannot_make_three_splits_so_utterances_are_drawn() -> None:
    drawn, text = draw_splits(corpus(40, speakers=2).utterances, 0)
    assert "grouped by utterance" in text
    assert {u.split for u in drawn} == {"train", "valid", "test"}


@settings(deadline=None)
@given(st.integers(3, 6), st.integers(12, 60), st.none() | st.integers(6, 20), st.integers(0, 3))
def test_each_utterance_is_tested_once_and_groups_stay_whole(
    k: int, count: int, speakers: int | None, seed: int
) -> None:
    whole = corpus(count, speakers=speakers)
    rounds = folds(whole, k, seed)
    assert len(rounds) == k
    assert sorted(i for fold in rounds for i in fold.test) == sorted(u.id for u in whole.utterances)
    speaker = {u.id: u.speaker or u.id for u in whole.utterances}
    for fold in rounds:
        assert sorted([*fold.train, *fold.valid, *fold.test]) == sorted(speaker)
        for one, other in ((fold.train, fold.valid), (fold.train, fold.test), (fold.valid, fold.test)):
            assert not {speaker[i] for i in one} & {speaker[i] for i in other}
    assert folds(whole, k, seed) == rounds


def test_folds_are_stratified() -> None:
    whole = corpus(100, labels=4)
    label = {u.id: u.labels["label"] for u in whole.utterances}
    for fold in folds(whole, 5):
        assert set(Counter(label[i] for i in fold.test).values()) == {5}


def test_folds_of_the_corpus_are_kept() -> None:
    whole = corpus(20)
    published = replace(
        whole,
        utterances=tuple(replace(u, split=f"fold{i % 5 + 1}") for i, u in enumerate(whole.utterances)),
    )
    rounds = folds(published, 5)
    assert set(rounds[0].test) == {"clip0", "clip5", "clip10", "clip15"}
    assert set(rounds[0].valid) == {"clip1", "clip6", "clip11", "clip16"}
    first = with_fold(published, rounds[0])
    assert first.splits() == {"train": 12, "valid": 4, "test": 4}
    with pytest.raises(UsageError, match="5 folds, not 4"):
        folds(published, 4)


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(UsageError, match="3 or more"):
        folds(corpus(20), 2)
    with pytest.raises(CorpusError, match="4 speakers, too few for 5 folds; ask for 4"):
        folds(corpus(20, speakers=4), 5)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 4))
def test_shots_are_nested_exact_and_leave_the_tests_alone(few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))
    whole = corpus(60, labels=3)
    whole = replace(
        whole,
        utterances=(*whole.utterances, *(replace(u, id=f"t{u.id}", split="test") for u in whole.utterances)),
    )
    small, large = shots(whole, "label", few, seed), shots(whole, None, more, seed)
    assert {u.id for u in small.split("train")} <= {u.id for u in large.split("train")}
    assert set(Counter(u.labels["label"] for u in small.split("train")).values()) == {few}
    assert small.split("test") == whole.split("test")


def test_shots_say_when_there_are_fewer_and_name_unknown_slots() -> None:
    whole = corpus(5, labels=2)
    few = shots(whole, ["label"], 3)
    assert Counter(u.labels["label"] for u in few.utterances) == {"label0": 3, "label1": 2}
    assert few.notices == ("'label1' has 2 training utterances, fewer than 3",)
    with pytest.raises(UnknownName, match="did you mean label"):
        shots(whole, "labels", 1)
    with pytest.raises(UsageError, match="1 or more"):
        shots(whole, None, 0)


def test_what_cannot_be_trained_on_is_refused() -> None:
    require_trainable(corpus(4))
    with pytest.raises(CorpusError, match="no labels"):
        require_trainable(replace(corpus(4), slots={}))
    with pytest.raises(CorpusError, match="no train split, only test"):
        require_trainable(corpus(4, split="test"))
    with pytest.raises(CorpusError, match="one label, 'label0'"):
        require_trainable(corpus(4, labels=1))
    bare = Utterance("bare", "train", {}, units=Units([1]))
    partly = replace(corpus(4), utterances=(*corpus(4).utterances, bare))
    with pytest.raises(CorpusError, match="'bare' has no label for label"):
        require_trainable(partly)
    with pytest.raises(CorpusError, match="'bare' has no label for label"):
        require_labels(partly, ["label"])
    foreign = Utterance("odd", "valid", {"label": "label9"}, units=Units([1]))
    whole = corpus(4)
    with pytest.raises(CorpusError, match="'odd' in valid has label 'label9'"):
        require_trainable(replace(whole, utterances=(*whole.utterances, foreign)))
