"""A source divided as a prompt's training had it, and the notice where that cannot be."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from speechprompt.errors import WorkError
from speechprompt.evaluation.as_trained import as_trained
from speechprompt.prompting.finishing import provenance
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.splits import draw_splits, folds, shots, with_fold
from speechprompt.testing import toy_corpus

CORPUS = toy_corpus(60)
PUBLISHED = replace(
    CORPUS, utterances=tuple(replace(u, split=f"fold{i % 4 + 1}") for i, u in enumerate(CORPUS.utterances))
)


def splits_of(corpus: Corpus) -> dict[str, str]:
    return {u.id: u.split for u in corpus.utterances}


@pytest.mark.parametrize(("source", "count"), [(CORPUS, 3), (PUBLISHED, 4)])
def test_the_fold_and_the_shots_of_training_are_drawn_again(source: Corpus, count: int) -> None:
    for fold in folds(source, count, seed=1):
        trained = shots(with_fold(source, fold), ["word"], 3, seed=5)
        found = as_trained(source, provenance(trained))
        assert splits_of(found) == splits_of(trained)
        assert (found.fold, found.shots, found.split_rule) == (
            trained.fold,
            trained.shots,
            trained.split_rule,
        )
        assert f"fold {fold.draw.number} of {count} tests" in found.notices[-1]
        turned = replace(source, utterances=source.utterances[::-1])
        assert splits_of(as_trained(turned, provenance(trained))) == splits_of(trained)


def test_a_prompt_of_the_source_as_it_is_leaves_it_so() -> None:
    assert as_trained(CORPUS, provenance(CORPUS)) == CORPUS
    assert as_trained(CORPUS, {}) == CORPUS


@pytest.mark.parametrize(
    ("source", "notice"),
    [
        (
            replace(CORPUS, utterances=CORPUS.utterances[1:]),
            "fold 1 of 3 over other utterances than toy has now",
        ),
        (
            replace(CORPUS, utterances=CORPUS.utterances[:2]),
            "may have trained on utterances that are scored here",
        ),
        (PUBLISHED, "fold 1 of 3 over other utterances"),
    ],
)
def test_another_source_than_the_folds_is_told(source: Corpus, notice: str) -> None:
    found = as_trained(source, provenance(with_fold(CORPUS, folds(CORPUS, 3)[0])))
    assert splits_of(found) == splits_of(source)
    assert notice in found.notices[-1]


def test_other_splits_of_the_same_corpus_are_told() -> None:
    drawn, known = replace(CORPUS, split_rule="drawn"), provenance(CORPUS)
    assert "trained on other splits (as read) and may" in as_trained(drawn, known).notices[-1]
    assert as_trained(replace(drawn, name="another"), known).notices == ()
    assert as_trained(replace(drawn, utterances=drawn.split("test")), known).notices == ()


def test_shots_by_slots_that_are_not_read_are_told() -> None:
    known = provenance(shots(CORPUS, None, 2))
    found = as_trained(CORPUS.with_slots(["word"]), known)
    assert len(found.split("train")) == len(CORPUS.split("train"))
    assert "2 utterances a label of word, length; the baselines train on the whole" in found.notices[-1]
    tests = replace(CORPUS, utterances=CORPUS.split("test"))
    assert as_trained(tests, known) == tests


@pytest.mark.parametrize("damaged", [{"fold": {"number": "x"}}, {"shots": []}])
def test_a_damaged_provenance_is_one_line(damaged: dict[str, Any]) -> None:
    with pytest.raises(WorkError, match="Draw"):
        as_trained(CORPUS, provenance(CORPUS) | damaged)


def test_provenance_says_what_was_drawn_and_nothing_else() -> None:
    assert not {"fold", "shots"} & set(provenance(CORPUS))
    few = shots(CORPUS, None, 2, seed=1)
    assert few.shots is not None
    assert provenance(few)["shots"] == asdict(few.shots)


def test_training_utterances_that_are_gone_from_drawn_splits_are_told() -> None:
    utterances, rule = draw_splits(CORPUS.utterances, 0)
    drawn = replace(CORPUS, utterances=utterances, split_rule=rule)
    known, gone = provenance(drawn), drawn.split("train")[0]
    fewer = replace(drawn, utterances=tuple(u for u in utterances if u != gone))
    assert "1 of the prompt's training utterances are gone from toy" in as_trained(fewer, known).notices[-1]
    for same in (drawn, replace(fewer, name="another"), replace(drawn, utterances=drawn.split("test"))):
        assert as_trained(same, known).notices == ()
    assert as_trained(replace(fewer, split_rule=None), known | {"split_rule": None}).notices == ()
