"""A pitch tracker for whole batches: YAAPT's way of deciding (Zahorian and Hu 2008), computed at 4 kHz in torch.

It agrees with YAAPT on voicing and pitch (benchmarks/pitch.py measures how far) at a fraction of its time, on any
device. Weights and thresholds are the paper's, with those that pGSLM's authors changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional

from speechprompt.tokenizers.pitch_candidates import (
    CORRELATION_FRAME,
    HIGHEST,
    LOWEST,
    RATE,
    SPECTRUM_FRAME,
    correlation_candidates,
    frames_of,
    low_band,
    low_frequency_energy,
    spectral_candidates,
)
from speechprompt.tokenizers.pitch_paths import (
    best_path,
    compressed,
    filled,
    masked_mean,
    median,
    spread,
)
from speechprompt.tokenizers.prosody import F0_RATE, Pitch
from speechprompt.tokenizers.protocol import Waveform

PEAK = 0.95
MARGIN_SECONDS = 0.010
SAMPLE_RATE = 16000
BATCH_SECONDS = 4

VOICED_ENERGY, SILENT_ENERGY = 0.75, 0.1
PEAK_THRESHOLD = 0.25
MERIT_BOOST = 0.20
SILENT_MERIT = 0.99
VOICED_WEIGHT, CHANGE_WEIGHT, UNVOICED_WEIGHT, LOCAL_WEIGHT = 0.15, 0.5, 0.1, 0.9
SPECTRAL_WEIGHT = 11.0
DEFAULT_PITCH = 150.0


class BatchPitchTracker:
    """F0 of many clips at once; a clip's track does not depend on its neighbours.

    Frames, margins and peak normalisation are those of `YaaptTracker`. Sample rates that are no multiple of 4 kHz
    are resampled to 16 kHz first.
    """

    fingerprint = "batch-pitch-1"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @torch.no_grad()
    def track(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Pitch]:
        """F0 tracks in Hz of waveforms (S,), `F0_RATE` values per second, 0 where unvoiced."""
        if sample_rate % RATE:
            waveforms = [soxr.resample(waveform, sample_rate, SAMPLE_RATE) for waveform in waveforms]
            sample_rate = SAMPLE_RATE
        counts = [-(-len(waveform) * F0_RATE // sample_rate) for waveform in waveforms]
        tracks: list[Pitch] = [np.zeros(count, dtype=np.float32) for count in counts]
        for rows in _batches(counts):
            found = self._track([waveforms[i] for i in rows], [counts[i] for i in rows], sample_rate)
            for i, track in zip(rows, found.cpu().numpy(), strict=True):
                tracks[i] = track[: counts[i]].copy()
        return tracks

    def _track(self, waveforms: Sequence[Waveform], counts: Sequence[int], sample_rate: int) -> Tensor:
        margin = int(MARGIN_SECONDS * sample_rate)
        padded = np.zeros((len(waveforms), max(map(len, waveforms)) + 2 * margin), dtype=np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            peak = float(np.abs(waveform).max(initial=0.0))
            row[margin : margin + len(waveform)] = waveform * (PEAK / peak) if peak > 0 else 0
        lengths = torch.tensor([len(waveform) + 2 * margin for waveform in waveforms], device=self.device)
        frames = torch.arange(max(counts), device=self.device)
        valid = frames < torch.tensor(list(counts), device=self.device)[:, None]
        signal = torch.from_numpy(padded).to(self.device)
        return pitch_of(signal, lengths, valid, sample_rate)


def _batches(counts: Sequence[int]) -> list[list[int]]:
    """Row numbers in batches of like length and bounded size; clips without a frame are left out."""
    batches: list[list[int]] = []
    for row in sorted((i for i, count in enumerate(counts) if count), key=lambda i: counts[i]):
        if not batches or (len(batches[-1]) + 1) * counts[row] > BATCH_SECONDS * F0_RATE:
            batches.append([])
        batches[-1].append(row)
    return batches


def pitch_of(signal: Tensor, lengths: Tensor, valid: Tensor, sample_rate: int) -> Tensor:
    """F0 (B,T) in Hz of normalised clips (B,S) of so many samples (B,), `valid` (B,T) saying which frames exist."""
    count = valid.shape[1]
    plain = low_band(signal, lengths, sample_rate)
    squared = low_band(signal.square(), lengths, sample_rate)
    energy = low_frequency_energy(plain, count) * valid
    energy = energy / masked_mean(energy, valid)[:, None].clamp(min=1e-12)
    if not bool((energy > SILENT_ENERGY).any()):
        return torch.zeros_like(energy)
    loud = (energy > VOICED_ENERGY) & valid
    spectral, deviation = _spectral_track(squared, loud, valid)
    pitches, merits = [], []
    for band in (plain, squared):
        found, merit = _near_spectral(band, spectral, deviation, energy > SILENT_ENERGY)
        pitches.append(found)
        merits.append(merit)
    pitch, merit = torch.cat(pitches, -1), torch.cat(merits, -1)
    merit, order = merit.sort(dim=-1, descending=True, stable=True)
    pitch, merit = _refined(pitch.gather(-1, order), merit, spectral, energy, loud)
    return _chosen(pitch, merit, energy, valid)


def _spectral_track(squared: Tensor, loud: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth first estimate in Hz (B,T) from harmonics of the squared signal, and its deviation (B,)."""
    frames = frames_of(squared, SPECTRUM_FRAME, valid.shape[1])
    pitch = squared.new_zeros(*valid.shape, 4)
    merit = torch.ones_like(pitch)
    if bool(loud.any()):
        pitch[loud], merit[loud] = spectral_candidates(frames[loud])
    known = pitch[..., 0] > 0
    candidates, counts = compressed(pitch, known)
    merits, _ = compressed(merit, known)
    there = torch.arange(candidates.shape[1], device=counts.device) < counts[:, None]
    track = _spectral_path(candidates, merits, there)
    track = torch.where(counts[:, None] > 2, track, DEFAULT_PITCH)
    there = there | ((counts == 0)[:, None] & (torch.arange(there.shape[1], device=there.device) == 0))
    mean = masked_mean(track, there)
    variance = masked_mean((track - mean[:, None]).square(), there)
    deviation = torch.maximum(variance.sqrt(), 0.05 * mean)
    pitch = spread(track, known)
    ends = valid & (~functional.pad(valid, (0, 1))[:, 1:] | ~functional.pad(valid, (1, 0))[:, :-1])
    pitch = torch.where(ends & (pitch < mean[:, None] / 2), mean[:, None], pitch)
    smooth = filled(pitch, pitch > 0)
    return _averaged(smooth), deviation


def _spectral_path(candidates: Tensor, merits: Tensor, there: Tensor) -> Tensor:
    """One of four candidates in each loud frame (B,V,4), smooth in time."""
    best = candidates[..., 0]
    mean = masked_mean(best, there)
    deviation = masked_mean((best - mean[:, None]).square(), there).sqrt()
    cost = (candidates - 0.8 * mean[:, None, None]).abs() * (3 - merits)
    chosen = cost.argmin(-1, keepdim=True)
    steady = median(candidates.gather(-1, chosen)[..., 0] * there, 5)
    candidates = candidates.scatter(-1, chosen, steady[..., None])
    jumps = (candidates[:, 1:, None, :] - candidates[:, :-1, :, None]).abs() / LOWEST
    jumps = functional.pad(0.05 * jumps + jumps.square(), (0, 0, 0, 0, 1, 0))
    weight = SPECTRAL_WEIGHT * deviation / mean.clamp(min=1)
    path = best_path(1 - merits, weight[:, None, None, None] * jumps, there)
    return median(candidates.gather(-1, path[..., None])[..., 0] * there, 5)


def _averaged(track: Tensor) -> Tensor:
    """Mean of each value and the two before it; the first two take what the third and fourth have."""
    padded = functional.pad(track, (2, 0))
    smooth = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    if smooth.shape[1] > 3:
        smooth[:, :2] = smooth[:, 2:4]
    else:
        smooth = track
    return smooth


def _near_spectral(band: Tensor, spectral: Tensor, deviation: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation peaks (B,T,3) around the spectral track, their merits weighed by how close they are.

    Only in frames that are `heard`; YAAPT also looks for them in silence, and then discards them.
    """
    reach = 2 * deviation[:, None]
    lowest = (spectral - reach).clamp(min=LOWEST)
    highest = (spectral + reach).clamp(max=HIGHEST)
    frames = frames_of(band, CORRELATION_FRAME, heard.shape[1])
    pitch = band.new_zeros(*heard.shape, 3)
    merit = torch.zeros_like(pitch)
    pitch[heard], merit[heard] = correlation_candidates(
        frames[heard], lowest[heard], highest[heard], PEAK_THRESHOLD
    )
    away = (pitch - spectral[..., None]).abs() / (5 * deviation[:, None, None])
    return pitch, (1 + MERIT_BOOST) * merit * (1 - away).clamp(min=0)


def _refined(
    pitch: Tensor, merit: Tensor, spectral: Tensor, energy: Tensor, loud: Tensor
) -> tuple[Tensor, Tensor]:
    """Six candidates a frame: correlation peaks, the spectral track, the smoothed best, unvoiced."""
    best = median(pitch[..., 0], 7) * loud
    silent = (energy <= SILENT_ENERGY)[..., None]
    heard = ~silent & (pitch[..., :1] > 0)
    guess = torch.zeros_like(pitch)
    guess[..., 0] = spectral
    level = (energy / 2).clamp(max=1)[..., None]
    guess_merit = torch.cat([level, (1 - level).expand(-1, -1, pitch.shape[-1] - 1)], -1)
    heard_merit = torch.where(pitch > 0, merit, 0)
    heard_merit[..., 5] = 1 - merit[..., 0]
    heard_pitch = pitch.clone()
    heard_pitch[..., 5] = 0
    pitch = torch.where(heard, heard_pitch, torch.where(silent, 0, guess))
    merit = torch.where(heard, heard_merit, torch.where(silent, SILENT_MERIT, guess_merit))
    pitch[..., 4], pitch[..., 3] = best, spectral
    merit[..., 4] = torch.where(best > 0, merit[..., 0], 1 - level[..., 0])
    merit[..., 3] = energy / 5
    return pitch, merit


def _chosen(pitch: Tensor, merit: Tensor, energy: Tensor, valid: Tensor) -> Tensor:
    """The cheapest path through the candidates (B,T,6): F0 (B,T), 0 where unvoiced or nothing was found."""
    best = pitch[..., 4] * valid
    mean = masked_mean(best, best > 0)
    earlier, later = pitch[:, :-1, :, None], pitch[:, 1:, None, :]
    change = (energy[:, 1:] - energy[:, :-1]).abs().clamp(max=1)[..., None, None]
    voiced = VOICED_WEIGHT * (later - earlier).abs() / mean.clamp(min=1)[:, None, None, None]
    both, neither = (earlier > 0) & (later > 0), (earlier <= 0) & (later <= 0)
    steps = torch.where(both, voiced, torch.where(neither, UNVOICED_WEIGHT, CHANGE_WEIGHT * (1 - change)))
    transition = functional.pad(steps / LOCAL_WEIGHT, (0, 0, 0, 0, 1, 0))
    path = best_path(1 - merit, transition, valid)
    found = pitch.gather(-1, path[..., None])[..., 0]
    return torch.where(valid & (mean > 0)[:, None], found, 0)
