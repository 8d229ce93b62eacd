"""The sizes that a pitch tracker computes at, given the highest F0 it looks for; clips brought to its rate.

Sizes follow pGSLM's call of YAAPT: frames of 20 (40, 25) ms every 5 ms, on a band whose top is the fourth harmonic
of the highest F0, nearly: 1500 Hz for 400 Hz. Twice the rate takes F0 up to 800 Hz. Frames of all clips are measured
together in blocks of one fixed shape (`in_blocks`): kernels choose how they round by shape, so a frame's measures are
the same to the bit whichever frames share its block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.signal import firwin
from torch import Tensor
from torch.nn import functional

LOWEST = 60.0
SMALLEST_HIGHEST, USUAL_HIGHEST, UTMOST_HIGHEST = 200, 400, 800
"""Hz: F0 is looked for from `LOWEST` to YAAPT's 400, or to any other limit between these."""

BIN = 4000 / 2048
"""Hz between spectral bins, YAAPT's 8192 points at 16 kHz. Twice as wide they triple the gross errors against it: its
choices hang on single bins."""

TAPS = 151
LOWEST_EDGE, HIGHEST_EDGE = 50.0, 1500.0
BLOCK = 512
"""Rows that are measured at once."""


@dataclass(frozen=True, slots=True)
class PitchGrid:
    """Rate and sizes in samples for F0 up to `highest` Hz, `SMALLEST_HIGHEST` to `UTMOST_HIGHEST`."""

    highest: int = USUAL_HIGHEST

    @property
    def fold(self) -> int:
        """1 for YAAPT's range, 2 beyond: by how much rate and sizes grow."""
        return 1 if self.highest <= USUAL_HIGHEST else 2

    @property
    def rate(self) -> int:
        """Samples per second behind the band-pass."""
        return 4000 * self.fold

    @property
    def hop(self) -> int:
        """Samples in 5 ms."""
        return 20 * self.fold

    @property
    def energy_frame(self) -> int:
        """Samples of a frame whose energy is measured."""
        return 80 * self.fold

    @property
    def spectrum_frame(self) -> int:
        """Samples of a frame whose harmonics are measured."""
        return 160 * self.fold

    @property
    def correlation_frame(self) -> int:
        """Samples of a frame that is correlated with itself."""
        return 100 * self.fold

    @property
    def highest_bin(self) -> int:
        """The spectral bin of `highest`."""
        return round(self.highest / BIN)

    @property
    def lag_bias(self) -> float:
        """Samples of 16 kHz by which lags are read long: one, as YAAPT does; none where it has no say."""
        return 1.0 if self.fold == 1 else 0.0


def in_blocks(
    measure: Callable[..., tuple[Tensor, ...]], *rows: Tensor, size: int = BLOCK
) -> tuple[Tensor, ...]:
    """`measure` of tensors (M,...), a block of `size` rows at a time; rows that fill up the last are zeros."""
    count = len(rows[0])
    found = []
    for first in range(0, count, size):
        part = [tensor[first : first + size] for tensor in rows]
        missing = size - len(part[0])
        if missing:
            part = [torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) for tensor in part]
        found.append(measure(*part))
    return tuple(torch.cat(parts)[:count] for parts in zip(*found, strict=True))


@cache
def _band_pass(grid: PitchGrid, sample_rate: int) -> Tensor:
    """The band-pass as matrices (hop of samples, parts of hop outputs): what each sample adds to each output."""
    edges = (LOWEST_EDGE, HIGHEST_EDGE * grid.fold)
    taps = firwin(TAPS, [edge / (sample_rate / 2) for edge in edges], pass_zero=False)[::-1]
    step = sample_rate // grid.rate
    parts = -(-((grid.hop - 1) * step + TAPS) // (grid.hop * step))
    matrix = np.zeros((parts * grid.hop * step, grid.hop), dtype=np.float32)
    for output in range(grid.hop):
        matrix[output * step : output * step + TAPS, output] = taps
    parted = matrix.reshape(parts, grid.hop * step, grid.hop).swapaxes(0, 1)
    return torch.from_numpy(parted.reshape(grid.hop * step, -1).copy())


def low_band(grid: PitchGrid, waveforms: Tensor, lengths: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """The low bands of waveforms (B,S) and of their squares at the grid's rate: (B, S/step) each.

    Zero behind each clip's `lengths` (B,). Each hop of samples is multiplied once, with all parts of the filter; what
    hops add to one another overlaps.
    """
    step = sample_rate // grid.rate
    matrix, width = _band_pass(grid, sample_rate).to(waveforms), grid.hop * step
    parts = matrix.shape[1] // grid.hop
    padded = functional.pad(waveforms, (TAPS - 1, -(waveforms.shape[1] + TAPS - 1) % width + parts * width))
    hops = -(-waveforms.shape[1] // width)
    kept = torch.arange(hops * grid.hop, device=waveforms.device) * step < lengths[:, None]

    def joined(products: Tensor) -> Tensor:
        products = products.view(len(waveforms), -1, parts, grid.hop)
        band = products[:, :hops, 0].contiguous()
        for part in range(1, parts):
            band += products[:, part : part + hops, part]
        return band.flatten(1).mul_(kept)

    plain, squared = in_blocks(
        lambda block: (block @ matrix, block.square() @ matrix), padded.view(-1, width)
    )
    return joined(plain), joined(squared)


def frames_of(grid: PitchGrid, band: Tensor, width: int, count: int) -> Tensor:
    """Frames (B,count,width) every 5 ms from the first sample on, a view; zeros beyond the end."""
    needed = (count - 1) * grid.hop + width
    band = functional.pad(band, (0, max(0, needed - band.shape[1])))
    return band.unfold(1, width, grid.hop)[:, :count]
