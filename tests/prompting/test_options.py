"""Recipes, verbalizers and calibration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import CorpusError, UnknownName, UsageError
from speechprompt.prompting.calibration import Calibration, fit_temperature, threshold_for
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import PROMPT_BUDGET, TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import (
    frequency_units,
    learnable,
    learnable_as_published,
    random_units,
)
from speechprompt.speech.manifest import Utterance
from speechprompt.testing import UNIT_COUNT, toy_lm
from toys import TASK, TRAIN, run_of, some_units

LM = toy_lm()
COUNTS = st.lists(st.integers(2, UNIT_COUNT), min_size=1, max_size=3)


def task_of(counts: list[int]) -> Task:
    return Task("t", {f"s{i}": tuple(f"{i}.{j}" for j in range(n)) for i, n in enumerate(counts)})


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 1000))
def test_a_verbalizer_drawn_here_is_injective_in_every_slot(counts: list[int], seed: int) -> None:
    task, generator = task_of(counts), torch.Generator().manual_seed(seed)
    ranks = {slot: list(range(len(labels))) for slot, labels in task.slots.items()}
    for verbalizer in (
        random_units(task, LM, generator),
        frequency_units(task, LM, [1] * UNIT_COUNT, ranks),
        learnable(task, LM, generator),
        learnable_as_published(task, LM, generator) if sum(counts) <= UNIT_COUNT else None,
    ):
        for slot, labels in task.slots.items() if verbalizer else ():
            columns = verbalizer.columns(slot).tolist()
            assert len(set(columns)) == len(labels) == len(columns)
            assert len(set(verbalizer.answers(slot).tolist())) == len(labels)


@settings(max_examples=40, deadline=None)
@given(
    units=st.lists(st.integers(0, 50), min_size=UNIT_COUNT, max_size=UNIT_COUNT),
    labels=st.lists(st.integers(0, 50), min_size=2, max_size=UNIT_COUNT),
)
def test_frequency_maps_rank_to_rank(units: list[int], labels: list[int]) -> None:
    chosen = frequency_units(task_of([len(labels)]), LM, units, {"s0": labels}).columns("s0") - 4
    order = sorted(range(len(labels)), key=lambda i: -labels[i])
    of_units = [units[int(chosen[i])] for i in order]
    assert of_units == sorted(units, reverse=True)[: len(labels)]


def test_more_labels_than_units_need_a_learnable_verbalizer() -> None:
    task, generator = task_of([UNIT_COUNT + 1]), torch.Generator()
    with pytest.raises(UsageError, match="learnable"):
        random_units(task, LM, generator)
    with pytest.raises(UsageError, match="learnable"):
        frequency_units(task, LM, [0] * UNIT_COUNT, {"s0": [0] * (UNIT_COUNT + 1)})
    assert learnable(task, LM, generator).weight.shape == (UNIT_COUNT + 1, UNIT_COUNT + 4)
    with pytest.raises(UsageError, match="do not fit"):
        learnable_as_published(task_of([12, 12]), LM, generator)


def test_only_outputs_with_an_end_can_end() -> None:
    generator = torch.Generator()
    for counts in ([2], [3], [5, 4]):
        task = task_of(counts)
        assert not learnable(task, LM, generator).can_end
        assert learnable_as_published(task, LM, generator).can_end
        assert random_units(task, LM, generator).can_end


def test_tasks_that_contradict_themselves() -> None:
    for slots in ({"a": ("x",)}, {"a": ("x", "x")}):
        with pytest.raises(CorpusError):
            Task("t", slots)


def test_the_paper_s_numbers() -> None:
    paper = TrainingOptions.of_recipe("paper")
    found = (paper.prompt_length, paper.loss, paper.optimiser, paper.learning_rate, paper.batch_size)
    assert found == (5, "published", "published", 5e-3, 32)
    assert (paper.prompt_dropout, paper.verbalizer_dropout, paper.patience, paper.by_epoch) == (
        0.1,
        0.1,
        1,
        True,
    )
    assert (paper.select_by, paper.schedule, paper.warmup, paper.decoding) == (
        "loss",
        "constant",
        0,
        "autoregressive",
    )
    assert (paper.initialisation, paper.method, paper.recipe) == ("normal", "before_projection", "paper")
    assert (paper.label_smoothing, paper.unit_masking, paper.speed_copies) == (0, 0, 0)


@pytest.mark.parametrize(
    ("recipe", "changes", "error", "match"),
    [
        ("papr", {}, UnknownName, "did you mean paper"),
        ("default", {"learning_rat": 1}, UnknownName, "did you mean learning_rate"),
        ("default", {"method": "after"}, UsageError, "'method'"),
        ("default", {"steps": 0}, UsageError, "'steps'"),
        ("default", {"prompt_length": 10**9}, UsageError, "'prompt_length'"),
        ("default", {"prompt_dropout": 1.0}, UsageError, "'prompt_dropout'"),
        ("default", {"learning_rate": "fast"}, UsageError, "'learning_rate'"),
        ("default", {"learning_rate": -1.0}, UsageError, "'learning_rate'"),
        ("default", {"learning_rate": float("nan")}, UsageError, "'learning_rate'"),
        ("default", {"verbalizer_learning_rate": 0.0}, UsageError, "'verbalizer_learning_rate'"),
        ("default", {"recipe": "mine"}, UsageError, "'recipe'"),
        ("default", {"loss": "published"}, UsageError, "--recipe paper"),
    ],
)
def test_wrong_options_are_refused(
    recipe: str, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as found:
        TrainingOptions.of_recipe(recipe, changes)
    assert "\n" not in str(found.value)


def test_slots_that_are_taught_in_turn_are_not_read_at_once() -> None:
    together = TrainingOptions.of_recipe("paper", {"decoding": "parallel", "prompt_length": 1})
    with pytest.raises(UsageError, match="--decoding autoregressive"):
        run_of(toy_lm(), recipe="paper", decoding="parallel")
    alone, one = Task("word", {"word": TASK.slots["word"]}), Examples(TRAIN.units, TRAIN.targets[:, :1])
    Run("word", new_entry(alone, toy_lm(), together, one.units, one.targets), together, one, one)


@settings(max_examples=60)
@given(
    layers=st.integers(1, 48),
    width=st.integers(8, 2048),
    method=st.sampled_from(["before_projection", "input"]),
)
def test_prompts_keep_to_the_budget(layers: int, width: int, method: str) -> None:
    length = TrainingOptions(method=method).length_for(layers, width)
    each = width if method == "input" else 2 * layers * width
    assert 1 <= length <= 20
    assert length == 1 or length * each + width <= PROMPT_BUDGET
    assert length == 20 or (length + 1) * each + width > PROMPT_BUDGET


@given(
    layers=st.integers(1, 40),
    width=st.integers(8, 2048),
    labels=st.integers(2, 600),
    method=st.sampled_from(["before_projection", "input"]),
)
def test_a_verbalizer_of_tens_of_labels_is_in_the_budget(
    layers: int, width: int, labels: int, method: str
) -> None:
    options, size = TrainingOptions(method=method), labels * width
    length = options.length_for(layers, width, size)
    each = width if method == "input" else 2 * layers * width
    alone = options.length_for(layers, width)
    assert 1 <= length <= alone
    if size <= 75_000 - 1:
        assert length == 1 or length * each + width + size < 150_000
        assert length == alone or (length + 1) * each + width + size >= 150_000
    else:
        assert length == alone


def test_a_prompt_and_its_verbalizer_are_counted_together() -> None:
    lm = toy_lm(width=256, layers=12)
    units, targets = some_units([9, 4]), torch.zeros(2, 1, dtype=torch.int64)
    trained = {}
    for count in (8, 200):
        task = Task("many", {"label": tuple(map(str, range(count)))})
        entry = new_entry(task, lm, TrainingOptions(), units, targets)
        trained[count] = (entry.prompt.length, entry.trained_parameters())
    assert trained[8] == (20, 20 * 2 * 12 * 256 + 256 + 8 * (2 * 256 + UNIT_COUNT))
    # the whole utterance would take over half of it: the state alone
    assert trained[200] == (16, 16 * 2 * 12 * 256 + 256 + 200 * 256)
    assert all(count < 150_000 for _, count in trained.values())


def test_a_gslm_s_prompt_and_its_budget() -> None:
    """The paper's five vectors are 122,880 + 1,024 numbers; the default keeps to five, verbalizer included."""
    for name in ("paper", "default"):
        length = TrainingOptions.of_recipe(name).length_for(12, 1024)
        assert (length, 2 * 12 * 1024 * length + 1024) == (5, 122_880 + 1_024)
    assert 122_880 + 1_024 + 104 * 144 < 150_000
    assert TrainingOptions().length_for(4, 128) == 20
    assert TrainingOptions(prompt_length=0).length_for(12, 1024) == 0


@settings(max_examples=10, deadline=None)
@given(true=st.floats(0.3, 4), labels=st.integers(2, 8), seed=st.integers(0, 9))
def test_a_known_temperature_is_found(true: float, labels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    honest = (2 * torch.randn(4000, labels, generator=generator)).log_softmax(1)
    targets = torch.multinomial(honest.exp(), 1, generator=generator)[:, 0]
    assert fit_temperature(honest * true, targets) == pytest.approx(true, rel=0.15)
    calibrated = Calibration({"s": true}).apply("s", honest * true)
    torch.testing.assert_close(calibrated, honest.exp(), atol=1e-5, rtol=0)


def test_too_few_utterances_say_nothing_about_temperature() -> None:
    assert fit_temperature(torch.randn(19, 3).log_softmax(1), torch.zeros(19, dtype=torch.int64)) == 1.0


SCORED = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40
)


@given(rows=SCORED, bound=st.floats(0, 1))
def test_thresholds_keep_their_promise(rows: list[tuple[float, bool]], bound: float) -> None:
    scores = torch.tensor([score for score, _ in rows], dtype=torch.float64)
    right = torch.tensor([x for _, x in rows])
    assert threshold_for(scores, right) == 0.0
    answered = scores >= threshold_for(scores, right, coverage=bound)
    assert int(answered.sum()) >= max(1, round(bound * len(rows)))
    answered = scores >= threshold_for(scores, right, error=bound)
    if answered.any():
        assert float((~right[answered]).float().mean()) <= bound + 1e-6
    # no lower threshold would have kept the bound: the answer is the widest one
    for lower in scores[~answered].tolist():
        assert float((~right[scores >= lower]).float().mean()) > bound - 1e-6


def test_an_utterance_that_does_not_fit_the_task_is_named() -> None:
    task = Task("word", {"word": ("no", "yes")})
    fits, strange, bare = (
        Utterance(name, "test", labels)
        for name, labels in (("a", {"word": "yes"}), ("b", {"word": "maybe"}), ("c", {"size": "big"}))
    )
    assert task.targets([fits]) == [[1]]
    with pytest.raises(CorpusError, match="'b' has word 'maybe', which task 'word' does not know"):
        task.targets([fits, strange])
    with pytest.raises(CorpusError, match="'c' has no label for word"):
        task.targets([bare])
