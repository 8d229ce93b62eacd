"""The frozen decoder's own forward and backward pass is the plain form up to rounding."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from speechprompt.benchmarking.memory_stage import step_bytes
from speechprompt.lms import decoder_units, frozen
from speechprompt.lms.batch import collate
from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.lms.prefix import PrefixBatch, stack_prefixes
from speechprompt.speech.units import Units
from speechprompt.testing import toy_lm


def lm_of(dtype: torch.dtype = torch.float32, layers: int = 3) -> GslmUnitLM:
    torch.manual_seed(0)
    config = GslmConfig(
        vocab_size=34,
        hidden_size=48,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=80,
    )
    model = GslmForCausalLM(config)
    for name, parameter in model.named_parameters():  # biases and norms that are not 0 and 1
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, 0.3)
    return GslmUnitLM(model).to(dtype=dtype)


CASES: list[dict[str, Any]] = [
    {"prompts": [5]},
    {"prompts": [0]},
    {"prompts": [4], "answers": 2, "before": 1},
    {"prompts": [3, 7, 3], "shifted": True},
    {"prompts": [0, 2], "answers": 1},
    {"prompts": [6, 6], "layers": 2, "groups": 2000},
    {"prompts": [3, 7, 3], "kept": 10},
    {"prompts": [3, 7, 3], "answers": 1, "shifted": True, "mean": True},
    {"prompts": [0], "mean": True},
]


def outcome(
    monkeypatch: pytest.MonkeyPatch, by_hand: bool, dtype: torch.dtype, case: dict[str, Any]
) -> list[torch.Tensor]:
    """Hidden states, and gradients of prefixes and separators."""
    monkeypatch.setattr(
        decoder_units, "runs_frozen", frozen.runs_frozen if by_hand else lambda decoder: False
    )
    lm = lm_of(dtype, case.get("layers", 3))
    random = torch.Generator().manual_seed(1)
    lengths = [9, 3, 17, 3, 40, 11, 1]
    batch = collate([Units(torch.randint(30, (n,), generator=random).numpy()) for n in lengths])
    if answers := case.get("answers"):
        batch = batch.with_answers(torch.randint(4, 34, (7, answers), generator=random))
    prefixes = [
        torch.randn(lm.layers, 2, 3, length, 16, generator=random).to(dtype).requires_grad_()
        for length in case["prompts"]
    ]
    rows = torch.randint(len(prefixes), (7,), generator=random)
    separators = torch.randn(7, 48, generator=random).requires_grad_()
    stacked = stack_prefixes(prefixes, rows, [case.get("shifted", False)] * len(prefixes))
    found = [lm.forward(batch, stacked, separators, case.get("before", 0))]
    if case.get("mean"):
        found = list(lm.forward_with_mean(batch, stacked, separators))
    sum(part.float().square().mean() for part in found).backward()  # type: ignore[union-attr]
    return [*(part.detach() for part in found), *(prefix.grad for prefix in prefixes), separators.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_and_gradients_are_those_of_the_plain_form(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechprompt.lms.packing.SCORES_A_GROUP", case.get("groups", 4_000_000))
    monkeypatch.setattr(frozen, "KEPT_WIDTH", case.get("kept", frozen.KEPT_WIDTH))
    plain, ours = (outcome(monkeypatch, by_hand, torch.float32, case) for by_hand in (False, True))
    for theirs, mine in zip(plain, ours, strict=True):
        assert float((theirs - mine).norm()) <= 1e-5 * float(theirs.norm())


def test_bfloat16_is_as_near_to_float32_as_in_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = outcome(monkeypatch, False, torch.float32, CASES[3])
    plain, ours = (outcome(monkeypatch, by_hand, torch.bfloat16, CASES[3]) for by_hand in (False, True))
    for truth, theirs, mine in zip(exact, plain, ours, strict=True):
        assert (mine.float() - truth).norm() < 1.3 * (theirs.float() - truth).norm()


def test_in_bfloat16_the_mean_is_as_near_too(monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"prompts": [3, 7, 3], "mean": True}
    exact = outcome(monkeypatch, False, torch.float32, case)
    plain, ours = (outcome(monkeypatch, by_hand, torch.bfloat16, case) for by_hand in (False, True))
    errors = [
        sum(
            float((mine.float() - truth).norm() / truth.norm())
            for mine, truth in zip(form, exact, strict=True)
        )
        for form in (plain, ours)
    ]
    assert errors[1] < 1.3 * errors[0] < 0.1


def test_without_gradients_the_states_are_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_idle", [])
    with_gradients = outcome(monkeypatch, True, torch.float32, CASES[0])[0]
    assert len(frozen._idle) == 1
    lm, random = lm_of(), torch.Generator().manual_seed(1)
    lengths = [9, 3, 17, 3, 40, 11, 1]
    batch = collate([Units(torch.randint(30, (n,), generator=random).numpy()) for n in lengths])
    prefix = torch.randn(3, 2, 3, 5, 16, generator=random)
    rows = torch.randint(1, (7,), generator=random)
    separators = torch.randn(7, 48, generator=random)
    with torch.inference_mode():
        hidden = lm.forward(batch, stack_prefixes([prefix], rows), separators)
    assert torch.equal(hidden, with_gradients)
    assert len(frozen._idle) == 1, "the buffers of the training step served the prediction"


def test_passes_that_are_open_at_once_do_not_share_buffers() -> None:
    lm = lm_of()
    batch = collate([Units([1, 2, 3]), Units([4, 5, 6, 7])])
    rows = torch.zeros(2, dtype=torch.int64)

    def forward(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        prefix = torch.randn(3, 2, 3, 5, 16, generator=random).requires_grad_()
        separators = torch.randn(2, 48, generator=random)
        return prefix, lm.forward(batch, stack_prefixes([prefix], rows), separators).square().sum()

    alone = []
    for seed in (0, 1):
        prefix, loss = forward(seed)
        loss.backward()
        alone.append(prefix.grad)
    (first, first_loss), (second, second_loss) = forward(0), forward(1)
    (first_loss + second_loss).backward()
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, alone[0])
    assert torch.equal(second.grad, alone[1])
    with pytest.raises(RuntimeError):
        first_loss.backward()


def test_threads_predict_as_one_thread_does() -> None:
    lm = lm_of()
    batches = [collate([Units([i, 2, 3 + i] * (i + 1))]) for i in range(6)]
    prefix = torch.randn(3, 2, 3, 5, 16, generator=torch.Generator().manual_seed(3))

    def scores(i: int) -> torch.Tensor:
        stacked: PrefixBatch = stack_prefixes([prefix], torch.zeros(1, dtype=torch.int64))
        with torch.inference_mode():
            return lm.forward(batches[i], stacked, torch.ones(1, 48))

    alone = [scores(i) for i in range(6)]
    same: list[bool] = []

    def work(i: int) -> None:
        same.extend(torch.equal(scores(i), alone[i]) for _ in range(20))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 120


def test_an_lm_whose_weights_train_takes_the_plain_form() -> None:
    lm = lm_of()
    assert frozen.runs_frozen(lm.model.decoder)
    lm.model.decoder.layers[0].fc1.weight.requires_grad_(True)
    assert not frozen.runs_frozen(lm.model.decoder)
    assert not frozen.runs_frozen(lm_of(layers=1).model.decoder)


def test_long_utterances_keep_no_attention_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy_lm(layers=12)
    monkeypatch.setattr(frozen, "SCORES_A_PIECE", 1)
    monkeypatch.setattr(frozen, "KEPT_WIDTH", 1000)
    kept = step_bytes(lm, 400)
    monkeypatch.setattr(frozen, "KEPT_WIDTH", 16)
    assert step_bytes(lm, 400) < kept / 3
