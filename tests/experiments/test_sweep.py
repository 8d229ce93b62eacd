"""Sweeps: what is tried, that a stopped one goes on, and that the best is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from speechprompt.errors import UnknownName, UsageError, WorkError
from speechprompt.experiments.search import (
    Changes,
    Choice,
    ListedSearcher,
    Range,
    grid,
    random_draws,
    read_space,
    searcher,
)
from speechprompt.experiments.sweep import BEST, SWEEP, Sweep, finish
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.joint import Job, train_jobs
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm

SPOKEN = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm())
CORPUS = toy_corpus(60)
TASK = Task.of_corpus(CORPUS, ["word"])
SHORT = TrainingOptions(steps=6, evaluations=2, batch_size=8, prompt_length=2)


def sweep(folder: Path, at_once: int = 3, **described: Any) -> Sweep:
    return Sweep(folder, CORPUS, TASK, SPOKEN, SHORT, {"toy": 1, **described}, at_once)


def test_spaces_are_read_and_refused() -> None:
    space = read_space(["learning-rate=1e-3:1e-1", "prompt_length=2:40", "method=input,after_projection"])
    assert space == [
        Range("learning_rate", 1e-3, 1e-1),
        Range("prompt_length", 2, 40),
        Choice("method", ("input", "after_projection")),
    ]
    assert space[0].at(0.5) == pytest.approx(0.01)  # type: ignore[union-attr]
    assert space[1].at(0.5) == 9  # type: ignore[union-attr]
    for texts, error in (
        (["learning_rat=1,2"], UnknownName),
        (["recipe=paper,default"], UnknownName),
        (["seed=1,1"], UsageError),
        (["seed="], UsageError),
        (["seed=3:1"], UsageError),
        (["seed=a:b"], UsageError),
        (["seed=1,2", "seed=3,4"], UsageError),
    ):
        with pytest.raises(error):
            read_space(texts)
    with pytest.raises(UsageError, match="--trials"):
        grid(space)
    with pytest.raises(UsageError, match="needs --trials"):
        searcher("random", space, None, 0)
    with pytest.raises(UnknownName, match="did you mean random"):
        searcher("randm", space, 3, 0)


def test_a_grid_is_every_combination_and_draws_are_seeded() -> None:
    space = read_space(["seed=1,2", "prompt_length=3,4"])
    assert grid(space) == [{"seed": s, "prompt_length": p} for s in "12" for p in "34"]
    ranges = read_space(["learning_rate=1e-3:1e-1", "seed=0:99"])
    draws = random_draws(ranges, 20, 7)
    assert draws == random_draws(ranges, 20, 7) != random_draws(ranges, 20, 8)
    assert all(1e-3 <= draw["learning_rate"] <= 1e-1 for draw in draws)
    assert len({str(draw) for draw in draws}) == 20
    assert len(random_draws(space, 20, 0)) == 4  # no more than there are


def test_the_best_trial_is_kept_and_is_what_it_would_be_alone(tmp_path: Path) -> None:
    heard: list[Any] = []
    study = sweep(tmp_path / "a.run")
    trials = study.run(searcher("grid", read_space(["seed=0,1,2,3"]), None, 0), heard.append)
    assert [trial.rank for trial in trials] == sorted((t.rank for t in trials), reverse=True)
    assert {trial.changes["seed"] for trial in trials} == set("0123")
    assert sum(event["event"] == "trial" for event in heard) == 4
    document = finish(study, trials, tmp_path / "a")
    assert not (tmp_path / "a.run").exists()
    assert json.loads((tmp_path / "a" / SWEEP).read_text()) == json.loads(json.dumps(document))
    best = Artifact.load(tmp_path / "a" / BEST, SPOKEN)
    assert best.config.seed == int(trials[0].changes["seed"])
    options = SHORT.model_copy(update={"seed": best.config.seed})
    alone = train_jobs([Job("alone", CORPUS, TASK, options)], SPOKEN)[0].metrics["valid"]
    assert trials[0].accuracy == alone["accuracy"]
    assert trials[0].loss == pytest.approx(alone["loss"], abs=1e-4)


class Stopping(ListedSearcher):
    """A grid whose user stops it after some trials."""

    def __init__(self, trials: Sequence[Changes], after: int) -> None:
        super().__init__(trials)
        self.after = after

    def propose(self, count: int) -> list[Changes]:
        if self.after <= 0:
            raise KeyboardInterrupt
        self.after -= count
        return super().propose(count)


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    space = grid(read_space(["seed=0,1,2,3,4"]))
    whole = sweep(tmp_path / "whole").run(ListedSearcher(space))
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "a", at_once=2).run(Stopping(space, 4))
    with (tmp_path / "a" / "trials.jsonl").open("a") as file:
        file.write('{"number": 4, "chan')  # what a kill leaves
    heard: list[Any] = []
    again = sweep(tmp_path / "a", at_once=2).run(ListedSearcher(space), heard.append)
    assert len({event["run"] for event in heard if event["event"] == "step"}) == 1
    assert [(t.changes, t.accuracy) for t in again] == [(t.changes, t.accuracy) for t in whole]
    with pytest.raises(WorkError, match="another sweep"):
        sweep(tmp_path / "a", toy=2).run(ListedSearcher(space))


def test_optuna_learns_from_its_trials_and_resumes() -> None:
    pytest.importorskip("optuna")
    space = read_space(["learning_rate=1e-4:1.0", "verbalizer=random,learnable"])

    def accuracy(changes: Changes) -> float:
        return float(changes["verbalizer"] == "learnable") - abs(float(changes["learning_rate"]) - 0.02)

    def tried(count: int, known: Sequence[Changes] = ()) -> list[Changes]:
        search = searcher("optuna", space, count, 0)
        for changes in known:
            search.tell(changes, accuracy(changes))
        found = list(known)
        while proposed := search.propose(4):
            for changes in proposed:
                search.tell(changes, accuracy(changes))
            found += proposed
        return found

    first = tried(24)
    assert len(first) == 24
    assert first == tried(24)
    assert max(map(accuracy, first[12:])) >= max(map(accuracy, first[:4]))
    for known in (4, 8):
        resumed = tried(12, first[:known])
        assert len({str(changes) for changes in resumed}) == 12
        assert resumed[:8] == first[:8]
