"""Where pitch may be, frame by frame: low-band energy, spectral harmonics, cross-correlation peaks.

The measures are those of YAAPT (Zahorian and Hu 2008, sections II.A to II.C), computed on the band up to 1500 Hz at
4 kHz for all frames of a batch at once. Sizes follow pGSLM's call: frames of 20 (40, 25) ms every 5 ms.
"""

from __future__ import annotations

from functools import cache

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

ENERGY_FRAME, SPECTRUM_FRAME, CORRELATION_FRAME = 80, 160, 100
ENERGY_FREQUENCIES = 24

SPECTRUM_SIZE = 1024
HARMONICS = 4
SPECTRAL_BIAS = 16000 / 8192
HARMONIC_WINDOW = 5  # bins on either side: 20 Hz
PEAK_DISTANCE = 6  # bins: 25 Hz
SPECTRAL_PEAKS = 4

FINE = 4
"""Lags per sample: correlations are read at 16 kHz."""
CORRELATION_SIZE = 128
CORRELATION_PEAKS = 3
LAG_COST = 0.02


@cache
def _band_pass(sample_rate: int) -> Tensor:
    taps = firwin(TAPS, [edge / (sample_rate / 2) for edge in BAND], pass_zero=False)
    return torch.from_numpy(np.ascontiguousarray(taps[::-1]).astype(np.float32))


def low_band(waveforms: Tensor, lengths: Tensor, sample_rate: int) -> Tensor:
    """The band up to 1500 Hz of waveforms (B,S), at 4 kHz: (B, S/step); zero behind each clip's `lengths` (B,)."""
    step = sample_rate // RATE
    # one channel a phase: the convolution then runs at the lower rate
    reach = -(-TAPS // step)
    padded = functional.pad(waveforms, (reach * step - 1, -waveforms.shape[1] % step + 1))
    phases = padded[:, : padded.shape[1] // step * step].unflatten(1, (-1, step)).transpose(1, 2)
    taps = functional.pad(_band_pass(sample_rate).to(waveforms), (reach * step - TAPS, 0))
    band = functional.conv1d(phases, taps.view(1, reach, step).transpose(1, 2))[:, 0]
    places = torch.arange(band.shape[1], device=band.device)
    return torch.where(places * step < lengths[:, None], band, 0)


def frames_of(band: Tensor, width: int, count: int) -> Tensor:
    """Frames (B,count,width) every 5 ms from the first sample on; zeros beyond the end."""
    needed = (count - 1) * HOP + width
    band = functional.pad(band, (0, max(0, needed - band.shape[1])))
    return band.unfold(1, width, HOP)[:, :count]


def low_frequency_energy(band: Tensor, count: int) -> Tensor:
    """Sum of spectral magnitudes between 2 x 60 and 400 Hz of each 20 ms frame, (B,T)."""
    times = torch.arange(ENERGY_FRAME, device=band.device, dtype=band.dtype)
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * (times + 0.25) / (ENERGY_FRAME + 0.25))
    width = (HIGHEST - 2 * LOWEST) / ENERGY_FREQUENCIES
    frequencies = 2 * LOWEST + width * (torch.arange(ENERGY_FREQUENCIES, device=band.device) + 0.5)
    angles = 2 * torch.pi * times[:, None] * frequencies / RATE
    basis = torch.cat([angles.cos(), angles.sin()], 1) * window[:, None]
    cosines, sines = (frames_of(band, ENERGY_FRAME, count) @ basis).chunk(2, -1)
    return torch.hypot(cosines, sines).sum(-1)


def spectral_candidates(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies in Hz and merits (M,4) with energy at their first four multiples, of frames (M,160).

    Frequency 0 where no multiple stands out or too many do; merit is relative to the frame's best. Frequencies are
    reported one bin of YAAPT's low, as YAAPT does.
    """
    window = torch.kaiser_window(SPECTRUM_FRAME, periodic=False, beta=0.5, device=frames.device)
    weighted = frames * window
    spectra = torch.fft.rfft(weighted - weighted.mean(1, keepdim=True), SPECTRUM_SIZE)
    # bins come first from here on: the harmonics of all frames are then whole rows
    squares = torch.view_as_real(spectra.T.contiguous()).square_()
    harmonics = _harmonic_sum((squares[..., 0] + squares[..., 1]).sqrt_())
    low, high = _bin(LOWEST) + 1 - PEAK_DISTANCE, _bin(HIGHEST) + PEAK_DISTANCE
    ranged = harmonics[low : high + 1]
    ranged = ranged / ranged.amax(0).clamp(min=1e-14)
    mean = ranged.mean(0)
    isolated = (ranged == sliding_maximum(ranged, PEAK_DISTANCE)) & (ranged > 1.25 * mean)
    isolated[:PEAK_DISTANCE] = isolated[-PEAK_DISTANCE:] = False
    found = isolated.sum(0)[:, None]
    merits, places = (ranged * isolated).T.topk(SPECTRAL_PEAKS, 1)
    mean = mean[:, None]
    clear = (mean <= 0.2) & (merits[:, :1] >= 5 * mean) & (found > 0) & (found < SPECTRAL_PEAKS)
    none = merits == 0
    places = torch.where(none, places[:, :1], places)
    merits = torch.where(none, merits[:, :1], merits)
    frequencies = (places + low) * (RATE / SPECTRUM_SIZE) - SPECTRAL_BIAS
    return torch.where(clear, frequencies, 0), torch.where(clear, merits, 1)


def _bin(frequency: float) -> int:
    return round(frequency * SPECTRUM_SIZE / RATE)


def _harmonic_sum(magnitudes: Tensor) -> Tensor:
    """Product of magnitudes at f, 2f, 3f, 4f (all moved alike by up to 20 Hz), summed over the moves: (F,M)."""
    lowest, highest = _bin(LOWEST), _bin(HIGHEST) + 2 * PEAK_DISTANCE
    total = magnitudes.new_zeros(highest + 1, magnitudes.shape[1])
    found = total[lowest:]
    for move in range(-HARMONIC_WINDOW, HARMONIC_WINDOW + 1):
        one, two, three, four = (
            magnitudes[r * lowest + move : r * highest + move + 1 : r] for r in range(1, HARMONICS + 1)
        )
        found.addcmul_(one * two, three * four)
    return total


def correlation_candidates(
    frames: Tensor, lowest: Tensor, highest: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Frequencies in Hz and merits (M,3) of the highest correlation peaks of frames (M,100).

    `lowest`, `highest` (M,) bound the search in Hz. 0 where fewer peaks exceed `threshold`; a peak over 0.9 stands
    alone.
    """
    rate = RATE * FINE
    first = (rate / highest).long() - 2
    last = (rate / lowest).long() + 2
    phi = _normalised_correlation(frames - frames.mean(1, keepdim=True), first, last)
    lags = torch.arange(2, phi.shape[1] - 2, device=phi.device)
    inner = phi[:, 2:-2]
    peaks = (inner > phi[:, 1:-3]) & (inner > phi[:, 3:-1]) & (inner > threshold)
    peaks &= (inner >= phi[:, :-4]) & (inner >= phi[:, 4:])
    peaks &= (lags >= (first + 2)[:, None]) & (lags <= (last - 2)[:, None])
    # of peaks that are as good as equal the shorter lag is the period; 4 kHz leaves errors of about a hundredth
    merits, places = (inner * peaks * (1 - LAG_COST * lags / lags[-1])).topk(CORRELATION_PEAKS, 1)
    merits = torch.where(merits > 0, inner.gather(1, places), 0)
    alone = merits[:, :1] > 0.9
    merits[:, 1:] = torch.where(alone, 0, merits[:, 1:])
    # a lag is read one sample long, as YAAPT does
    frequencies = torch.where(merits > 0, rate / (places + 2 + 1), 0)
    return frequencies, merits / merits[:, :1].clamp(min=1)


def _normalised_correlation(frames: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Correlation of the first N samples with those `lag` later, divided by both norms; lag in quarter samples."""
    count, longest = frames.shape[1], int(RATE / LOWEST) + 2
    kept = count - (last.to(frames.dtype) / FINE).ceil()
    head = torch.where(torch.arange(count, device=frames.device) < kept[:, None], frames, 0)
    spectra = torch.fft.rfft(head, CORRELATION_SIZE).conj() * torch.fft.rfft(frames, CORRELATION_SIZE)
    products = torch.fft.irfft(spectra, CORRELATION_SIZE * FINE)[:, : longest * FINE] * FINE
    squares = functional.pad(frames.square().cumsum(1), (1, 0))
    starts = torch.arange(longest + 1, device=frames.device).expand(len(frames), -1)
    ends = (starts + kept[:, None].long()).clamp(max=count)
    energies = squares.gather(1, ends) - squares.gather(1, starts.clamp(max=count))
    left, right = energies[:, :-1, None], energies[:, 1:, None]
    share = torch.arange(FINE, device=frames.device) / FINE
    smooth = (left + (right - left) * share).flatten(1)
    power = head.square().sum(1, keepdim=True)
    return products.mul_(smooth.mul_(power).clamp_(min=1e-20).rsqrt_())
