"""One step, many runs at once, the same again, and after an interruption."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechprompt.errors import CorpusError, TrainingError
from speechprompt.prompting import training
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.train import train, train_many
from speechprompt.prompting.training import (
    _joint_steps,
    find_learning_rate,
    remove_checkpoint,
    train_runs,
    train_step,
)
from speechprompt.speech.manifest import Utterance
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm
from toys import CORPUS, TASK, TRAIN, VALID, run_of

LM = toy_lm()
RECIPES: list[dict[str, Any]] = [
    {"recipe": recipe, "method": method, **more}
    for recipe in ("default", "paper")
    for method in ("before_projection", "after_projection", "input")
    for more in ({"initialisation": "units"}, {"initialisation": "normal"}, {"verbalizer": "frequency"})
]


def state(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.entry.state_dict().items()}


def assert_same(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor], within: float = 0
) -> None:
    assert list(left) == list(right)
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], atol=within, rtol=0, msg=name)


@pytest.mark.parametrize("changes", RECIPES, ids=lambda changes: "-".join(changes.values()))
def test_a_step_changes_all_that_trains_and_nothing_else(changes: dict[str, Any]) -> None:
    lm = toy_lm()
    frozen = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    run = run_of(lm, **changes)
    before, gradients = state(run), {}
    for name, parameter in run.entry.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients.update({name: gradient.clone()}))
    train_step(lm, [run])
    trained = dict(run.entry.named_parameters())
    assert set(gradients) == set(trained)
    for name, parameter in trained.items():
        assert float(gradients[name].abs().max()) > 0, name
        assert not torch.equal(parameter, before[name]), name
    for name, tensor in run.entry.state_dict().items():
        assert name in trained or torch.equal(tensor, before[name])
    assert_same(frozen, lm.model.state_dict())
    assert all(parameter.grad is None for parameter in lm.model.parameters())


VARIANTS = [
    {"seed": 1, "prompt_length": 1, "learning_rate": 1e-2},
    {"seed": 2, "prompt_length": 4, "learning_rate": 1e-3, "batch_size": 5},
    {"seed": 3, "method": "after_projection", "prompt_dropout": 0.2, "verbalizer_dropout": 0.2},
    {"seed": 4, "method": "input", "decoding": "autoregressive", "label_smoothing": 0.1},
    {"seed": 5, "shifts_positions": True, "verbalizer": "random", "balanced": True},
    {"seed": 6, "prompt_length": 0},
    {"seed": 7, "recipe": "paper"},
]


def runs_of_variants() -> list[Run]:
    return [run_of(LM, name=str(i), **variant) for i, variant in enumerate(VARIANTS)]


def test_joint_gradients_are_those_of_separate_runs() -> None:
    joint = [run for run in runs_of_variants() if run.options.loss == "labels"]
    apart = [run for run in runs_of_variants() if run.options.loss == "labels"]
    _joint_steps(LM, joint)
    for ours, alone in zip(joint, apart, strict=True):
        _joint_steps(LM, [alone])
        theirs = dict(alone.entry.named_parameters())
        for name, parameter in ours.entry.named_parameters():
            if parameter.numel():
                torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-6, rtol=1e-4)


def test_joint_training_ends_where_separate_training_ends() -> None:
    joint, apart = runs_of_variants(), runs_of_variants()
    train_runs(LM, joint)
    for ours, alone in zip(joint, apart, strict=True):
        train_runs(LM, [alone])
        assert ours.progress.best_step == alone.progress.best_step
        assert [event["accuracy"] for event in ours.progress.history] == [
            event["accuracy"] for event in alone.progress.history
        ]
        assert_same(state(ours), state(alone), within=2e-4)


def test_training_finds_what_can_be_heard() -> None:
    spoken = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm())
    corpus = toy_corpus(240)
    options = TrainingOptions(steps=80, evaluations=5, batch_size=24, learning_rate=2e-2, prompt_length=3)
    artifacts = train_many(corpus, spoken, ["word"], [options, options.model_copy(update={"seed": 1})])
    test = Examples.of(artifacts[0].entry.task, corpus.split("test"))
    for artifact in artifacts:
        right = scores_of(spoken.lm, artifact.entry, test)["word"].argmax(1) == test.targets[:, 0]
        assert float(right.float().mean()) > 0.6
    assert not torch.equal(artifacts[0].entry.prompt.vectors, artifacts[1].entry.prompt.vectors)


@pytest.mark.parametrize(
    ("told", "best", "stopped"),
    [
        ([(1.0, 0.10), (1.0, 0.099), (1.0, 0.098)], 3, True),  # right already: so little is no gain
        ([(1.0, 0.10), (1.0, 0.09), (1.0, 0.089)], 3, False),
        ([(1.0, 0.10), (1.0, 0.11), (1.0, 0.12)], 1, True),
        ([(0.9, 0.10), (0.9, 0.099), (0.9, 0.098)], 3, False),  # something is left to learn
        ([(0.9, 0.10), (1.0, 0.20), (1.0, 0.199)], 3, False),
    ],
)
def test_patience_ends_where_nothing_is_left_to_learn(
    told: list[tuple[float, float]], best: int, stopped: bool
) -> None:
    run = run_of(LM, patience=2, steps=10)
    for accuracy, loss in told:
        run.progress.step += 1
        run.judge(accuracy, loss)
    assert (run.progress.best_step, run.progress.finished) == (best, stopped)
    assert (run.progress.best_accuracy, run.progress.best_loss) == told[best - 1]


class Stop(Exception):
    """What an interrupted user looks like."""


RESUMED: list[dict[str, Any]] = [
    {},
    {"recipe": "paper"},
    {"recipe": "paper", "verbalizer": "random", "by_epoch": True, "steps": 10},
    {"learning_rate": "find"},
    {"prompt_dropout": 0.3, "verbalizer_dropout": 0.3, "balanced": True, "schedule": "cosine"},
    {"decoding": "autoregressive", "method": "input", "patience": 1},
]


@pytest.fixture(scope="module")
def short_range_test() -> Iterator[None]:
    """Learning rates are found in fewer steps where how they are found is not the question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "find_learning_rate", partial(find_learning_rate, steps=6))
        yield


@pytest.mark.usefixtures("short_range_test")
@settings(max_examples=8, deadline=None)
@given(
    variants=st.lists(st.sampled_from(RESUMED), min_size=1, max_size=2),
    stops=st.lists(st.integers(1, 14), min_size=1, max_size=3),
    every=st.integers(1, 4),
)
def test_resumed_training_is_uninterrupted_training(
    tmp_path_factory: pytest.TempPathFactory, variants: list[dict[str, Any]], stops: list[int], every: int
) -> None:
    def fresh() -> list[Run]:
        return [run_of(LM, name=str(i), **variant) for i, variant in enumerate(variants)]

    whole = fresh()
    train_runs(LM, whole)
    path = tmp_path_factory.mktemp("run") / "deep" / "checkpoint.pt"

    def attempt(stop_at: int | None) -> list[Run]:
        runs, seen = fresh(), 0

        def listener(event: Mapping[str, Any]) -> None:
            nonlocal seen
            seen += event["event"] in ("step", "evaluation")
            if stop_at is not None and seen >= stop_at:
                raise Stop

        train_runs(LM, runs, listener, path, every)
        return runs

    for stop in stops:
        try:
            attempt(stop)
        except Stop:
            continue
    for resumed in (
        attempt(None),
        attempt(None),
    ):  # a finished run's checkpoint stays until its results are kept
        for ours, theirs in zip(resumed, whole, strict=True):
            assert_same(state(ours), state(theirs))
            assert ours.progress == theirs.progress
    remove_checkpoint(path)
    assert not list(path.parent.glob("*"))


@pytest.fixture
def plain_ctrl_c() -> Iterator[None]:
    """Ctrl-C as a terminal has it, whatever the tests run under."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.usefixtures("plain_ctrl_c")
@pytest.mark.parametrize("told", ["step", "evaluation"])
def test_ctrl_c_loses_no_step(tmp_path: Path, told: str) -> None:
    path, whole, steps = tmp_path / "checkpoint.pt", run_of(LM), list[int]()
    train_runs(LM, [whole])

    def listener(event: Mapping[str, Any]) -> None:
        steps.extend([event["step"]] * (event["event"] == "step"))
        if event["event"] == told and len(steps) >= 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_runs(LM, [run_of(LM)], listener, path)
    done, resumed, events = len(steps), run_of(LM), list[Any]()
    train_runs(LM, [resumed], events.append, path)
    assert events[0] == {"event": "resumed", "step": done}
    assert next(event["step"] for event in events if event["event"] == "step") == done + 1
    assert_same(state(resumed), state(whole))
    assert resumed.progress == whole.progress


@pytest.mark.usefixtures("plain_ctrl_c")
def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path) -> None:
    def listener(event: Mapping[str, Any]) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_runs(LM, [run_of(LM)], listener, tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other options", "other labels", "no runs"])
def test_a_checkpoint_that_is_not_this_run_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"

    def interrupted(event: Mapping[str, Any]) -> None:
        if event.get("step") == 3:
            raise Stop

    with pytest.raises(Stop):
        train_runs(LM, [run_of(LM)], interrupted, path, 1)
    run = run_of(LM)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "foreign":
        path.write_bytes(b"not a checkpoint")
    elif damage == "no runs":
        torch.save({"identity": "x"}, path)
    elif damage == "other options":
        run = run_of(LM, learning_rate=1e-3)
    else:  # the same counts and sums, so that only the rows tell
        turned = Examples(TRAIN.units, TRAIN.targets.flip(0), TRAIN.ids)
        run = Run(run.name, run.entry, run.options, turned, VALID)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt"):
        train_runs(LM, [run], checkpoint=path)


def test_a_run_goes_on_where_its_start_is_rounded_otherwise(tmp_path: Path) -> None:
    """Another device computes the states that a prompt starts from; another prompt is another run."""

    def interrupted(event: Mapping[str, Any]) -> None:
        if event.get("step") == 3:
            raise Stop

    def changed(by: Callable[[Tensor], Tensor]) -> Run:
        run = run_of(LM)
        with torch.no_grad():
            run.entry.prompt.vectors.copy_(by(run.entry.prompt.vectors))
        return Run(run.name, run.entry, run.options, run.train, run.valid)

    path, whole = tmp_path / "checkpoint.pt", run_of(LM)
    train_runs(LM, [whole])
    with pytest.raises(Stop):
        train_runs(LM, [run_of(LM)], interrupted, path, 1)
    with pytest.raises(TrainingError, match="other options, data or LM"):
        train_runs(LM, [changed(lambda x: x.flip(1))], checkpoint=path)
    resumed = changed(lambda x: x * (1 + 1e-6))
    train_runs(LM, [resumed], checkpoint=path)
    assert_same(state(resumed), state(whole))


SCRIPT = """
import hashlib, torch
from speechprompt.spoken_lm import SpokenLM
from speechprompt.prompting.train import train
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.testing import *
options = TrainingOptions(steps=6, evaluations=2, prompt_length=2, prompt_dropout=0.1, seed=5, balanced=True)
lm = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm())
entry = train(toy_corpus(60), lm, options=options).entry
print(hashlib.sha256(b"".join(x.numpy().tobytes() for x in entry.state_dict().values())).hexdigest())
"""


def test_the_same_seed_gives_the_same_prompt_in_two_processes(capsys: pytest.CaptureFixture[str]) -> None:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums may round by their number
    command = [sys.executable, "-c", SCRIPT]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads})
    exec(SCRIPT, {})
    here = capsys.readouterr().out
    assert here == there.stdout
    assert len(here.strip()) == 64


def test_the_global_random_state_plays_no_part() -> None:
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        run = run_of(LM, prompt_dropout=0.2, steps=3)
        train_runs(LM, [run])
        states.append(state(run))
    assert_same(*states)


@pytest.mark.parametrize("steps", [1, 12, 2000])
def test_the_range_test_leaves_the_run_as_it_was(steps: int) -> None:
    run = run_of(LM, learning_rate="find", steps=steps)
    before, generator = state(run), run.generator.get_state()
    rate = find_learning_rate(LM, run, steps=12)
    assert 1e-4 <= rate <= 0.1
    assert_same(state(run), before)
    assert torch.equal(run.generator.get_state(), generator)
    assert (run.progress.step, run.progress.place) == (0, 0)
    assert all(parameter.grad is None for parameter in run.entry.parameters())


def test_the_range_test_does_not_depend_on_the_planned_steps() -> None:
    """A falling schedule of the run to come must not bend the sweep, nor turn its sign."""
    rates = [find_learning_rate(LM, run_of(LM, learning_rate="find", steps=steps)) for steps in (4, 400)]
    assert rates[0] == rates[1]


def test_a_trial_that_diverges_leaves_no_gradient_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(LM, learning_rate="find")
    original = Run.set_learning_rate

    def explode(self: Run, rate: float) -> None:
        original(self, rate)
        if rate > 0.01:
            with torch.no_grad():
                self.entry.prompt.vectors.fill_(float("nan"))

    monkeypatch.setattr(Run, "set_learning_rate", explode)
    find_learning_rate(LM, run)
    monkeypatch.undo()
    train_runs(LM, [run])
    assert all(torch.isfinite(tensor).all() for tensor in run.entry.state_dict().values())


def test_divergence_is_an_error_that_says_what_to_do() -> None:
    run = run_of(LM, name="speech")
    with torch.no_grad():
        run.entry.prompt.separator[0] = float("inf")
    with pytest.raises(TrainingError, match=r"'speech' diverged at step 0.*--learning-rate"):
        train_runs(LM, [run])


@settings(max_examples=30, deadline=None)
@given(
    warmup=st.floats(0, 0.9),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
    steps=st.integers(1, 50),
)
def test_schedules_rise_then_fall_and_stay_positive(warmup: float, schedule: str, steps: int) -> None:
    run = run_of(LM, warmup=warmup, schedule=schedule, steps=steps)
    rates = [run.rate(step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    warm = int(warmup * steps)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)


def test_balanced_epochs_draw_labels_equally_often() -> None:
    rare = [i for i, row in enumerate(TRAIN.targets.tolist()) if row != [0, 0] or i < 3]
    examples = Examples([TRAIN.units[i] for i in rare], TRAIN.targets[rare])
    options = TrainingOptions(balanced=True, prompt_length=1, batch_size=4)
    run = Run("x", new_entry(TASK, LM, options, examples.units, examples.targets), options, examples, VALID)
    counts = np.zeros((3, 2))
    for _ in range(100 * run.steps_per_epoch):
        for i in run.next_batch():
            counts[tuple(examples.targets[i].tolist())] += 1
    assert counts.min() > 0.7 * counts.max()


def test_every_epoch_sees_every_utterance_once() -> None:
    run = run_of(LM, batch_size=7)
    for _ in range(3):
        seen = [i for _ in range(run.steps_per_epoch) for i in run.next_batch()]
        assert sorted(seen) == list(range(len(TRAIN)))


def test_training_without_material_is_refused() -> None:
    empty = Examples([], torch.zeros(0, 2, dtype=torch.int64))
    run = run_of(LM)
    with pytest.raises(TrainingError, match="no training utterances"):
        Run("x", run.entry, run.options, empty, VALID)
    with pytest.raises(TrainingError, match="no validation utterances"):
        train_runs(LM, [Run("x", run.entry, run.options, TRAIN, empty)])
    with pytest.raises(CorpusError, match="carry no units"):
        Examples.of(TASK, [Utterance("a", "train", {"word": "alpha", "length": "short"})])


def test_a_run_may_start_from_an_artifact() -> None:
    spoken = SpokenLM.of_parts("toy@1", ToyTokenizer(), LM)
    short = {"steps": 1, "evaluations": 1, "prompt_length": 2, "learning_rate": 1e-9, "warmup": 0.0}
    first = train(CORPUS, spoken, ["word"], TrainingOptions(**{**short, "seed": 3}))
    second = train(CORPUS, spoken, ["length"], TrainingOptions(**short), initial=first)
    torch.testing.assert_close(second.entry.prompt.vectors, first.entry.prompt.vectors, atol=1e-6, rtol=0)
    assert isinstance(copy.deepcopy(second), Artifact)
