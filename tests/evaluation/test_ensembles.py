"""Prompts that answer together."""

from __future__ import annotations

import pytest
import torch

from speechprompt.errors import UsageError
from speechprompt.evaluation.ensembles import (
    ensemble_scores,
    evaluate_ensemble,
    trained_parameters,
)
from speechprompt.evaluation.evaluate import evaluate
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.members import combined
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.task import Task
from toys import CORPUS, SPOKEN, TASK, TEST, artifact_of, entry_of

ONE, TWO = (artifact_of(entry_of(SPOKEN.lm, seed=seed)) for seed in (0, 1))
ROWS = CORPUS.split("test")


def test_an_ensemble_of_one_is_that_one() -> None:
    for slot, scores in ensemble_scores(SPOKEN.lm, [ONE, ONE], ROWS).items():
        torch.testing.assert_close(scores, scores_of(SPOKEN.lm, ONE.entry, TEST)[slot], atol=1e-5, rtol=0)
    together, alone = evaluate_ensemble(SPOKEN, [ONE], CORPUS), evaluate(SPOKEN, ONE, CORPUS, baselines=())
    assert [r.slots["word"].predicted for r in together.rows] == [
        r.slots["word"].predicted for r in alone.rows
    ]


def test_members_are_averaged_after_their_own_temperature() -> None:
    sharp = artifact_of(TWO.entry, temperatures={"word": 0.1})
    found = ensemble_scores(SPOKEN.lm, [ONE, sharp], ROWS)["word"]
    first, second = (scores_of(SPOKEN.lm, one.entry, TEST)["word"] for one in (ONE, TWO))
    mean = (first + (second / 0.1).log_softmax(1)) / 2
    torch.testing.assert_close(found, mean.log_softmax(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(ROWS)))
    assert trained_parameters([ONE, TWO]) == 2 * ONE.config.trained_parameters


def test_prompts_with_other_labels_cannot_answer_together() -> None:
    other = Task("toy", {**TASK.slots, "word": tuple(reversed(TASK.slots["word"]))})
    with pytest.raises(UsageError, match="answer together"):
        ensemble_scores(SPOKEN.lm, [ONE, artifact_of(entry_of(SPOKEN.lm, task=other))], ROWS)


def test_sure_members_that_disagree_are_still_numbers() -> None:
    cold = Calibration({"word": 0.1})
    members = [(cold, {"word": torch.tensor([row])}) for row in ([12.0, 0.0, 0.0], [0.0, 12.0, 1.0])]
    found = combined(members)["word"]
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(1))
    torch.testing.assert_close(found.exp()[0, :2], torch.tensor([0.5, 0.5]))
