"""Layers that are packed for prediction in bfloat16 answer as the plain form does, up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from speechprompt.lms import decoder_units, frozen, packed_layers
from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.lms.prefix import stack_prefixes
from speechprompt.packed_linear import packs
from speechprompt.speech.units import Units

LENGTHS = [9, 3, 17, 3, 150, 11, 1, 160]
CASES: list[dict[str, Any]] = [
    {"prompts": [5]},
    {"prompts": [0]},
    {"prompts": [3, 7, 3], "shifted": True},
    {"prompts": [4], "answers": 2, "before": 1},
    {"prompts": [4, 6], "rows_a_block": 7, "scores_a_piece": 1000},
    {"prompts": [3, 7, 3], "mean": True},
]

pytestmark = pytest.mark.skipif(
    not packs(torch.zeros(1, dtype=torch.bfloat16)), reason="this torch has no packed products"
)


def lm_of() -> GslmUnitLM:
    torch.manual_seed(0)
    config = GslmConfig(
        vocab_size=34, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96
    )
    model = GslmForCausalLM(config)
    for name, parameter in model.named_parameters():  # biases and norms that are not 0 and 1
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, 0.3)
    return GslmUnitLM(model)


def batch_of(case: dict[str, Any], random: torch.Generator) -> UnitBatch:
    batch = collate([Units(torch.randint(30, (n,), generator=random).numpy()) for n in LENGTHS])
    answers = case.get("answers", 0)
    if not answers:
        return batch
    return batch.with_answers(torch.randint(4, 34, (len(LENGTHS), answers), generator=random))


@torch.inference_mode()
def hidden_of(lm: GslmUnitLM, case: dict[str, Any]) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    batch = batch_of(case, random)
    prefixes = [
        torch.randn(lm.layers, 2, 4, length, 16, generator=random).to(lm.dtype) for length in case["prompts"]
    ]
    rows = torch.randint(len(prefixes), (len(LENGTHS),), generator=random)
    separators = torch.randn(len(LENGTHS), 64, generator=random)
    stacked = stack_prefixes(prefixes, rows, [case.get("shifted", False)] * len(prefixes))
    if case.get("mean"):
        return lm.forward_with_mean(batch, stacked, separators)[1]
    return lm.forward(batch, stacked, separators, case.get("before", 0)).float()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_layers_are_as_near_to_float32_as_the_plain_form(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_layers, "QUERIES_A_BLOCK", case.get("rows_a_block", 128))
    monkeypatch.setattr(packed_layers, "SCORES_A_PIECE", case.get("scores_a_piece", 400_000))
    asked: list[int] = []
    call = packed_layers.PackedLayer.__call__

    def counted(self: packed_layers.PackedLayer, x: torch.Tensor, index: int, *rest: Any) -> torch.Tensor:
        asked.append(index)
        return call(self, x, index, *rest)

    monkeypatch.setattr(packed_layers.PackedLayer, "__call__", counted)
    rest, rests = packed_layers.PackedRest.__call__, []

    def resting(self: packed_layers.PackedRest, mixed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        rests.append(len(x))
        return rest(self, mixed, x)

    monkeypatch.setattr(packed_layers.PackedRest, "__call__", resting)
    truth = hidden_of(lm_of(), case)
    assert not asked, "float32 takes the other form"
    lm = lm_of().to(dtype=torch.bfloat16)
    ours = hidden_of(lm, case)
    assert asked == [0, 1], "the last layer works for the wanted rows only"
    assert len(rests) == 3
    assert rests[2] < rests[0]
    monkeypatch.setattr(decoder_units, "runs_frozen", lambda decoder: False)
    plain = hidden_of(lm, case)
    assert (ours - truth).norm() < 1.3 * (plain - truth).norm()
    assert (ours - truth).norm() < 0.05 * truth.norm()


@pytest.mark.parametrize(("layer", "linear"), [(1, "self_attn.v_proj"), (2, "fc1")], ids=["middle", "last"])
def test_changed_weights_are_packed_anew(layer: int, linear: str) -> None:
    lm = lm_of().to(dtype=torch.bfloat16)
    before = hidden_of(lm, CASES[0])
    assert torch.equal(hidden_of(lm, CASES[0]), before)
    with torch.no_grad():
        lm.model.decoder.layers[layer].get_submodule(linear).bias.add_(1)
    changed = hidden_of(lm, CASES[0])
    assert not torch.allclose(changed, before, atol=0.05)
    fresh = lm_of().to(dtype=torch.bfloat16)
    with torch.no_grad():
        fresh.model.decoder.layers[layer].get_submodule(linear).bias.add_(1)
    assert torch.equal(hidden_of(fresh, CASES[0]), changed)


def test_what_trains_takes_the_form_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        frozen, "packed_decoder", lambda decoder: pytest.fail("packed layers have no gradients")
    )
    lm = lm_of().to(dtype=torch.bfloat16)
    prefix = torch.randn(3, 2, 4, 5, 16).to(torch.bfloat16).requires_grad_()
    batch = collate([Units([1, 2, 3])])
    rows = torch.zeros(1, dtype=torch.int64)
    lm.forward(batch, stack_prefixes([prefix], rows), torch.ones(1, 64)).float().sum().backward()
    assert prefix.grad is not None
    assert prefix.grad.abs().sum() > 0
