"""What a pretraining computes in."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

from speechprompt.pretraining.optimisation import Schedule, half_precision, optimise
from speechprompt.pretraining.run_folder import RunFolder


@pytest.mark.parametrize(("in_hardware", "asked"), [(True, True), (True, False), (False, True)])
def test_bfloat16_is_for_processors_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, asked: bool
) -> None:
    monkeypatch.setattr("speechprompt.pretraining.optimisation.multiplies_bfloat16", lambda: in_hardware)
    a = torch.ones(2, 2)
    with half_precision(a.device, asked):
        product = a @ a
    assert product.dtype == (torch.bfloat16 if in_hardware and asked else torch.float32)


def test_a_state_of_another_device_goes_on_as_this_one_does_it(tmp_path: Path) -> None:
    def trained(name: str, steps: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        run = RunFolder(tmp_path / name, {})
        schedule = Schedule(4, 0.1, 0, save_every=2)

        def loss_at(step: int) -> torch.Tensor:
            if step == steps:
                raise KeyboardInterrupt
            return model(torch.randn(5, 3)).square().mean()

        with contextlib.suppress(KeyboardInterrupt):
            optimise(model, loss_at, dict, schedule, run, 0, False)
        return model

    whole = trained("whole", 4)
    trained("parts", 2)
    state = torch.load(tmp_path / "parts" / "state.pt")
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = True
    torch.save(state, tmp_path / "parts" / "state.pt")
    resumed = trained("parts", 4)
    assert torch.equal(whole.weight, resumed.weight)
    last = torch.load(tmp_path / "parts" / "state.pt")
    assert [group["fused"] for group in last["optimiser"]["param_groups"]] == [None, None]
