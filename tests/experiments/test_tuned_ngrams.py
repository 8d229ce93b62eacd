"""The n-gram SVM with all that prompts have: what it chooses on, what it learns from, what it never sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechprompt.evaluation.baselines import NgramBaseline
from speechprompt.experiments.table_cells import Cell, FeatureCache, Measure
from speechprompt.experiments.table_ngrams import STRENGTHS
from speechprompt.experiments.table_rounds import Round
from speechprompt.metrics import accuracy
from speechprompt.prompting.task import Task
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.speeds import AnswerCopies, SpeedCopies
from speechprompt.speech.units import Units, deduplicate
from speechprompt.testing import toy_corpus

COPIES = {"speed_copies": 2, "answer_copies": 2}


def cell_of(corpus: Corpus, folder: Path, options: dict[str, int] | None = None) -> Cell:
    one = Round(corpus, Task.of_corpus(corpus), 0, "seed0")
    return Measure("n-gram tuned", one, None, options or {}, folder).run(FeatureCache(), lambda *_: None)


def noisy(count: int) -> Corpus:
    """Toy words, of which a third has another word's label."""
    corpus, random = toy_corpus(count).with_slots(["word"]), np.random.default_rng(2)
    rows = [
        replace(u, labels={"word": random.choice(corpus.slots["word"])}) if random.random() < 1 / 3 else u
        for u in corpus.utterances
    ]
    return replace(corpus, utterances=tuple(rows))


def ids_of(rows: tuple[Utterance, ...]) -> list[list[int]]:
    return [u.units.ids.tolist() for u in rows if u.units is not None]


def words_of(rows: tuple[Utterance, ...]) -> list[str]:
    return [u.labels["word"] for u in rows]


def test_options_are_chosen_on_valid_and_valid_is_learnt_from_at_the_end(tmp_path: Path) -> None:
    corpus = noisy(160)
    train, valid, test = (corpus.split(split) for split in ("train", "valid", "test"))
    reached = {}
    for strength in STRENGTHS:
        for balanced in (True, False):
            svm = NgramBaseline(strength, balanced=balanced).fit(ids_of(train), words_of(train))
            answers = svm.predict(ids_of(valid)).predictions
            reached[strength, balanced] = accuracy(words_of(valid), answers)
    best = max(reached, key=lambda key: reached[key])
    assert len(set(reached.values())) > 1
    both = (*train, *valid)
    expected = NgramBaseline(best[0], balanced=best[1]).fit(ids_of(both), words_of(both))
    cell = cell_of(corpus, tmp_path)
    assert cell.predictions == expected.predict(ids_of(test)).predictions
    assert cell.valid_accuracy == reached[best]
    assert cell.trained_parameters == expected.trained_parameters
    assert cell.details == {"strength": best[0], "balanced": best[1], "hears_copies": False}


def test_it_never_sees_a_test_label(tmp_path: Path) -> None:
    corpus = noisy(70)
    wrong = tuple(replace(u, labels={"word": "alpha"}) if u.split == "test" else u for u in corpus.utterances)
    one, other = cell_of(corpus, tmp_path / "a"), cell_of(replace(corpus, utterances=wrong), tmp_path / "b")
    assert one.predictions == other.predictions


@pytest.mark.parametrize("copies_help", [True, False])
def test_whether_copies_are_heard_is_chosen_on_valid(tmp_path: Path, copies_help: bool) -> None:
    """Clips whose own units say nothing and whose copies tell the word, and the other way round."""
    random = np.random.default_rng(0)

    def units(word: int, telling: bool) -> Units:
        weights = np.ones(18)
        if telling:
            weights[word * 6 : word * 6 + 6] = 6.0
        return deduplicate(random.choice(18, 24, p=weights / weights.sum()))

    rows = []
    for i in range(90):
        word, split = i % 3, ("train", "valid", "test")[i // 3 % 3]
        speeds = (*SpeedCopies(2, 0.15).speeds(str(i)), *AnswerCopies(2).speeds())
        copies = {speed: units(word, copies_help) for speed in speeds}
        named = ["alpha", "beta", "gamma"][word]
        rows.append(
            Utterance(
                str(i),
                split,
                {"word": named},
                audio=tmp_path / "none.wav",
                units=units(word, not copies_help),
                speed_copies=copies,
            )
        )
    (tmp_path / "none.wav").write_bytes(b"nobody reads this")
    corpus = Corpus("copies", tuple(rows), {"word": ("alpha", "beta", "gamma")})
    cell = cell_of(corpus, tmp_path, COPIES)
    assert cell.details["hears_copies"] is copies_help
    assert accuracy(words_of(corpus.split("test")), cell.predictions) > 0.7
