"""Where pitch may be, frame by frame: low-band energy, spectral harmonics, cross-correlation peaks.

The measures are those of YAAPT (Zahorian and Hu 2008, sections II.A to II.C), computed on a `PitchGrid`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from speechprompt.tokenizers.pitch_grid import BIN, LOWEST, PitchGrid
from speechprompt.tokenizers.pitch_paths import sliding_maximum

ENERGY_SPACING = 280 / 24  # Hz

HARMONICS = 4
HARMONIC_WINDOW, HARMONIC_STEP = 10, 2  # bins on either side (20 Hz), and which of them
PEAK_DISTANCE = 13  # bins: 25 Hz
SPECTRAL_PEAKS = 4
LOWEST_BIN = 31
SPECTRA = 64
"""Frames transformed at once, and a whole block: more do not fit the cache, and each then takes twice as long."""
SPECTRAL_BLOCK = 256

FINE = 2
"""Lags a sample; peaks are read between them, on a parabola."""
CORRELATION_PEAKS = 3
LAG_COST = 0.02
PEAK_THRESHOLD, PEAK_ALONE = 0.25, 0.9
YAAPT_RATE = 16000
NEAR = 3
"""Half samples around half a period in which a peak is looked for."""


class Peaks(NamedTuple):
    """Correlation peaks of M frames: `pitch` in Hz and `merit` (M,3), 0 where there are fewer; `halved` (M,).

    `halved` is the height of a peak at half of the first one's lag, 0 where there is none.
    """

    pitch: Tensor
    merit: Tensor
    halved: Tensor


def low_frequency_energy(grid: PitchGrid, frames: Tensor) -> tuple[Tensor]:
    """Sum of spectral magnitudes between 2 x 60 Hz and the highest F0 of each 20 ms frame (M,S), (M,)."""
    cosines, sines = (frames @ _energy_basis(grid, frames.device)).chunk(2, -1)
    return ((cosines.square() + sines.square()).sqrt().sum(-1),)


@cache
def _energy_basis(grid: PitchGrid, device: torch.device) -> Tensor:
    times = torch.arange(grid.energy_frame, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * (times + 0.25) / (grid.energy_frame + 0.25))
    count = max(1, round((grid.highest - 2 * LOWEST) / ENERGY_SPACING))
    places = torch.arange(count, dtype=torch.float64) + 0.5
    frequencies = 2 * LOWEST + (grid.highest - 2 * LOWEST) / count * places
    angles = 2 * torch.pi * times[:, None] * frequencies / grid.rate
    return (torch.cat([angles.cos(), angles.sin()], 1) * window[:, None]).float().to(device)


def spectral_candidates(grid: PitchGrid, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies in Hz and merits (M,4) with energy at their first four multiples, of frames (M,S).

    Frequency 0 where no multiple stands out or too many do; merit is relative to the frame's best. Frequencies are
    reported one bin low, as YAAPT does.
    """
    weighted = frames * _spectral_window(grid, frames.device)
    sums = _harmonic_sum(grid, _magnitudes(grid, weighted - weighted.mean(1, keepdim=True)))
    highest, mean = sums.amax(0).clamp_(min=1e-14), sums.mean(0)
    inside = slice(PEAK_DISTANCE + 1, -PEAK_DISTANCE)
    isolated = sliding_maximum(sums, PEAK_DISTANCE).eq_(sums).mul_(sums)[inside]
    heights, places = _highest(isolated, SPECTRAL_PEAKS, 0)
    heights, places, highest, mean = heights.T, places.T, highest[:, None], mean[:, None]
    heights = heights * (heights > 1.25 * mean)
    first, last = heights[:, :1], heights[:, -1:]
    clear = (mean <= 0.2 * highest) & (first >= 5 * mean) & (first > 0) & (last == 0)
    none = heights == 0
    places = torch.where(none, places[:, :1], places)
    merits = torch.where(none, first, heights) / highest
    frequencies = (places + (LOWEST_BIN - PEAK_DISTANCE + inside.start - 1)) * BIN
    return torch.where(clear, frequencies, 0), torch.where(clear, merits, 1)


@cache
def _spectral_window(grid: PitchGrid, device: torch.device) -> Tensor:
    return torch.kaiser_window(grid.spectrum_frame, periodic=False, beta=0.5, device=device)


def _magnitudes(grid: PitchGrid, frames: Tensor) -> Tensor:
    """Spectral magnitudes of frames (M,S), bins first: the harmonics of all frames are then whole rows (F,M)."""
    bins = HARMONICS * (grid.highest_bin + PEAK_DISTANCE) + HARMONIC_WINDOW + 1
    magnitudes = frames.new_empty(bins, len(frames))
    for first in range(0, len(frames), SPECTRA // grid.fold):
        rows = slice(first, first + SPECTRA // grid.fold)
        spectra = torch.fft.rfft(frames[rows], round(grid.rate / BIN))[:, :bins].T.contiguous()
        squares = torch.view_as_real(spectra).square_()
        torch.add(squares[..., 0], squares[..., 1], out=magnitudes[:, rows])
    return magnitudes.sqrt_()


def _harmonic_sum(grid: PitchGrid, magnitudes: Tensor) -> Tensor:
    """Product of magnitudes at f, 2f, 3f, 4f (all moved alike by up to 20 Hz), summed over the moves: (F,M).

    Rows are bins from `PEAK_DISTANCE` under `LOWEST_BIN` to as many over the highest; those under it are 0.
    """
    last = grid.highest_bin + PEAK_DISTANCE
    total = magnitudes.new_zeros(last + 1 - LOWEST_BIN + PEAK_DISTANCE, magnitudes.shape[1])
    found = total[PEAK_DISTANCE:]
    low, high = torch.empty_like(found), torch.empty_like(found)
    for move in range(-HARMONIC_WINDOW, HARMONIC_WINDOW + 1, HARMONIC_STEP):
        one, two, three, four = (
            magnitudes[r * LOWEST_BIN + move : r * last + move + 1 : r] for r in range(1, HARMONICS + 1)
        )
        torch.mul(one, two, out=low)
        torch.mul(three, four, out=high)
        # so weighed, every other move sums to what all would, to the trapezoid rule's error
        weight = 0.5 * (HARMONIC_STEP + 1) if abs(move) == HARMONIC_WINDOW else HARMONIC_STEP
        found.addcmul_(low, high, value=weight)
    return total


def _highest(values: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
    """The highest values along a dimension and where, best first; all are at least 0, and `values` is spent.

    Floats from 0 on are ordered as their bits are. The last bits give way to the place (the first place wins a tie),
    so that each maximum brings its own: many times faster than `topk`, and equal but for differences under 2^-13.
    """
    length = values.shape[dim]
    mask = (1 << (length - 1).bit_length()) - 1
    backwards = torch.arange(length - 1, -1, -1, dtype=torch.int32, device=values.device)
    keys = values.view(torch.int32).bitwise_and_(~mask).bitwise_or_(backwards.unsqueeze(1 - dim))
    best, places = [], []
    for _ in range(count):
        best.append(keys.amax(dim, keepdim=True))
        places.append((length - 1 - (best[-1] & mask)).long())
        keys.scatter_(dim, places[-1], 0)
    return torch.cat(best, dim).bitwise_and_(~mask).view(torch.float32), torch.cat(places, dim)


def correlation_candidates(grid: PitchGrid, frames: Tensor, lowest: Tensor, highest: Tensor) -> Peaks:
    """The highest correlation peaks of frames (M,S) between `lowest` and `highest` (M,) Hz.

    Fewer than three where fewer are over the threshold; a peak over 0.9 stands alone.
    """
    lowest, highest = lowest.clamp(min=LOWEST), highest.clamp(min=LOWEST)  # a row that fills a block has none
    lag_rate = grid.rate * FINE
    # YAAPT's bounds are whole lags of 16 kHz, with two more on either side
    shortest = ((YAAPT_RATE / highest).floor() - 0.5) * (lag_rate / YAAPT_RATE)
    last = (YAAPT_RATE / lowest).floor() + 2
    longest = (last - 1.5) * (lag_rate / YAAPT_RATE)
    frames = frames - frames.mean(1, keepdim=True)
    phi = _normalised_correlation(grid, frames, (last * grid.rate / YAAPT_RATE).ceil())
    inner, lags = phi[:, 1:-1], torch.arange(1.0, phi.shape[1] - 1, device=phi.device)
    centre, reach = ((shortest + longest) / 2)[:, None], ((longest - shortest) / 2)[:, None]
    peaks = torch.maximum(phi[:, :-2], phi[:, 2:]).le_(inner).mul_(inner).clamp_(min=0)
    peaks.mul_((lags - centre).abs_().le_(reach))
    # of peaks that are as good as equal the shorter lag is the period
    found, places = _highest(peaks.mul_(1 - LAG_COST * lags / lags[-1]), CORRELATION_PEAKS, 1)
    lag, height = _on_parabola(phi, places + 1)
    merit = height * ((found > 0) & (height > PEAK_THRESHOLD))
    merit[:, 1:] *= merit[:, :1] <= PEAK_ALONE
    halved = torch.where(merit[:, 0] > 0, _near(phi, lag[:, :1] / 2), 0)
    pitch = YAAPT_RATE / (lag * (YAAPT_RATE / lag_rate) + grid.lag_bias) * (merit > 0)
    return Peaks(pitch, merit / merit[:, :1].clamp(min=1), halved)


def _near(phi: Tensor, lag: Tensor) -> Tensor:
    """The highest value within `NEAR` of a lag (M,1), 0 where it only passes through there: (M,)."""
    moves = torch.arange(-NEAR - 1, NEAR + 2, device=phi.device)
    around = phi.gather(1, (lag.round().long() + moves).clamp(min=0))
    best, place = around.max(1)
    return torch.where((place > 0) & (place < len(moves) - 1), best, 0)


def _on_parabola(phi: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Where the parabola through a peak and its neighbours is highest, and how high (M,K)."""
    before, here, after = (phi.gather(1, places + move) for move in (-1, 0, 1))
    slope, bend = (after - before) / 2, (2 * here - before - after).clamp(min=1e-6)
    shift = (slope / bend).clamp(-0.5, 0.5)
    return places + shift, here + slope * shift / 2


def _normalised_correlation(grid: PitchGrid, frames: Tensor, reach: Tensor) -> Tensor:
    """Correlation of the first samples, all but `reach` (M,), with those `lag` later, divided by both norms.

    A column a half sample of lag.
    """
    count, longest = frames.shape[1], int(grid.rate / LOWEST) + 2
    kept = (count - reach)[:, None]
    places = torch.arange(count, device=frames.device)
    head = (kept - places).clamp_(0, 1).mul_(frames)
    size = 128 * grid.fold
    spectra = torch.fft.rfft(head, size).conj() * torch.fft.rfft(frames, size)
    products = torch.fft.irfft(spectra, size * FINE)[:, : longest * FINE]
    squares = functional.pad(frames.square(), (1, 0)).cumsum(1)
    starts = torch.arange(longest + 1, device=frames.device)
    energies = squares.gather(1, (starts + kept.long()).clamp_(max=count)) - squares[:, : longest + 1]
    power = head.square().sum(1, keepdim=True) / FINE**2
    norms = energies.mul_(power).clamp_(min=1e-20).rsqrt_()
    products[:, ::FINE] *= norms[:, :-1]
    products[:, 1::FINE] *= (norms[:, :-1] + norms[:, 1:]).mul_(0.5)
    return products
