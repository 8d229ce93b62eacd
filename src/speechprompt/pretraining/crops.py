"""Random crops of clips with what their frames are called: read clip by clip, or gathered where all of them lie.

Both draw the same crops from the same generator. Knows frames and ids; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprompt.pretraining.frames import SpeechFrames
from speechprompt.tokenizers.mel_encoder import frame_mask

_PIECE = 200_000  # how many frames go to the device at once
_LABEL_BYTES = 12  # of a frame's cluster, phoneme and trust


@dataclass(frozen=True, slots=True)
class Targets:
    """What each clip's frames are to be called: `clusters` and, -1 where unknown, `phonemes`, a row (T,) a clip.

    `trust` says what each frame's phoneme counts in the mean cost, by default 1.
    """

    clusters: Sequence[NDArray[np.integer]]
    cluster_count: int
    phonemes: Sequence[NDArray[np.integer]] | None = None
    phoneme_count: int = 0
    trust: Sequence[NDArray[np.floating]] | None = None


@dataclass(frozen=True, slots=True)
class Crops:
    """A batch: frames (B,T,2*mels), which of them are real, their clusters, phonemes and trust, (B,T) each."""

    frames: Tensor
    real: Tensor
    clusters: Tensor
    phonemes: Tensor
    trust: Tensor


class CropSource(Protocol):
    """Whoever draws crops of clips."""

    def draw(self, rows: Sequence[int], rng: np.random.Generator) -> Crops:
        """A crop of each of the clips `rows`, begun at random; padding has cluster 0, phoneme -1 and trust 1."""
        ...


def crop_source(
    speech: SpeechFrames, targets: Targets, crop_frames: int, device: torch.device | str
) -> CropSource:
    """Crops of at most `crop_frames` frames on `device`; a GPU with room for all the speech takes it in."""
    kind = ResidentCrops if has_room(speech, torch.device(device)) else StoredCrops
    return kind(speech, targets, crop_frames, torch.device(device))


def has_room(speech: SpeechFrames, device: torch.device) -> bool:
    """Whether the device is a GPU that all frames and their labels fill no more than half of what is free."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return speech.values.nbytes + _LABEL_BYTES * len(speech.values) <= free // 2


class StoredCrops:
    """Crops put together in memory from frames that stay on disk, then sent to the device."""

    def __init__(
        self, speech: SpeechFrames, targets: Targets, crop_frames: int, device: torch.device
    ) -> None:
        self._speech, self._targets, self._crop_frames, self._device = speech, targets, crop_frames, device
        self._lengths: list[int] = np.diff(speech.offsets).tolist()

    def draw(self, rows: Sequence[int], rng: np.random.Generator) -> Crops:
        """A crop of each of the clips `rows`, begun at random."""
        starts, counts = _chosen([self._lengths[row] for row in rows], self._crop_frames, rng)
        targets = self._targets
        frames = np.zeros((len(rows), max(counts), self._speech.values.shape[1]), np.float32)
        clusters, phonemes = np.zeros(frames.shape[:2], np.int64), np.full(frames.shape[:2], -1, np.int64)
        trust = np.ones(frames.shape[:2], np.float32)
        for i, (row, start, count) in enumerate(zip(rows, starts, counts, strict=True)):
            frames[i, :count] = self._speech.clip(row)[start : start + count]
            clusters[i, :count] = targets.clusters[row][start : start + count]
            if targets.phonemes is not None:
                phonemes[i, :count] = targets.phonemes[row][start : start + count]
            if targets.trust is not None:
                trust[i, :count] = targets.trust[row][start : start + count]
        real = frame_mask(torch.tensor(counts), frames.shape[1])
        named = (torch.from_numpy(part) for part in (clusters, phonemes, trust))
        return Crops(*(part.to(self._device) for part in (torch.from_numpy(frames), real, *named)))


class ResidentCrops:
    """Crops gathered on the device, where all frames and labels lie; a batch costs it one copy of two small rows."""

    def __init__(
        self, speech: SpeechFrames, targets: Targets, crop_frames: int, device: torch.device
    ) -> None:
        self._crop_frames, self._device, self._offsets = crop_frames, device, speech.offsets
        self._lengths: list[int] = np.diff(speech.offsets).tolist()
        self._frames = _moved(speech.values, device)
        self._clusters = _joined(targets.clusters, np.int32, device)
        self._phonemes = None if targets.phonemes is None else _joined(targets.phonemes, np.int32, device)
        self._trust = None if targets.trust is None else _joined(targets.trust, np.float32, device)

    def draw(self, rows: Sequence[int], rng: np.random.Generator) -> Crops:
        """A crop of each of the clips `rows`, begun at random; waits for nothing that the device does."""
        starts, counts = _chosen([self._lengths[row] for row in rows], self._crop_frames, rng)
        sent = torch.from_numpy(np.stack([self._offsets[list(rows)] + starts, counts]))
        if self._device.type == "cuda":
            sent = sent.pin_memory()  # or the copy would wait
        first, length = sent.to(self._device, non_blocking=True)[..., None]  # (B,1) each
        steps = torch.arange(max(counts), device=self._device)
        real = steps < length
        places = torch.where(real, first + steps, first)  # (B,T), of padding any that exists
        frames = self._frames[places].float().masked_fill(~real[..., None], 0.0)
        clusters = self._clusters[places].long().masked_fill(~real, 0)
        if self._phonemes is None:
            phonemes = torch.full_like(clusters, -1)
        else:
            phonemes = self._phonemes[places].long().masked_fill(~real, -1)
        if self._trust is None:
            trust = torch.ones(real.shape, device=self._device)
        else:
            trust = self._trust[places].masked_fill(~real, 1.0)
        return Crops(frames, real, clusters, phonemes, trust)


def _chosen(lengths: Sequence[int], most: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Where the crop of each clip starts, and how many frames it has."""
    counts = [min(length, most) for length in lengths]
    # one draw a clip: an array of bounds need not draw the same numbers
    pairs = zip(lengths, counts, strict=True)
    return [int(rng.integers(length - count + 1)) for length, count in pairs], counts


def _moved(values: NDArray[np.float16], device: torch.device) -> Tensor:
    """A copy on the device, made in pieces so that memory stays bounded by one of them."""
    moved = torch.empty(values.shape, dtype=torch.float16, device=device)
    for first in range(0, len(values), _PIECE):
        piece = np.array(values[first : first + _PIECE])
        moved[first : first + len(piece)] = torch.from_numpy(piece)
    return moved


def _joined(
    rows: Sequence[NDArray[np.integer] | NDArray[np.floating]],
    dtype: type[np.int32] | type[np.float32],
    device: torch.device,
) -> Tensor:
    """The labels of all clips end to end."""
    return torch.from_numpy(np.concatenate(rows).astype(dtype)).to(device)
