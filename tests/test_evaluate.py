"""A trained prompt on a split: its accuracy, what free decoding makes of it, and others on the same rows."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import CorpusError, UnitsError, UnknownName, UsageError
from speechprompt.evaluation.evaluate import answers, compare, evaluate, mean_states, run_baselines
from speechprompt.evaluation.summary import rightness
from speechprompt.metrics import paired_difference_interval
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.prompting.train import train
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus
from toys import SPOKEN, artifact_of, entry_of, scores_alone, some_units

CORPUS = toy_corpus(200)
TRAINED: dict[str, Artifact] = {}


def trained(recipe: str = "default") -> Artifact:
    if recipe not in TRAINED:
        changes = {
            "steps": 150 if recipe == "paper" else 50,
            "evaluations": 5,
            "batch_size": 24,
            "learning_rate": 2e-2,
            "prompt_length": 3,
        }
        changes |= {"recipe": "paper", "by_epoch": False, "patience": 9} if recipe == "paper" else {}
        options = TrainingOptions.of_recipe(recipe, changes)
        TRAINED[recipe] = train(CORPUS, SPOKEN, ["word"], options, name=recipe)
    return TRAINED[recipe]


def untrained(**kind: object) -> Artifact:
    return artifact_of(entry_of(SPOKEN.lm, task=Task.of_corpus(CORPUS, ["word"]), **kind))


@pytest.mark.parametrize(
    ("split", "baselines", "refused"),
    [
        ("test", (), True),
        ("train", (), False),
        ("train", ("majority", "n-gram"), False),
        ("valid", ("probe",), True),
    ],
)
def test_only_what_the_lm_reads_may_not_be_too_long(
    split: str, baselines: tuple[str, ...], refused: bool
) -> None:
    long = replace(CORPUS.split(split)[0], id="long", units=some_units([600])[0])
    corpus = replace(CORPUS, utterances=(*CORPUS.utterances, long))
    with pytest.raises(UnitsError, match="'long' has 600 units") if refused else nullcontext():
        evaluate(SPOKEN, untrained(), corpus, baselines=baselines)


def test_constrained_answers_are_the_best_of_the_labels() -> None:
    artifact, rows = trained(), CORPUS.split("test")
    found = evaluate(SPOKEN, artifact, CORPUS, baselines=())
    labels = artifact.entry.task.slots["word"]
    right = 0
    for answer, utterance in zip(found.rows, rows, strict=True):
        scores = scores_alone(SPOKEN.lm, artifact.entry, utterance.units)["word"]
        predicted = labels[int(scores.argmax())]
        assert answer.slots["word"].predicted == predicted
        probabilities = artifact.config.calibration.apply("word", scores)
        assert list(answer.slots["word"].scores) == pytest.approx(probabilities.tolist(), abs=1e-5)
        right += predicted == utterance.labels["word"]
    assert found.numbers.accuracy.estimate == pytest.approx(right / len(rows))
    assert found.free_accuracy is None
    json.dumps(found.to_json())


def test_an_untrained_prompt_answers_constrained_but_not_freely() -> None:
    """Free decoding must say a label's unit and then end; an LM that was never taught to does neither."""
    found = evaluate(SPOKEN, untrained(verbalizer="random"), CORPUS, baselines=(), free=True)
    assert found.numbers.accuracy.estimate > 0.1
    assert found.free_accuracy == 0.0


def test_outputs_without_an_end_cannot_decode_freely() -> None:
    with pytest.raises(UsageError, match="recipe paper"):
        evaluate(SPOKEN, untrained(), CORPUS, free=True)


def test_the_paper_s_recipe_learns_to_answer_freely() -> None:
    found = evaluate(SPOKEN, trained("paper"), CORPUS, baselines=(), free=True)
    assert found.free_accuracy is not None
    assert 0 < found.free_accuracy <= found.numbers.accuracy.estimate


def test_baselines_are_scored_on_the_same_rows() -> None:
    found = evaluate(SPOKEN, trained(), CORPUS, baselines=("majority", "n-gram"))
    assert [score.name for score in found.baselines] == ["majority", "n-gram"]
    accuracy = found.numbers.accuracy.estimate
    for score in found.baselines:
        assert score.difference.estimate == pytest.approx(accuracy - score.accuracy.estimate, abs=1e-6)
    words = [u.labels["word"] for u in CORPUS.split("test")]
    train_words = [u.labels["word"] for u in CORPUS.split("train")]
    likeliest = max(sorted(set(train_words)), key=train_words.count)
    assert found.baselines[0].accuracy.estimate == pytest.approx(words.count(likeliest) / len(words))
    for name in ("majorty", "probes"):
        with pytest.raises(UnknownName, match="did you mean"):
            run_baselines(SPOKEN, CORPUS, ["word"], names=(name,))


def test_two_artifacts_on_the_same_rows() -> None:
    first, second = (evaluate(SPOKEN, a, CORPUS, baselines=()) for a in (trained(), untrained()))
    found = compare(first, second)
    ours, theirs = (np.array([row.is_right for row in e.rows]) for e in (first, second))
    assert found.test.only_first == int((ours & ~theirs).sum())
    assert found.test.only_second == int((~ours & theirs).sum())
    assert found.difference.estimate == pytest.approx(ours.mean() - theirs.mean())
    assert compare(first, first).test.p_value == 1.0
    other = evaluate(SPOKEN, trained(), CORPUS, split="valid", baselines=())
    with pytest.raises(CorpusError, match="different utterances"):
        compare(first, other)


@pytest.mark.parametrize("known", [True, False])
def test_the_difference_of_two_artifacts_is_over_speakers_where_they_are_known(known: bool) -> None:
    pair = [evaluate(SPOKEN, a, CORPUS, baselines=()) for a in (trained(), untrained())]
    ours, theirs = (rightness(e.rows) for e in pair)
    speakers = [f"speaker {int(a) - int(b)}" if known else None for a, b in zip(ours, theirs, strict=True)]
    first, second = (
        replace(e, rows=tuple(replace(r, speaker=s) for r, s in zip(e.rows, speakers, strict=True)))
        for e in pair
    )
    groups = speakers if known else None
    assert compare(first, second, 3).difference == paired_difference_interval(ours, theirs, groups, 3)


def test_splits_and_labels_that_are_not_there() -> None:
    with pytest.raises(CorpusError, match="no utterances in split 'fold1'; it has train"):
        evaluate(SPOKEN, trained(), CORPUS, split="fold1")
    renamed = replace(
        CORPUS, utterances=tuple(replace(u, labels={**u.labels, "word": "delta"}) for u in CORPUS.utterances)
    )
    with pytest.raises(CorpusError, match="'delta'"):
        evaluate(SPOKEN, trained(), renamed)
    other = ToyTokenizer()
    other.name = "other"
    with pytest.raises(CorpusError, match="units of toy"):
        evaluate(SpokenLM.of_parts("x@1", other, SPOKEN.lm), trained(), CORPUS)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(12)))
def test_answers_do_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    rows = CORPUS.split("test")[:12]
    plain = answers(SPOKEN.lm, untrained(), rows)
    shuffled = answers(SPOKEN.lm, untrained(), [rows[i] for i in order])
    for place, i in enumerate(order):
        assert shuffled[place].id == plain[i].id
        ours, theirs = shuffled[place].slots["word"].scores, plain[i].slots["word"].scores
        assert list(ours) == pytest.approx(list(theirs), abs=1e-5)


def test_mean_states_are_those_of_each_utterance_alone() -> None:
    units = some_units([1, 5, 17])
    together = mean_states(SPOKEN.lm, units)
    for i, row in enumerate(units):
        np.testing.assert_allclose(together[i], mean_states(SPOKEN.lm, [row])[0], atol=1e-5)
