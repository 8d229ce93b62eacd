"""HuBERT up to one layer: waveform -> features, exact for every clip whatever it is batched with.

The convolutions hear one clip at a time, because the base model normalises their first output over time. The
transformer takes the frames of several clips in one table, without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import HubertModel

from speechprompt.errors import AudioError
from speechprompt.tokenizers.hubert_convolutions import Convolutions, Geometry
from speechprompt.tokenizers.hubert_transformer import Transformer
from speechprompt.tokenizers.protocol import Waveform

Chunking = Literal["published", "overlap"]
CHUNK_SAMPLES = 1_600_000
"""The published encoder cuts a clip into pieces of so many samples that do not hear each other."""

OVERLAP_FRAMES = 500
"""With `overlap`, what a window hears on either side of the frames it answers for."""

_BLOCK_FRAMES = 100  # convolutions at a time: what stays in the cache; changes nothing
_BATCH_FRAMES = 6000  # of the transformer


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
        self.geometry = Geometry(model.config.conv_kernel, model.config.conv_stride)
        self.hop_samples = self.geometry.hop_samples

    @cached_property
    def _convolutions(self) -> Convolutions:
        return Convolutions(self.model)

    @cached_property
    def _transformer(self) -> Transformer:
        return Transformer(self.model)

    def to(self, device: torch.device | str) -> None:
        """Move the model in place; its fast forms are made anew at the next use."""
        torch.nn.Module.to(self.model, device)
        for form in ("_convolutions", "_transformer"):
            self.__dict__.pop(form, None)

    def frame_count(self, samples: int) -> int:
        """Frames of an uncut clip of so many samples."""
        return self.geometry.frame_count(samples)

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
        needed = self.geometry.receptive_samples
        if len(array) < needed:
            raise AudioError(
                f"clip {index} lasts {len(array) / 16:.0f} ms; a clip needs at least {needed / 16:.0f} ms"
            )
        samples = torch.from_numpy(np.ascontiguousarray(array)).to(self.model.device)
        return functional.layer_norm(samples, samples.shape) if self.normalize else samples

    def _convolved(self, samples: Tensor) -> Tensor:
        """Convolutional features (T,C) of samples (S,), in blocks that join without a seam."""
        return self._convolutions(samples, _BLOCK_FRAMES)

    def _transformed(self, windows: Sequence[_Window]) -> Iterator[Tensor]:
        answer = self._transformer([window.features for window in windows])
        return (row[w.start : w.end] for row, w in zip(answer, windows, strict=True))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of at most `_BATCH_FRAMES` frames together, shortest first."""
    batch: list[int] = []
    frames = 0
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and frames + lengths[row] > _BATCH_FRAMES:
            yield batch
            batch, frames = [], 0
        batch.append(row)
        frames += lengths[row]
    if batch:
        yield batch
