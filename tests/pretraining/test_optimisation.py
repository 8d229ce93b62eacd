"""What a pretraining computes in."""

from __future__ import annotations

import pytest
import torch

from speechprompt.pretraining.optimisation import half_precision


@pytest.mark.parametrize(("in_hardware", "asked"), [(True, True), (True, False), (False, True)])
def test_bfloat16_is_for_processors_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, asked: bool
) -> None:
    monkeypatch.setattr("speechprompt.pretraining.optimisation.multiplies_bfloat16", lambda: in_hardware)
    a = torch.ones(2, 2)
    with half_precision(a.device, asked):
        product = a @ a
    assert product.dtype == (torch.bfloat16 if in_hardware and asked else torch.float32)
