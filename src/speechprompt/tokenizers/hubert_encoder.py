"""HuBERT up to one layer: waveform -> features, exact for every clip whatever it is batched with.

The convolutions hear one clip at a time, because the base model normalises their first output over time, where
padding would count. Only the transformer, which can mask padding, sees several clips at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import HubertModel

from speechprompt.errors import AudioError
from speechprompt.tokenizers.protocol import Waveform

Chunking = Literal["published", "overlap"]
CHUNK_SAMPLES = 1_600_000
"""The published encoder cuts a clip into pieces of so many samples that do not hear each other."""

OVERLAP_FRAMES = 500
"""With `overlap`, what a window hears on either side of the frames it answers for."""

_BLOCK_FRAMES = 1500  # convolutions at a time: bounds memory, changes nothing
_BATCH_FRAMES = 6000  # of the transformer, padding included
_MOST_PADDING = 1.25  # longest over shortest row of a batch


@dataclass(frozen=True, slots=True)
class _Window:
    """Convolutional features (T,C) of a stretch of a clip, and which of its frames are answered."""

    clip: int
    features: Tensor
    start: int
    end: int


class HubertEncoder:
    """Waveforms -> the output of a HuBERT's last layer, without the final norm that pre-norm models add.

    `chunking` "published": pieces of 1,600,000 samples encoded independently, joined; at each join frames are lost.
    "overlap": convolutions run over the whole clip (also their normalisation), the transformer in windows of as
    many frames that hear 10 s more on either side, so the count of frames is that of the uncut clip. Clips of one
    piece (100 s) are the same in both. Memory is bounded, whatever a clip's length.
    """

    def __init__(self, model: HubertModel, normalize: bool, chunking: Chunking) -> None:
        """`normalize`: every clip to zero mean and unit variance first."""
        self.model, self.normalize, self.chunking = model, normalize, chunking
        config = model.config
        self._sizes = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.hop_samples = math.prod(config.conv_stride)
        self.receptive_samples = 1
        for kernel, stride in reversed(self._sizes):
            self.receptive_samples = (self.receptive_samples - 1) * stride + kernel

    def frame_count(self, samples: int) -> int:
        """Frames of an uncut clip of so many samples."""
        return max(0, (samples - self.receptive_samples) // self.hop_samples + 1)

    @torch.no_grad()
    def features(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """Each clip's features (T,D), fp32 on the model's device. AudioError when shorter than one frame."""
        windows = [window for i, waveform in enumerate(waveforms) for window in self._windows(i, waveform)]
        parts: list[Tensor | None] = [None] * len(windows)
        for rows in _batches([len(window.features) for window in windows]):
            for row, hidden in zip(rows, self._transformed([windows[row] for row in rows]), strict=True):
                parts[row] = hidden
        clips: list[list[Tensor]] = [[] for _ in waveforms]
        for window, part in zip(windows, parts, strict=True):
            assert part is not None
            clips[window.clip].append(part)
        return [torch.cat(pieces) for pieces in clips]

    def _windows(self, index: int, waveform: Waveform) -> Iterator[_Window]:
        samples = self._checked(index, waveform)
        if self.chunking == "published":
            for piece in samples.split(CHUNK_SAMPLES):
                if self.frame_count(len(piece)):
                    features = self._convolved(piece)
                    yield _Window(index, features, 0, len(features))
            return
        features = self._convolved(samples)
        step = self.frame_count(CHUNK_SAMPLES)
        for start in range(0, len(features), step):
            first, end = max(0, start - OVERLAP_FRAMES), min(start + step, len(features))
            yield _Window(index, features[first : end + OVERLAP_FRAMES], start - first, end - first)

    def _checked(self, index: int, waveform: Waveform) -> Tensor:
        array = np.asarray(waveform, dtype=np.float32)
        if array.ndim != 1 or not np.isfinite(array).all():
            raise AudioError(f"clip {index} is not one row of finite samples; decode it to mono first")
        if len(array) < self.receptive_samples:
            raise AudioError(
                f"clip {index} has {len(array)} samples; one frame needs {self.receptive_samples}"
            )
        samples = torch.from_numpy(np.ascontiguousarray(array)).to(self.model.device)
        return functional.layer_norm(samples, samples.shape) if self.normalize else samples

    def _convolved(self, samples: Tensor) -> Tensor:
        """Convolutional features (T,C) of samples (S,), in blocks that join without a seam."""
        count = self.frame_count(len(samples))
        if count <= _BLOCK_FRAMES:
            return self._block(samples)
        scale_and_shift = self._norm_over_time(samples)
        edges = [*range(0, count, _BLOCK_FRAMES), count]
        return torch.cat(
            [
                self._block(samples[start * self.hop_samples : self._reach(end)], scale_and_shift)
                for start, end in pairwise(edges)
            ]
        )

    def _reach(self, end: int) -> int:
        """The sample behind the last that frame `end - 1` hears."""
        return (end - 1) * self.hop_samples + self.receptive_samples

    def _block(self, samples: Tensor, scale_and_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        layers: Any = self.model.feature_extractor.conv_layers
        first, *others = layers
        hidden = samples.to(self.model.dtype)[None, None]
        if scale_and_shift is None:
            hidden = first(hidden)
        else:
            scale, shift = scale_and_shift
            hidden = first.activation((first.conv(hidden).float() * scale + shift).to(hidden.dtype))
        for layer in others:
            hidden = layer(hidden)
        return hidden[0].T

    def _norm_over_time(self, samples: Tensor) -> tuple[Tensor, Tensor] | None:
        """Scale and shift (C,1) that equal the first layer's normalisation over the whole clip, if it has one."""
        first: Any = self.model.feature_extractor.conv_layers[0]
        if self.model.config.feat_extract_norm != "group":
            return None
        kernel, stride = self._sizes[0]
        count = (len(samples) - kernel) // stride + 1
        total = squares = torch.zeros((), dtype=torch.float64, device=samples.device)
        edges = [*range(0, count, _BLOCK_FRAMES * self.hop_samples // stride), count]
        for start, end in pairwise(edges):
            block = samples[start * stride : (end - 1) * stride + kernel].to(self.model.dtype)
            hidden = first.conv(block[None])
            total = total + hidden.sum(1, dtype=torch.float64)
            squares = squares + hidden.double().square().sum(1)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        norm = first.layer_norm
        scale = norm.weight / (variance + norm.eps).sqrt()
        shift = norm.bias - mean * scale
        return scale.float()[:, None], shift.float()[:, None]

    def _transformed(self, windows: Sequence[_Window]) -> Iterator[Tensor]:
        counts = torch.tensor([len(window.features) for window in windows], device=self.model.device)
        features = torch.nn.utils.rnn.pad_sequence([window.features for window in windows], batch_first=True)
        mask = torch.arange(features.shape[1], device=counts.device) < counts[:, None]
        hidden = self.model.feature_projection(features)
        answer = self.model.encoder(hidden, attention_mask=None if mask.all() else mask).last_hidden_state
        return (row[w.start : w.end].float() for row, w in zip(answer, windows, strict=True))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of like length together, shortest first."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        length = lengths[row]
        too_many = (len(batch) + 1) * length > _BATCH_FRAMES
        if batch and (too_many or length > _MOST_PADDING * lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
