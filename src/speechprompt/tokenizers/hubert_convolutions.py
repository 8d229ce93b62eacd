"""HuBERT's convolutions in the forms that are fast: waveform -> features, one clip at a time, in blocks.

The base model normalises its first output over the whole clip. A convolution's mean and variance over time follow
from the moments of the samples that it sees, so the norm becomes part of the first weight, for every clip anew, and
no block needs to have heard the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import HubertModel
from transformers.activations import ACT2FN

from speechprompt.packed_linear import PackedLinear

_MOMENT_ROWS = 1 << 16


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Convolutions in fp32 there, too: cuDNN would round their factors to tf32, and its units would be others."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)


class Geometry:
    """Which samples a frame hears: kernel and stride of every convolution."""

    def __init__(self, kernels: Sequence[int], strides: Sequence[int]) -> None:
        self.sizes = list(zip(kernels, strides, strict=True))
        self.hop_samples = math.prod(strides)
        self.receptive_samples = 1
        for kernel, stride in reversed(self.sizes):
            self.receptive_samples = (self.receptive_samples - 1) * stride + kernel

    def frame_count(self, samples: int) -> int:
        """Frames of so many samples."""
        return max(0, (samples - self.receptive_samples) // self.hop_samples + 1)

    def blocks(self, samples: Tensor, frames: int) -> Iterator[Tensor]:
        """Stretches of samples (S,) whose frames, at most `frames` each, join to those of the whole."""
        edges = [*range(0, self.frame_count(len(samples)), frames), self.frame_count(len(samples))]
        for start, end in pairwise(edges):
            yield samples[start * self.hop_samples : (end - 1) * self.hop_samples + self.receptive_samples]


class Convolutions:
    """Samples (S,) -> features (T,C) of a model's convolutional layers.

    In bfloat16 each layer is one matrix product over overlapping rows of a (T,C) table, with packed weights; the first
    splits samples and weights in two halves each, which costs nothing at ten taps and loses nothing. In fp32 the
    layers are the model's own, which oneDNN multiplies faster than such a product.
    """

    def __init__(self, model: HubertModel) -> None:
        layers: Any = model.feature_extractor.conv_layers
        self._first, *self._others = layers
        self._dtype = model.dtype
        self.geometry = Geometry(model.config.conv_kernel, model.config.conv_stride)
        self._grouped = model.config.feat_extract_norm == "group"
        self._activation = ACT2FN[model.config.feat_extract_activation]
        self._fused = self._grouped and model.config.feat_extract_activation == "gelu"
        self._products: list[PackedLinear] = []
        if self._dtype != torch.float32:
            self._products = [self._product(layer.conv) for layer in self._others]

    def _product(self, convolution: Any) -> PackedLinear:
        weight = convolution.weight.transpose(1, 2).flatten(1)
        return PackedLinear(weight, convolution.bias, "gelu" if self._fused else "none")

    def __call__(self, samples: Tensor, block_frames: int) -> Tensor:
        """Features (T,C) of fp32 samples (S,), so many frames at a time."""
        run = self._block_by_products if self._products else self._block
        with full_precision(samples.device):
            return self._features(run, samples, block_frames)

    def _features(self, run: Any, samples: Tensor, block_frames: int) -> Tensor:
        weight, bias = self._first_weight(samples)
        return torch.cat([run(block, weight, bias) for block in self.geometry.blocks(samples, block_frames)])

    def _first_weight(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight (C,kernel) and bias (C,) of the first layer, its norm over this clip's time included; fp32."""
        convolution, (kernel, stride) = self._first.conv, self.geometry.sizes[0]
        weight = convolution.weight[:, 0].double()
        bias = None if convolution.bias is None else convolution.bias.double()
        if self._grouped:
            mean, covariance = _moments(samples.unfold(0, kernel, stride))
            norm = self._first.layer_norm
            variance = ((weight @ covariance) * weight).sum(1).clamp_min(0)
            scale = norm.weight.double() / (variance + norm.eps).sqrt()
            # the convolution's own bias would leave with the mean
            bias = norm.bias.double() - scale * (weight @ mean)
            weight = scale[:, None] * weight
        return weight.float(), None if bias is None else bias.float()

    def _block(self, samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        hidden = functional.conv1d(samples[None, None], weight[:, None], bias, self.geometry.sizes[0][1])
        if not self._grouped:
            hidden = self._first.layer_norm(hidden.transpose(1, 2)).transpose(1, 2)
        hidden = self._activation(hidden)
        for layer in self._others:
            hidden = layer(hidden)
        return hidden[0].T

    def _block_by_products(self, samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = samples.unfold(0, *self.geometry.sizes[0])
        hidden = self._activation(self._normed(self._first_product(rows, weight, bias), self._first))
        for layer, product, (kernel, stride) in zip(
            self._others, self._products, self.geometry.sizes[1:], strict=True
        ):
            count, width = (len(hidden) - kernel) // stride + 1, hidden.shape[1]
            hidden = product(hidden.as_strided((count, kernel * width), (stride * width, 1)))
            if not self._fused:
                hidden = self._activation(self._normed(hidden, layer))
        return hidden

    def _normed(self, hidden: Tensor, layer: Any) -> Tensor:
        return hidden if self._grouped else layer.layer_norm(hidden)

    def _first_product(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """rows (T,kernel) times weight, all in halves of the precision: high, low and high with high, high and low."""
        high, low = _halves(rows, self._dtype)
        weight_high, weight_low = _halves(weight, self._dtype)
        columns, weights = [high, low, high], [weight_high, weight_high, weight_low]
        if bias is not None:
            columns.append(high.new_ones(len(rows), 2))
            weights.append(torch.stack(_halves(bias, self._dtype), 1))
        return functional.linear(torch.cat(columns, 1), torch.cat(weights, 1))


def _halves(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    high = x.to(dtype)
    return high, (x - high).to(dtype)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (k,) and covariance (k,k) of rows (T,k), in fp64."""
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    squares = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for some in rows.split(_MOMENT_ROWS):
        exact = some.double()
        total += exact.sum(0)
        squares += exact.T @ exact
    mean = total / len(rows)
    return mean, squares / len(rows) - mean[:, None] * mean
