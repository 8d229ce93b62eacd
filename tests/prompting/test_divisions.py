"""What prompts that validate in turn learn from: nothing is tested, every clip has its turn, speakers stay whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from speechprompt.prompting.members import FEW_PARTS, divisions
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.train import train
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.splits import shots
from speechprompt.testing import toy_corpus
from toys import SPOKEN

CORPUS = toy_corpus(240).with_slots(["word"])
FEW = shots(CORPUS, None, 4)


def speaking(corpus: Corpus, train_speakers: int, valid_speakers: int) -> Corpus:
    """The corpus with so many speakers in train, and so many others in valid."""
    counts = {"train": train_speakers, "valid": valid_speakers, "test": 1}
    place: Counter[str] = Counter()
    rows = []
    for u in corpus.utterances:
        rows.append(replace(u, speaker=f"{u.split} {place[u.split] % counts[u.split]}"))
        place[u.split] += 1
    return replace(corpus, utterances=tuple(rows))


def check(corpus: Corpus, count: int, whole: bool) -> list[int]:
    """Every division is one of train and valid; the sizes of its validation."""
    learnt = sorted(u.id for split in ("train", "valid") for u in corpus.split(split))
    sizes = []
    for taught, judged in divisions(corpus, count):
        assert sorted(u.id for u in (*taught, *judged)) == learnt
        assert judged
        assert {u.labels["word"] for u in taught} == set(corpus.slots["word"])
        assert {u.speaker for u in taught}.isdisjoint({u.speaker for u in judged}) == whole
        sizes.append(len(judged))
    return sizes


def test_few_clips_are_all_divided() -> None:
    few = speaking(FEW, 6, 6)
    total = len(few.split("train")) + len(few.split("valid"))
    assert 2 * len(few.split("valid")) > len(few.split("train"))
    sizes = check(few, 3, True)
    assert all(total / (2 * FEW_PARTS) <= size <= total / 2 for size in sizes)
    held = [u.id for _, judged in divisions(few, FEW_PARTS) for u in judged]
    assert sorted(held) == sorted(u.id for split in ("train", "valid") for u in few.split(split))


def test_no_prompt_misses_a_label() -> None:
    """A label that only one speaker has is learnt by every prompt."""
    word, *others = CORPUS.slots["word"]
    many = speaking(CORPUS, 12, 4)
    rare = [
        u if u.labels["word"] != word or u.speaker == "train 0" or u.split == "test" else
        replace(u, labels={"word": others[0]})
        for u in many.utterances
    ]  # fmt: skip
    lonely = replace(many, utterances=tuple(rare))
    assert len(check(lonely, 5, True)) == 5
    assert all(u.speaker != "train 0" for _, judged in divisions(lonely, 5)[1:] for u in judged)


@pytest.mark.parametrize("clips", [1, 2])
def test_the_fewest_clips_can_be_divided_or_keep_their_division(clips: int) -> None:
    rows = [u for split in ("train", "valid") for u in CORPUS.split(split)[:clips]]
    one = replace(CORPUS, utterances=tuple(replace(u, speaker=u.split, labels={"word": "a"}) for u in rows))
    one = replace(one, slots={"word": ("a",)})
    found = divisions(one, 3)
    assert [len(taught) + len(judged) for taught, judged in found] == [2 * clips] * 3
    assert all(taught and judged for taught, judged in found)
    assert (found == [(one.split("train"), one.split("valid"))] * 3) == (clips == 1)


def test_many_clips_keep_their_own_validation_first() -> None:
    many = speaking(CORPUS, 12, 4)
    assert divisions(many, 3)[0] == (many.split("train"), many.split("valid"))
    check(many, 4, True)


@pytest.mark.parametrize(("train_speakers", "valid_speakers"), [(1, 1), (2, 1), (2, 2), (3, 1)])
def test_few_speakers_are_kept_whole_while_there_are_three(train_speakers: int, valid_speakers: int) -> None:
    for corpus in (CORPUS, FEW):
        few = speaking(corpus, train_speakers, valid_speakers)
        check(few, 3, train_speakers + valid_speakers > 2)
    artifact = train(
        speaking(CORPUS, train_speakers, valid_speakers),
        SPOKEN,
        options=TrainingOptions(ensemble=3, rotate_validation=True, steps=2, evaluations=1, prompt_length=1),
    )
    assert len(artifact.members) == 3


def test_spans_of_a_recording_stay_together() -> None:
    """Clips of nobody known that are cut from six recordings are divided by recording, never into more parts."""
    rows = [
        replace(u, speaker=None, audio=Path(f"talk{i % 6}.wav"), start_seconds=float(i), end_seconds=i + 1.0)
        for i, u in enumerate(CORPUS.split("train"))
    ]
    few = replace(CORPUS, utterances=(*rows, *(replace(u, speaker=None) for u in CORPUS.split("valid")[:4])))
    for taught, judged in divisions(few, 3)[1:]:
        talks = [{u.audio for u in part if u.audio is not None} for part in (taught, judged)]
        assert talks[0].isdisjoint(talks[1])
        assert talks[1]


def test_labels_that_are_not_asked_for_hold_nothing_back() -> None:
    """Speakers as labels of another slot would all be needed, and some clips have none there."""
    many = speaking(CORPUS, 12, 4)
    rows = [replace(u, labels={**u.labels, "who": str(u.speaker)}) for u in many.utterances]
    rows[0] = replace(rows[0], labels={"word": rows[0].labels["word"]})
    named = replace(many, utterances=tuple(rows), slots={**many.slots, "who": ("a",)})
    held = [tuple(u.id for u in judged) for _, judged in divisions(named, 3, ["word"])]
    assert held == [tuple(u.id for u in judged) for _, judged in divisions(many, 3)]
    assert len(set(held)) == 3


def test_a_corpus_without_validation_is_divided_all_the_same() -> None:
    bare = replace(CORPUS, utterances=CORPUS.split("train"))
    speakers = {u.speaker for u in bare.utterances}
    assert len(check(bare, 3, True)) == 3
    held = [u.speaker for _, judged in divisions(bare, len(speakers)) for u in judged]
    assert set(held) == speakers
