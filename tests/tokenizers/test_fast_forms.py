from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from speechprompt.packed_linear import PackedLinear, packs
from speechprompt.tokenizers.spectral_convolution import SpectralConvolution


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=5), st.integers(1, 17), st.sampled_from([1, 2, 4]))
def test_a_spectral_convolution_is_the_convolution(lengths: list[int], taps: int, groups: int) -> None:
    random = torch.Generator().manual_seed(taps)
    weight = torch.randn(8, 8 // groups, taps, generator=random)
    bias = torch.randn(8, generator=random)
    clips = [torch.randn(length, 8, generator=random) for length in lengths]
    for clip, found in zip(clips, SpectralConvolution(weight, bias, groups)(clips), strict=True):
        direct = functional.conv1d(clip.T[None], weight, bias, padding=taps // 2, groups=groups)[0]
        torch.testing.assert_close(found, direct[:, : len(clip)].T, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_linear_layer_is_the_linear_layer(activation: str, rows: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(rows)
    weight = torch.randn(96, 64, generator=random).to(dtype)
    bias = torch.randn(96, generator=random).to(dtype)
    table = torch.randn(rows + 1, 32, generator=random).to(dtype)
    x = table.as_strided((rows, 64), (32, 1))  # overlapping rows, as of a convolution
    exact = functional.linear(x.double(), weight.double(), bias.double())
    exact = {"gelu": functional.gelu, "relu": torch.relu, "none": lambda x: x}[activation](exact)
    found = PackedLinear(weight, bias, activation)(x)  # type: ignore[arg-type]
    assert found.dtype == dtype
    one_rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(found.double(), exact, rtol=one_rounding, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_linear_layer_adds_a_residual(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    weight, bias, x, residual = (
        torch.randn(*shape, generator=random).to(dtype) for shape in ((96, 64), (96,), (40, 64), (40, 96))
    )
    exact = functional.linear(x.double(), weight.double(), bias.double()) + residual.double()
    found = PackedLinear(weight, bias).plus(x, residual)
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance * 16)


def test_without_the_operator_the_plain_call_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(16, 8).bfloat16()
    x = torch.randn(5, 8).bfloat16()
    expected = PackedLinear(weight, None, "gelu")(x).float()
    monkeypatch.setattr("speechprompt.packed_linear.packs", lambda weight: False)
    torch.testing.assert_close(
        PackedLinear(weight, None, "gelu")(x).float(), expected, rtol=2**-6, atol=2**-8
    )
    assert not packs(weight.float())
