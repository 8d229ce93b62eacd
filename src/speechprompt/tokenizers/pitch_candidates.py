"""Where pitch may be, frame by frame: low-band energy, spectral harmonics, cross-correlation peaks.

The measures are those of YAAPT (Zahorian and Hu 2008, sections II.A to II.C), computed on the band up to 1500 Hz at
4 kHz. Sizes follow pGSLM's call: frames of 20 (40, 25) ms every 5 ms. Frames of all clips are measured together in
blocks of one fixed shape (`in_blocks`): kernels choose how they round by shape, so a frame's measures are the same
to the bit whichever frames share its block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import firwin
from torch import Tensor
from torch.nn import functional

from speechprompt.tokenizers.pitch_paths import sliding_maximum

LOWEST, HIGHEST = 60.0, 400.0
"""Range of F0 in Hz."""

RATE = 4000
"""Samples per second behind the band-pass; a hop of 5 ms is 20 of them."""
HOP = 20
TAPS = 151
BAND = (50.0, 1500.0)
BLOCK = 512
"""Rows that are measured at once."""

ENERGY_FRAME, SPECTRUM_FRAME, CORRELATION_FRAME = 80, 160, 100
ENERGY_FREQUENCIES = 24

SPECTRUM_SIZE = 2048
"""YAAPT's 8192 points at 16 kHz. Half as many triple the gross errors against it: its choices hang on single bins."""
HARMONICS = 4
HARMONIC_WINDOW = 10  # bins on either side: 20 Hz
PEAK_DISTANCE = 13  # bins: 25 Hz
SPECTRAL_PEAKS = 4
SPECTRA = 128
"""Frames transformed at once: more of such spectra do not fit the cache, and each then takes twice as long."""
LOWEST_BIN, HIGHEST_BIN = 31, 205
LAST_BIN = HIGHEST_BIN + 2 * PEAK_DISTANCE

FINE = 2
"""Lags a sample; peaks are read between them, on a parabola."""
LAG_RATE = RATE * FINE
CORRELATION_SIZE = 128
CORRELATION_PEAKS = 3
LAG_COST = 0.02
PEAK_THRESHOLD, PEAK_ALONE = 0.25, 0.9
LONGEST = int(RATE / LOWEST) + 2
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


def in_blocks(measure: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    """`measure` of tensors (M,...), a block of `BLOCK` rows at a time; rows that fill up the last are zeros."""
    count = len(rows[0])
    found = []
    for first in range(0, count, BLOCK):
        part = [tensor[first : first + BLOCK] for tensor in rows]
        missing = BLOCK - len(part[0])
        if missing:
            part = [torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) for tensor in part]
        found.append(measure(*part))
    return tuple(torch.cat(parts)[:count] for parts in zip(*found, strict=True))


@cache
def _band_pass(sample_rate: int) -> Tensor:
    """The band-pass as a matrix: a hop of outputs at 4 kHz from the samples that reach it."""
    taps = firwin(TAPS, [edge / (sample_rate / 2) for edge in BAND], pass_zero=False)[::-1]
    step = sample_rate // RATE
    matrix = np.zeros(((HOP - 1) * step + TAPS, HOP), dtype=np.float32)
    for output in range(HOP):
        matrix[output * step : output * step + TAPS, output] = taps
    return torch.from_numpy(matrix)


def low_band(waveforms: Tensor, lengths: Tensor, sample_rate: int) -> Tensor:
    """The band up to 1500 Hz of waveforms (B,S), at 4 kHz: (B, S/step); zero behind each clip's `lengths` (B,)."""
    step = sample_rate // RATE
    matrix = _band_pass(sample_rate).to(waveforms)
    padded = functional.pad(waveforms, (TAPS - 1, -waveforms.shape[1] % (HOP * step) + matrix.shape[0]))
    rows = padded.unfold(1, len(matrix), HOP * step)
    (band,) = in_blocks(lambda block: (block @ matrix,), rows.reshape(-1, len(matrix)))
    band = band.view(len(waveforms), -1)
    places = torch.arange(band.shape[1], device=band.device)
    return torch.where(places * step < lengths[:, None], band, 0)


def frames_of(band: Tensor, width: int, count: int) -> Tensor:
    """Frames (B,count,width) every 5 ms from the first sample on, a view; zeros beyond the end."""
    needed = (count - 1) * HOP + width
    band = functional.pad(band, (0, max(0, needed - band.shape[1])))
    return band.unfold(1, width, HOP)[:, :count]


def low_frequency_energy(frames: Tensor) -> tuple[Tensor]:
    """Sum of spectral magnitudes between 2 x 60 and 400 Hz of each 20 ms frame (M,80), (M,)."""
    cosines, sines = (frames @ _energy_basis(frames.device)).chunk(2, -1)
    return ((cosines.square() + sines.square()).sqrt().sum(-1),)


@cache
def _energy_basis(device: torch.device) -> Tensor:
    times = torch.arange(ENERGY_FRAME, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * (times + 0.25) / (ENERGY_FRAME + 0.25))
    width = (HIGHEST - 2 * LOWEST) / ENERGY_FREQUENCIES
    frequencies = 2 * LOWEST + width * (torch.arange(ENERGY_FREQUENCIES, dtype=torch.float64) + 0.5)
    angles = 2 * torch.pi * times[:, None] * frequencies / RATE
    return (torch.cat([angles.cos(), angles.sin()], 1) * window[:, None]).float().to(device)


def spectral_candidates(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies in Hz and merits (M,4) with energy at their first four multiples, of frames (M,160).

    Frequency 0 where no multiple stands out or too many do; merit is relative to the frame's best. Frequencies are
    reported one bin low, as YAAPT does.
    """
    window = torch.kaiser_window(SPECTRUM_FRAME, periodic=False, beta=0.5, device=frames.device)
    weighted = frames * window
    harmonics = _harmonic_sum(_magnitudes(weighted - weighted.mean(1, keepdim=True)))
    first = LOWEST_BIN - PEAK_DISTANCE
    ranged = harmonics[first : HIGHEST_BIN + PEAK_DISTANCE + 1]
    ranged = ranged / ranged.amax(0).clamp(min=1e-14)
    mean = ranged.mean(0)
    isolated = (ranged == sliding_maximum(ranged, PEAK_DISTANCE)) & (ranged > 1.25 * mean)
    isolated[: PEAK_DISTANCE + 1] = isolated[-PEAK_DISTANCE:] = False
    found = isolated.sum(0)[:, None]
    merits, places = _highest(ranged * isolated, SPECTRAL_PEAKS, 0)
    merits, places = merits.T, places.T
    mean = mean[:, None]
    clear = (mean <= 0.2) & (merits[:, :1] >= 5 * mean) & (found > 0) & (found < SPECTRAL_PEAKS)
    none = merits == 0
    places = torch.where(none, places[:, :1], places)
    merits = torch.where(none, merits[:, :1], merits)
    frequencies = (places + first - 1) * (RATE / SPECTRUM_SIZE)
    return torch.where(clear, frequencies, 0), torch.where(clear, merits, 1)


def _magnitudes(frames: Tensor) -> Tensor:
    """Spectral magnitudes of frames (M,160), bins first: the harmonics of all frames are then whole rows (F,M)."""
    bins = HARMONICS * LAST_BIN + HARMONIC_WINDOW + 1
    magnitudes = frames.new_empty(bins, len(frames))
    for first in range(0, len(frames), SPECTRA):
        rows = slice(first, first + SPECTRA)
        spectra = torch.fft.rfft(frames[rows], SPECTRUM_SIZE)[:, :bins].T.contiguous()
        squares = torch.view_as_real(spectra).square_()
        torch.add(squares[..., 0], squares[..., 1], out=magnitudes[:, rows])
    return magnitudes.sqrt_()


def _highest(values: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
    """The highest values along a dimension and where, best first; all are at least 0, and `values` is spent.

    For so few it takes two thirds of `topk`'s time.
    """
    best, places = [], []
    for _ in range(count):
        found = values.max(dim, keepdim=True)
        best.append(found.values)
        places.append(found.indices)
        values.scatter_(dim, found.indices, 0)
    return torch.cat(best, dim), torch.cat(places, dim)


def _harmonic_sum(magnitudes: Tensor) -> Tensor:
    """Product of magnitudes at f, 2f, 3f, 4f (all moved alike by up to 20 Hz), summed over the moves: (F,M)."""
    total = magnitudes.new_zeros(LAST_BIN + 1, magnitudes.shape[1])
    found = total[LOWEST_BIN:]
    for move in range(-HARMONIC_WINDOW, HARMONIC_WINDOW + 1):
        one, two, three, four = (
            magnitudes[r * LOWEST_BIN + move : r * LAST_BIN + move + 1 : r] for r in range(1, HARMONICS + 1)
        )
        found.addcmul_(one * two, three * four)
    return total


def correlation_candidates(frames: Tensor, lowest: Tensor, highest: Tensor) -> Peaks:
    """The highest correlation peaks of frames (M,100) between `lowest` and `highest` (M,) Hz.

    Fewer than three where fewer are over the threshold; a peak over 0.9 stands alone.
    """
    lowest, highest = lowest.clamp(min=LOWEST), highest.clamp(min=LOWEST)  # a row that fills a block has none
    # YAAPT's bounds are whole lags of 16 kHz, with two more on either side
    shortest = ((YAAPT_RATE / highest).floor() - 0.5) * (LAG_RATE / YAAPT_RATE)
    last = (YAAPT_RATE / lowest).floor() + 2
    longest = (last - 1.5) * (LAG_RATE / YAAPT_RATE)
    phi = _normalised_correlation(frames - frames.mean(1, keepdim=True), (last * RATE / YAAPT_RATE).ceil())
    inner, lags = phi[:, 1:-1], torch.arange(1.0, phi.shape[1] - 1, device=phi.device)
    isolated = (inner > phi[:, :-2]) & (inner >= phi[:, 2:])
    isolated &= (lags >= shortest[:, None]) & (lags <= longest[:, None])
    # of peaks that are as good as equal the shorter lag is the period
    found, places = _highest(inner * isolated * (1 - LAG_COST * lags / lags[-1]), CORRELATION_PEAKS, 1)
    lag, height = _on_parabola(phi, places + 1)
    merit = torch.where((found > 0) & (height > PEAK_THRESHOLD), height, 0)
    merit[:, 1:] = torch.where(merit[:, :1] > PEAK_ALONE, 0, merit[:, 1:])
    halved = torch.where(merit[:, 0] > 0, _near(phi, lag[:, :1] / 2), 0)
    # a lag is read one sample of 16 kHz long, as YAAPT does
    pitch = torch.where(merit > 0, YAAPT_RATE / (lag * (YAAPT_RATE / LAG_RATE) + 1), 0)
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


def _normalised_correlation(frames: Tensor, reach: Tensor) -> Tensor:
    """Correlation of the first samples, all but `reach` (M,), with those `lag` later, divided by both norms.

    (M, LONGEST * FINE), a column a half sample of lag.
    """
    count = frames.shape[1]
    kept = count - reach
    head = torch.where(torch.arange(count, device=frames.device) < kept[:, None], frames, 0)
    spectra = torch.fft.rfft(head, CORRELATION_SIZE).conj() * torch.fft.rfft(frames, CORRELATION_SIZE)
    products = torch.fft.irfft(spectra, CORRELATION_SIZE * FINE)[:, : LONGEST * FINE]
    squares = functional.pad(frames.square(), (1, LONGEST + 1)).cumsum(1)
    starts = torch.arange(LONGEST + 1, device=frames.device)
    energies = squares.gather(1, starts + kept[:, None].long()) - squares[:, : LONGEST + 1]
    power = head.square().sum(1, keepdim=True) / FINE**2
    norms = (energies * power).clamp(min=1e-20).rsqrt()
    products[:, ::FINE] *= norms[:, :-1]
    products[:, 1::FINE] *= (norms[:, :-1] + norms[:, 1:]) / 2
    return products
