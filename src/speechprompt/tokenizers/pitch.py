"""A pitch tracker for whole batches: YAAPT's way of deciding (Zahorian and Hu 2008), computed at 4 kHz in torch.

It agrees with YAAPT on voicing and pitch (benchmarks/pitch.py measures how far) at a fraction of its time, on any
device. Weights and thresholds are the paper's, with those that pGSLM's authors changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional

from speechprompt.errors import UsageError
from speechprompt.tokenizers.pitch_candidates import (
    SPECTRAL_BLOCK,
    Peaks,
    correlation_candidates,
    low_frequency_energy,
    spectral_candidates,
)
from speechprompt.tokenizers.pitch_grid import (
    LOWEST,
    SMALLEST_HIGHEST,
    USUAL_HIGHEST,
    UTMOST_HIGHEST,
    PitchGrid,
    frames_of,
    in_blocks,
    low_band,
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
BATCH_SECONDS = 64

VOICED_ENERGY, SILENT_ENERGY = 0.75, 0.1
MERIT_BOOST = 0.20
SILENT_MERIT = 0.99
VOICED_WEIGHT, CHANGE_WEIGHT, UNVOICED_WEIGHT, LOCAL_WEIGHT = 0.15, 0.5, 0.1, 0.9
SPECTRAL_WEIGHT = 11.0
DEFAULT_PITCH = 150.0

LOST_SHARE, CLEAR_MERIT = 0.1, 0.8
OCTAVE_FRAMES = 12
OCTAVE_HEIGHT, OCTAVE_SHARE, OCTAVE_OVER = 0.87, 0.8, 1.05


class BatchPitchTracker:
    """F0 of many clips at once; a clip's track does not depend on its neighbours.

    Frames, margins and peak normalisation are those of `YaaptTracker`. `maximum_hz` is the highest F0 looked for, 200
    to 800: YAAPT's 400 for adults, whose octaves get lost in a wider range; 600 or 800 for children and screams, at
    twice the rate and up to twice the time. UsageError for any other. Sample rates that are no multiple of the
    grid's are resampled to 16 kHz first.
    """

    def __init__(self, device: torch.device | str = "cpu", maximum_hz: int = USUAL_HIGHEST) -> None:
        if not SMALLEST_HIGHEST <= maximum_hz <= UTMOST_HIGHEST:
            raise UsageError(
                f"the highest F0 to look for is {SMALLEST_HIGHEST} to {UTMOST_HIGHEST} Hz, not {maximum_hz}"
            )
        self.device, self.grid = torch.device(device), PitchGrid(maximum_hz)
        self.name = "f0" if maximum_hz == USUAL_HIGHEST else f"f0-{maximum_hz}"
        self.fingerprint = f"batch-pitch-3-{LOWEST:g}-{maximum_hz}"

    @torch.no_grad()
    def track(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Pitch]:
        """F0 tracks in Hz of waveforms (S,), `F0_RATE` values per second, 0 where unvoiced."""
        counts = [-(-len(waveform) * F0_RATE // sample_rate) for waveform in waveforms]
        tracks: list[Pitch] = [np.zeros(count, dtype=np.float32) for count in counts]
        if sample_rate % self.grid.rate:
            waveforms = [soxr.resample(waveform, sample_rate, SAMPLE_RATE) for waveform in waveforms]
            sample_rate = SAMPLE_RATE
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
            row[margin : margin + len(waveform)] = waveform / peak * PEAK if peak > 0 else 0
        lengths = torch.tensor([len(waveform) + 2 * margin for waveform in waveforms], device=self.device)
        frames = torch.arange(max(counts), device=self.device)
        valid = frames < torch.tensor(list(counts), device=self.device)[:, None]
        signal = torch.from_numpy(padded).to(self.device)
        return pitch_of(self.grid, signal, lengths, valid, sample_rate)


def _batches(counts: Sequence[int]) -> list[list[int]]:
    """Row numbers in batches of like length and bounded size; clips without a frame are left out."""
    batches: list[list[int]] = []
    for row in sorted((i for i, count in enumerate(counts) if count), key=lambda i: counts[i]):
        if not batches or (len(batches[-1]) + 1) * counts[row] > BATCH_SECONDS * F0_RATE:
            batches.append([])
        batches[-1].append(row)
    return batches


def pitch_of(grid: PitchGrid, signal: Tensor, lengths: Tensor, valid: Tensor, sample_rate: int) -> Tensor:
    """F0 (B,T) in Hz of normalised clips (B,S) of so many samples (B,), `valid` (B,T) saying which frames exist."""
    plain, squared = low_band(grid, signal, lengths, sample_rate)
    energy = signal.new_zeros(valid.shape)
    (energy[valid],) = in_blocks(
        partial(low_frequency_energy, grid), frames_of(grid, plain, grid.energy_frame, valid.shape[1])[valid]
    )
    energy = energy / masked_mean(energy, valid)[:, None].clamp(min=1e-12)
    heard = (energy > SILENT_ENERGY) & valid
    if not bool(heard.any()):
        return torch.zeros_like(energy)
    loud = (energy > VOICED_ENERGY) & valid
    spectral, deviation = _spectral_track(grid, squared, loud, valid)
    bands = [frames_of(grid, band, grid.correlation_frame, valid.shape[1]) for band in (plain, squared)]
    pitch, merit, halved = _near_spectral(grid, bands, spectral, deviation, heard)
    traced, traced_deviation = _without_spectrum(grid, bands[0], pitch[..., 0] > 0, loud)
    twice = _half_as_long(grid, halved, pitch, loud)
    again = heard & (twice | (traced > 0))
    if bool(again.any()):
        spectral = torch.where(twice, 2 * spectral, torch.where(traced > 0, traced, spectral))
        deviation = torch.where(traced_deviation > 0, traced_deviation, deviation)
        better = _near_spectral(grid, bands, spectral, deviation, again)
        pitch, merit = (
            torch.where(again[..., None], *pair) for pair in zip(better, (pitch, merit), strict=False)
        )
    merit, order = merit.sort(dim=-1, descending=True, stable=True)
    pitch, merit = _refined(pitch.gather(-1, order), merit, spectral, energy, loud)
    return _chosen(pitch, merit, energy, valid)


def _spectral_track(grid: PitchGrid, squared: Tensor, loud: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth first estimate in Hz (B,T) from harmonics of the squared signal, and its deviation (B,)."""
    pitch = squared.new_zeros(*valid.shape, 4)
    merit = torch.ones_like(pitch)
    if bool(loud.any()):
        frames = frames_of(grid, squared, grid.spectrum_frame, valid.shape[1])[loud]
        pitch[loud], merit[loud] = in_blocks(partial(spectral_candidates, grid), frames, size=SPECTRAL_BLOCK)
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
    return _averaged(filled(pitch, pitch > 0), valid.sum(1)), deviation


def _without_spectrum(grid: PitchGrid, band: Tensor, found: Tensor, loud: Tensor) -> tuple[Tensor, Tensor]:
    """A track (B,T) and deviation (B,) for clips that hardly repeat where their spectrum says; 0 for all others.

    YAAPT leaves such clips unvoiced, pulses whose harmonics are all as high. Here the correlation alone is asked, and
    believed when most loud frames of the clip clearly repeat. `band` are frames (B,T,100), `found` says where the
    correlation has a peak near the spectral track.
    """
    lost = loud & ((found & loud).sum(1) < LOST_SHARE * loud.sum(1))[:, None]
    track = torch.zeros_like(loud, dtype=band.dtype)
    if not bool(lost.any()):
        return track, track[:, 0]
    frames = band[lost]
    everywhere = [torch.full_like(frames[:, 0], edge) for edge in (LOWEST, grid.highest)]
    pitch, merit, halved = in_blocks(partial(correlation_candidates, grid), frames, *everywhere)
    octave = 1 + ((halved > OCTAVE_HEIGHT) & (2 * pitch[:, 0] < OCTAVE_OVER * grid.highest)).to(pitch)
    track[lost] = torch.where(merit[:, 0] > CLEAR_MERIT, octave * pitch[:, 0], 0)
    known = track > 0
    believed = 2 * known.sum(1) > lost.sum(1)
    mean = masked_mean(track, known)
    deviation = masked_mean((track - mean[:, None]).square(), known).sqrt()
    track = torch.where(believed[:, None], filled(track, known), 0)
    return track, torch.maximum(deviation, 0.05 * mean) * believed


def _spectral_path(candidates: Tensor, merits: Tensor, there: Tensor) -> Tensor:
    """One of four candidates in each loud frame (B,V,4), smooth in time."""
    best = candidates[..., 0]
    mean = masked_mean(best, there)
    deviation = masked_mean((best - mean[:, None]).square(), there).sqrt()
    cost = (candidates - 0.8 * mean[:, None, None]).abs() * (3 - merits)
    chosen = cost.argmin(-1, keepdim=True)
    steady = median(candidates.gather(-1, chosen)[..., 0] * there, 5)
    candidates = candidates.scatter(-1, chosen, steady[..., None])
    places = candidates.permute(2, 0, 1).contiguous()
    jumps = (places[None, :, :, 1:] - places[:, None, :, :-1]).abs_().mul_(1 / LOWEST)
    jumps = functional.pad(jumps.square().add_(jumps, alpha=0.05), (1, 0))
    weight = SPECTRAL_WEIGHT * deviation / mean.clamp(min=1)
    path = best_path(1 - merits.permute(2, 0, 1), jumps.mul_(weight[:, None]), there)
    return median(places.gather(0, path[None])[0] * there, 5)


def _averaged(track: Tensor, counts: Tensor) -> Tensor:
    """Mean of each value and the two before it; the first two take what the third and fourth have.

    Clips of `counts` (B,) under four frames stay as they are.
    """
    padded = functional.pad(track, (2, 0))
    smooth = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    smooth[:, :2] = smooth[:, 2:4] if smooth.shape[1] > 3 else track[:, :2]
    return torch.where((counts > 3)[:, None], smooth, track)


def _near_spectral(
    grid: PitchGrid, bands: Sequence[Tensor], spectral: Tensor, deviation: Tensor, heard: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Correlation peaks (B,T,6) around the spectral track, three of each band, their merits weighed by how close
    they are; and how high the plain band's correlation is at half its best lag (B,T).

    `bands` are the frames of the plain and of the squared band. Only those `heard` are looked at; YAAPT also looks
    in silence, and then discards what it finds.
    """
    reach = 2 * deviation[:, None]
    lowest = (spectral - reach).clamp(min=LOWEST)[heard]
    highest = (spectral + reach).clamp(max=grid.highest)[heard]
    highest = torch.maximum(highest, lowest)
    pitch = spectral.new_zeros(*heard.shape, 6)
    merit, halved = torch.zeros_like(pitch), torch.zeros_like(spectral)
    frames = torch.cat([band[heard] for band in bands])
    found = Peaks(
        *in_blocks(partial(correlation_candidates, grid), frames, lowest.repeat(2), highest.repeat(2))
    )
    pitch[heard] = torch.cat(found.pitch.chunk(2), 1)
    merit[heard] = torch.cat(found.merit.chunk(2), 1)
    halved[heard] = found.halved.chunk(2)[0]
    away = (pitch - spectral[..., None]).abs() / (5 * deviation[:, None, None])
    return pitch, (1 + MERIT_BOOST) * merit * (1 - away).clamp(min=0), halved


def _half_as_long(grid: PitchGrid, halved: Tensor, pitch: Tensor, loud: Tensor) -> Tensor:
    """Frames (B,T) whose surroundings repeat as well at half the lag found: the spectral track is an octave low.

    YAAPT halves smooth spectra (a sawtooth) so. Real speech hardly ever agrees over `OCTAVE_FRAMES`.
    """
    repeats = loud & (halved > OCTAVE_HEIGHT) & (2 * pitch[..., 0] < OCTAVE_OVER * grid.highest)
    width = (1, 2 * OCTAVE_FRAMES + 1)
    counts = [
        functional.pad(flags.long(), (OCTAVE_FRAMES + 1, OCTAVE_FRAMES)).cumsum(1)
        for flags in (repeats, loud)
    ]
    agreeing, asked = (count[:, width[1] :] - count[:, : -width[1]] for count in counts)
    return (asked > OCTAVE_FRAMES) & (agreeing > OCTAVE_SHARE * asked)


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
    pitch, merit = pitch.permute(2, 0, 1).contiguous(), merit.permute(2, 0, 1).contiguous()
    voiced = (pitch > 0).float()
    earlier, later = pitch[:, None, :, :-1], pitch[None, :, :, 1:]
    before, after = voiced[:, None, :, :-1], voiced[None, :, :, 1:]
    change = (energy[:, 1:] - energy[:, :-1]).abs().clamp(max=1)
    both = before * after
    steps = (later - earlier).abs_().mul_(both).mul_((VOICED_WEIGHT / mean.clamp(min=1))[:, None])
    steps.add_((after - before).abs_().mul_(CHANGE_WEIGHT * (1 - change)))
    steps.add_((1 - before) * (1 - after), alpha=UNVOICED_WEIGHT)
    transition = functional.pad(steps.mul_(1 / LOCAL_WEIGHT), (1, 0))
    path = best_path(1 - merit, transition, valid)
    found = pitch.gather(0, path[None])[0]
    return torch.where(valid & (mean > 0)[:, None], found, 0)
