"""Several tasks, corpora and options in one run: each prompt ends where it would have ended alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechprompt.errors import UnknownName, UsageError
from speechprompt.prompting.joint import Job, train_jobs, variants_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import _passes
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm

SPOKEN = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm())
SHORT = TrainingOptions(steps=8, evaluations=2, batch_size=8, prompt_length=2)


def jobs() -> list[Job]:
    first, second = toy_corpus(60), toy_corpus(70, seed=1)
    kinds = [
        ("word", first, ["word"], {}),
        ("both", first, ["length", "word"], {"decoding": "autoregressive", "seed": 1}),
        ("length", first, ["length"], {"prompt_length": 5, "learning_rate": 1e-3, "prompt_dropout": 0.1}),
        ("other", second, ["word"], {"method": "before_projection", "batch_size": 5, "steps": 12}),
        (
            "paper",
            second,
            ["word", "length"],
            {"loss": "published", "verbalizer": "frequency", "decoding": "autoregressive"},
        ),
    ]
    return [
        Job(name, corpus, Task.of_corpus(corpus, slots), SHORT.model_copy(update=changes))
        for name, corpus, slots, changes in kinds
    ]


def test_several_tasks_in_one_run_end_as_each_alone() -> None:
    together = train_jobs(jobs(), SPOKEN)
    for job, ours in zip(jobs(), together, strict=True):
        alone = train_jobs([job], SPOKEN)[0]
        assert ours.config.slots == alone.config.slots
        assert ours.config.options == alone.config.options
        for event, other in zip(ours.metrics["history"], alone.metrics["history"], strict=True):
            assert event["accuracy"] == other["accuracy"]
            assert event["loss"] == pytest.approx(other["loss"], abs=1e-4)
        theirs = alone.entry.state_dict()
        for name, tensor in ours.entry.state_dict().items():
            torch.testing.assert_close(tensor, theirs[name], atol=2e-4, rtol=0, msg=f"{job.name} {name}")


def test_jobs_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="share a name"):
        train_jobs([jobs()[0], jobs()[0]], SPOKEN)


def test_variants_are_every_combination_and_keep_what_was_set() -> None:
    base = TrainingOptions.of_recipe("paper", {"steps": 7})
    found = variants_of(base, {"seed": ["1", "2"], "prompt_length": [3, None]})
    assert [name for name, _ in found] == [
        "seed-1_prompt-length-3",
        "seed-1_prompt-length-None",
        "seed-2_prompt-length-3",
        "seed-2_prompt-length-None",
    ]
    assert {(o.recipe, o.steps, o.loss) for _, o in found} == {("paper", 7, "published")}
    assert [(o.seed, o.prompt_length) for _, o in found] == [(1, 3), (1, None), (2, 3), (2, None)]
    assert variants_of(base, {}) == [("", base)]
    with pytest.raises(UsageError, match="seed"):
        variants_of(base, {"seed": ["many"]})
    with pytest.raises(UnknownName):
        variants_of(base, {"sed": [1]})


def batch_of(length: int, rows: int = 2) -> list[Units]:
    return [Units(np.zeros(length, np.int64))] * rows


def test_batches_of_very_different_length_do_not_pad_each_other() -> None:
    assert _passes([batch_of(n) for n in (10, 12, 11)], None) == [[0, 2, 1]]
    assert _passes([batch_of(n) for n in (400, 10, 380, 12)], None) == [[1, 3], [2, 0]]


def test_a_pass_takes_no_more_rows_than_it_may_but_a_whole_run() -> None:
    batches = [batch_of(9, rows) for rows in (3, 2, 4, 9, 1)]
    assert _passes(batches, 5) == [[0, 1], [2], [3], [4]]
