"""Both forms of attention are one function."""

from __future__ import annotations

import pytest
import torch

from speechprompt.lms.transformer import attend, attend_written_out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [1, 7])
def test_attention_written_out_equals_the_fused_kernel(masked: bool, queries: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 2, queries, 8, requires_grad=True)
    k, v = (torch.randn(3, 2, queries + 4 * masked, 8, requires_grad=True) for _ in range(2))
    mask = None
    if masked:
        mask = torch.rand(3, 1, queries, queries + 4) > 0.3
        mask[..., 0] = True
    results = [function(q, k, v, mask) for function in (attend, attend_written_out)]
    assert torch.allclose(results[0], results[1], atol=1e-6)
    gradients = [torch.autograd.grad(result.square().sum(), (q, k, v)) for result in results]
    for fused, written in zip(*gradients, strict=True):
        assert torch.allclose(fused, written, atol=1e-5)
