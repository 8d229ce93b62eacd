"""Comparison methods: what each changes, what it must leave alone, and that the numbers agree with each other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from speechprompt.errors import MissingExtra, UnknownName, UsageError
from speechprompt.experiments.compare import compare_methods
from speechprompt.experiments.methods import METHODS, check_methods
from speechprompt.experiments.tuning import LORA_RANK, TunedEntry, finetuning_run, lora_run, require_gslm
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Run
from speechprompt.prompting.training import train_runs
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm
from toys import TASK, TRAIN, VALID

OPTIONS = TrainingOptions(steps=3, evaluations=1, batch_size=8)


@contextmanager
def stage(title: str) -> Iterator[Callable[[int, int | None, str], None]]:
    yield lambda done, total, text: None


def weights(lm: GslmUnitLM) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def test_fine_tuning_changes_all_of_a_copy_and_nothing_of_the_lm() -> None:
    frozen = toy_lm()
    before = weights(frozen)
    lm, run = finetuning_run(frozen, TASK, OPTIONS, TRAIN, VALID)
    assert isinstance(lm, GslmUnitLM)
    train_runs(lm, [run])
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(frozen).items())
    assert not any(parameter.requires_grad for parameter in frozen.model.parameters())
    after = weights(lm)
    still = {name for name, tensor in after.items() if torch.equal(before[name], tensor)}
    assert not still
    count = sum(p.numel() for p in frozen.model.parameters())
    assert run.entry.trained_parameters() == count + lm.width + 5 * lm.vocabulary_size
    assert lm.fingerprint == frozen.fingerprint


@pytest.mark.parametrize("form", [finetuning_run, lora_run])
def test_a_rate_that_is_found_leaves_the_lm_s_own_rate(form: Callable[..., tuple[UnitLM, Run]]) -> None:
    _, run = form(toy_lm(), TASK, OPTIONS, TRAIN, VALID)
    assert isinstance(run.entry, TunedEntry)
    run.set_learning_rate(0.5)
    first, *_, last = run._base_rates
    assert (first, last) == (0.5, run.entry.rate)


def test_lora_changes_adapters_alone() -> None:
    frozen = toy_lm()
    before = weights(frozen)
    lm, run = lora_run(frozen, TASK, OPTIONS, TRAIN, VALID)
    assert isinstance(lm, GslmUnitLM)
    count = lm.layers * 2 * 2 * LORA_RANK * lm.width
    assert run.entry.trained_parameters() == count + lm.width + 5 * lm.vocabulary_size
    train_runs(lm, [run])
    adapters = {name: x for name, x in weights(lm).items() if "lora_" in name}
    assert len(adapters) == lm.layers * 2 * 2
    assert all(float(x.abs().sum()) > 0 for name, x in adapters.items() if "lora_B" in name)
    base = {name.replace(".base_layer", ""): x for name, x in weights(lm).items() if "lora_" not in name}
    assert all(torch.equal(before[name], tensor) for name, tensor in base.items())


def test_lora_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    one, two = (lora_run(toy_lm(), TASK, OPTIONS, TRAIN, VALID)[1].entry.state_dict() for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_numbers_of_a_comparison_agree() -> None:
    spoken = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm())
    found = compare_methods(toy_corpus(60), spoken, stage, METHODS, seeds=2, steps=3)
    assert [score.name for score in found.methods] == list(METHODS)
    prompt = found.methods[0]
    assert prompt.difference is None
    for score in found.methods[1:]:
        assert score.difference is not None
        gap = prompt.accuracy.estimate - score.accuracy.estimate
        assert score.difference.estimate == pytest.approx(gap)
        assert score.test is not None
        assert 0 <= score.test.p_value <= 1
        assert found.section.baseline(score.name) is not None
    assert found.utterances == {"train": 36, "valid": 12, "test": 12}
    assert found.interval_over == "speakers"
    assert "2 seeds" in found.section.notices[-1]


def test_methods_are_checked_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_methods(["probe", "n-gram"]) == ["prompt", "n-gram", "probe"]
    with pytest.raises(UnknownName, match="did you mean finetune"):
        check_methods(["finetuned"])
    with pytest.raises(UsageError, match="prompt,n-gram,probe"):
        require_gslm(object(), "lora")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"pip install -e '\.\[peft\]'"):
        check_methods(["lora"])
