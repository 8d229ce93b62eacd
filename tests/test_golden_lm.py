"""The reference's numbers for the bare GSLM: states, loss, 1,500 units, greedy continuation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from golden_cases import assert_golden, golden_case

pytestmark = pytest.mark.golden


@torch.no_grad()
def test_states_logits_and_loss(shared: Path) -> None:
    case = golden_case(shared, "f_plain_lm")
    model, source, target = case.lm.model, case.tensor("src_tokens"), case.tensor("target")
    valid = source != 1
    out = model(source, attention_mask=valid.long(), output_hidden_states=True)
    for i in range(model.config.num_hidden_layers):
        assert_golden(out.hidden_states[i][valid], case.tensor(f"hidden/{i}")[valid])
    assert_golden(out.hidden_states[-1][valid], case.tensor("features")[valid])
    assert_golden(out.logits[valid], case.tensor("logits")[valid])
    logs = out.logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    assert_golden(logs[target != 1], case.tensor("target_lprobs")[target != 1])
    assert_golden(-logs[target != 1].sum(), case.tensor("loss_sum").reshape(()))
    assert int((target != 1).sum()) == int(case.tensor("sample_size"))
    labels = torch.where(valid, source, -100)
    loss = model(source, attention_mask=valid.long(), labels=labels).loss
    expected = functional.cross_entropy(
        case.tensor("logits")[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def test_1500_units(shared: Path) -> None:
    case = golden_case(shared, "f_plain_lm")
    logits = case.lm.model(case.tensor("long/src_tokens")).logits
    assert_golden(logits[:, :50], case.tensor("long/logits_first50"))
    assert_golden(logits[:, -50:], case.tensor("long/logits_last50"))


@torch.no_grad()
def test_greedy_continuation(shared: Path) -> None:
    """`generate`, from all rows at once and from a left-padded batch; the reference forces a last `</s>`."""
    case = golden_case(shared, "f_plain_lm")
    prefix, expected = case.tensor("gen/prefix"), case.tensor("gen/tokens")
    assert (expected[:, -1] == 2).all()
    expected, padding = expected[:, :-1], torch.full((len(prefix), 3), 1)
    mask = torch.ones_like(prefix)
    for front in (padding[:, :0], padding):
        continued = case.lm.model.generate(
            torch.cat([front, prefix], 1),
            attention_mask=torch.cat([torch.zeros_like(front), mask], 1),
            do_sample=False,
            max_length=expected.shape[1] + front.shape[1],
            eos_token_id=None,
        )
        assert torch.equal(continued[:, front.shape[1] :], expected)
