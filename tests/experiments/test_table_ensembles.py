"""Prompts that answer together in a table train in one batch and answer as prompts trained one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from speechprompt.evaluation.baselines import LABEL_JOINT
from speechprompt.evaluation.ensembles import ensemble_scores
from speechprompt.experiments.methods import prompt_run
from speechprompt.experiments.table_cells import FeatureCache, Measure, measuring
from speechprompt.experiments.table_options import training_options
from speechprompt.experiments.table_rounds import Round, rounds_of
from speechprompt.experiments.table_rows import TableRow
from speechprompt.metrics import accuracy
from speechprompt.prompting import recipes
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.finishing import finish
from speechprompt.prompting.run import Examples
from speechprompt.prompting.training import train_runs
from speechprompt.testing import toy_corpus
from toys import SPOKEN, entry_of

OPTIONS = {
    "steps": 12,
    "evaluations": 3,
    "prompt_length": 2,
    "ensemble": 3,
    "patience": 1,
    "learning_rate": 0.1,
}


def one_by_one(one: Round, ngrams: int) -> list[Artifact]:
    """The members, each trained on its own; n-grams are beside the first."""
    options, _ = training_options(OPTIONS, one.seed)
    train, valid = (Examples.of(one.task, one.rows(split)) for split in ("train", "valid"))
    found = []
    for member in range(options.ensemble):
        chosen = options.model_copy(
            update={"seed": one.seed + 1000 * member, "ngrams": 0 if member else ngrams}
        )
        lm, run = prompt_run(SPOKEN.lm, one.task, chosen, train, valid)
        train_runs(lm, [run])
        found.append(finish(run, SPOKEN, one.corpus))
    return found


def joined(members: list[Artifact], one: Round, split: str) -> tuple[str, ...]:
    """What they answer together."""
    scores = ensemble_scores(SPOKEN.lm, members, one.rows(split))
    best = [[labels[i] for i in scores[slot].argmax(1).tolist()] for slot, labels in one.task.slots.items()]
    return tuple(LABEL_JOINT.join(row) for row in zip(*best, strict=True))


@pytest.mark.parametrize("ngrams", [0, 256])
def test_members_answer_as_if_each_had_trained_alone(tmp_path: Path, ngrams: int) -> None:
    row = TableRow(name="both", title="both", source="toy.jsonl", slots=("word", "length"), folds=3)
    one = rounds_of(row, toy_corpus(120), 1)[1]
    options = {**OPTIONS, "ngrams": ngrams}
    cell = Measure("prompt", one, SPOKEN, options, tmp_path).run(FeatureCache(), lambda *told: None)
    members = one_by_one(one, ngrams)
    assert cell.predictions == joined(members, one, "test")
    assert len(set(cell.predictions)) > 2  # they learnt something that could differ
    assert cell.valid_accuracy == accuracy(one.labels("valid"), joined(members, one, "valid"))
    assert cell.trained_parameters == sum(member.config.trained_parameters for member in members)
    assert cell.measured_by == measuring("cpu")
    assert not list(tmp_path.glob("*.pt"))
    alone = joined(one_by_one(one, 0), one, "test")
    assert ("ngrams" in cell.details) == bool(ngrams)
    if ngrams:
        assert cell.predictions != alone
        assert cell.details["prompt_alone_on_test"] == accuracy(one.labels("test"), alone)


def test_prompts_beside_ngrams_are_all_as_long_as_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-grams leave the first less of the budget; lengths of others would make another ensemble than `train`'s."""
    row = TableRow(name="both", title="both", source="toy.jsonl", slots=("word", "length"), folds=3)
    one = rounds_of(row, toy_corpus(60), 1)[0]
    options = {"steps": 1, "evaluations": 1, "ensemble": 3, "ngrams": 256}
    monkeypatch.setattr(recipes, "MOST_TRAINED", 4000)  # 9 vectors beside n-grams, 16 without
    cell = Measure("prompt", one, SPOKEN, options, tmp_path).run(FeatureCache(), lambda *told: None)
    length = cell.details["prompt_length"]
    beside = 256 * sum(len(labels) for labels in one.task.slots.values())
    single = entry_of(SPOKEN.lm, task=one.task, prompt_length=length).trained_parameters()
    assert cell.trained_parameters == 3 * single + beside


def test_a_killed_training_of_members_goes_on_where_it_was(tmp_path: Path) -> None:
    """The checkpoint is one of all members; what it holds is gone once the cell is there."""
    row = TableRow(name="both", title="both", source="toy.jsonl", slots=("word", "length"), folds=3)
    one = rounds_of(row, toy_corpus(60), 1)[0]
    measure = Measure("prompt", one, SPOKEN, {**OPTIONS, "steps": 240, "patience": 9}, tmp_path)

    class Killed(Exception):
        pass

    def kill(done: int, total: int | None, told: str) -> None:
        if done > 110:
            raise Killed

    with pytest.raises(Killed):
        measure.run(FeatureCache(), kill)
    assert [path.name for path in tmp_path.glob("*.pt")] == [measure.path.with_suffix(".training.pt").name]
    steps: list[int] = []
    resumed = measure.run(FeatureCache(), lambda done, total, told: steps.append(done))
    assert steps[0] == 100
    fresh = replace(measure, folder=tmp_path / "fresh")
    (tmp_path / "fresh").mkdir()
    assert fresh.run(FeatureCache(), lambda *told: None).predictions == resumed.predictions
