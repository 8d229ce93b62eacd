"""Timbre and prosody as units of their own: what a code book of phonetic states throws away.

Each tenth of a second of a clip gets a timbre code (its mean cepstra) and a prosody code (loudness within the clip,
pitch, voicing, loudness of the whole clip). `interleave` puts the codes that change among the frames' content units,
so that a plain unit LM reads all three. Knows neither the encoder nor training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from speechprompt.tokenizers.mel_encoder import FRAME_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, power_spectrum

BLOCK_FRAMES = 5
CEPSTRA = 13
FEATURES = CEPSTRA + 3  # cepstra, octaves over 100 Hz, voicing, level
_PITCH_WINDOW = 1024  # samples: two periods of 40 Hz and more
_SHORTEST, _LONGEST = 32, 270  # samples: 500 Hz and 59 Hz
_TRANSFORM = 1296  # samples: at least window and longest lag together, so that lags do not wrap; 2^4 * 3^4
_OCTAVE_COST = 0.02
_TIMBRE = slice(1, CEPSTRA)
_LOUDNESS, _OCTAVES, _VOICING, _LEVEL = 0, CEPSTRA, CEPSTRA + 1, CEPSTRA + 2

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SoundCodes:
    """Code books of timbre (codes, 12) and prosody (codes, 4), over features (FEATURES,) scaled by mean and
    deviation."""

    mean: Tensor
    deviation: Tensor
    timbre: Tensor
    prosody: Tensor

    @property
    def count(self) -> int:
        """How many codes both books hold."""
        return len(self.timbre) + len(self.prosody)

    def encode(self, features: Tensor, count: int) -> tuple[Codes, Codes]:
        """Timbre and prosody code of each block of `count` frames of features (T,FEATURES): (blocks,) each;
        prosody codes count on from the timbre codes."""
        blocks = block_means((features[:count] - self.mean) / self.deviation)
        timbre = _nearest(timbre_part(blocks), self.timbre)
        prosody = _nearest(prosody_part(blocks), self.prosody)
        return timbre.cpu().numpy(), prosody.cpu().numpy() + len(self.timbre)


def sound_features(waveforms: Tensor, lengths: Tensor, mels: Tensor) -> Tensor:
    """Features (B,T,FEATURES) of waveforms (B,S), true lengths (B,) and their log-mel frames (B,T,2*bands).

    Features of frames past a clip's end mean nothing.
    """
    halves = mels.unflatten(-1, (2, -1)).mean(-2)
    bands = halves.shape[-1]
    angles = math.pi / bands * (torch.arange(bands, device=mels.device) + 0.5)
    cosines = torch.cos(angles[:, None] * torch.arange(CEPSTRA, device=mels.device)) * math.sqrt(2 / bands)
    octaves, voicing = pitch_and_voicing(waveforms, mels.shape[1])
    level = torch.log10(waveforms.square().sum(1) / lengths + 1e-9)
    steady = level[:, None, None].expand(-1, mels.shape[1], 1)
    return torch.cat([halves @ cosines, octaves[..., None], voicing[..., None], steady], -1)


def pitch_and_voicing(waveforms: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Octaves over 100 Hz and the height of the autocorrelation's peak (0 to 1), (B,T) each.

    Windows of 64 ms around each frame, autocorrelation divided by that of the window (Boersma 1993), peaks between
    59 and 500 Hz, shorter periods favoured by a little. No path search: a code book needs no exact track.
    """
    around = (_PITCH_WINDOW - WINDOW_SAMPLES) // 2
    short = max(0, (frames - 1) * FRAME_SAMPLES + _PITCH_WINDOW - waveforms.shape[1] - around)
    padded = functional.pad(waveforms, (around, short))
    windows = padded.unfold(1, _PITCH_WINDOW, FRAME_SAMPLES)[:, :frames]
    window = torch.hann_window(_PITCH_WINDOW, device=waveforms.device)
    similar = _autocorrelation((windows - windows.mean(-1, keepdim=True)) * window)
    own = _autocorrelation(window)
    similar = similar / (similar[..., :1] + 1e-7) / (own / own[0])
    lags = torch.arange(_LONGEST + 2, device=waveforms.device)
    favoured = similar - _OCTAVE_COST * torch.log2(lags.clamp_min(1) / _SHORTEST)
    inner = favoured[..., 1:-1]
    peak = (inner >= favoured[..., :-2]) & (inner >= favoured[..., 2:]) & (lags[1:-1] >= _SHORTEST)
    height, place = inner.masked_fill(~peak, -1.0).max(-1)
    period = (place + 1).clamp(_SHORTEST, _LONGEST)
    return torch.log2(SAMPLE_RATE / 100 / period), height.clamp(0, 1)


def _autocorrelation(x: Tensor) -> Tensor:
    return torch.fft.irfft(power_spectrum(x, _TRANSFORM))[..., : _LONGEST + 2]


def block_means(frames: Tensor) -> Tensor:
    """Means of every `BLOCK_FRAMES` frames of (T,F): (blocks,F); a rest joins the last block."""
    whole = max(1, len(frames) // BLOCK_FRAMES)
    edges = [BLOCK_FRAMES * i for i in range(whole)] + [len(frames)]
    sizes = torch.tensor(np.diff(edges), device=frames.device)
    owner = torch.repeat_interleave(torch.arange(whole, device=frames.device), sizes)
    sums = frames.new_zeros(whole, frames.shape[1]).index_add_(0, owner, frames)
    return sums / sizes[:, None]


def timbre_part(blocks: Tensor) -> Tensor:
    """What the timbre code book reads of scaled blocks (N,FEATURES): (N,12)."""
    return blocks[:, _TIMBRE]


def prosody_part(blocks: Tensor) -> Tensor:
    """What the prosody code book reads: loudness, octaves as far as voiced, voicing, half of the level, (N,4)."""
    voiced = (blocks[:, _VOICING] + 1.5).clamp(0, 2).sqrt()
    columns = blocks[:, _LOUDNESS], blocks[:, _OCTAVES] * voiced, blocks[:, _VOICING], 0.5 * blocks[:, _LEVEL]
    return torch.stack(columns, 1)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return (centres.square().sum(1) / 2 - points @ centres.T).argmin(1)


def interleave(content: Codes, streams: tuple[Codes, ...], first_code: int) -> Codes:
    """Content ids (T,) with the codes of `streams` (blocks,) put in where they change, (T,).

    A code takes the place of one frame of its block: one whose loss removes no content unit and, if there is one,
    splits none. Codes are the ids from `first_code` on. A clip of one or two frames keeps its content alone.

    >>> interleave(np.array([1, 1, 1, 2, 2, 2]), (np.array([9]),), 9).tolist()
    [9, 1, 1, 2, 2, 2]
    """
    frames = content.tolist()
    blocks = len(streams[0])
    for block in range(blocks if len(frames) > len(streams) else 0):
        first = BLOCK_FRAMES * block
        last = len(frames) if block == blocks - 1 else first + BLOCK_FRAMES
        for codes in streams:
            if block == 0 or codes[block] != codes[block - 1]:
                place = min(range(first, last), key=lambda t: _cost(frames, t, first_code))
                frames[place] = int(codes[block])
    return np.array(frames, np.int64)


def _cost(frames: list[int], t: int, first_code: int) -> int:
    """0: at the start of a run of two or more; 1: at its end; 2: inside one; 3: a run of its own; 4: a code."""
    if frames[t] >= first_code:
        return 4
    before = t > 0 and frames[t - 1] == frames[t]
    after = t + 1 < len(frames) and frames[t + 1] == frames[t]
    return {(False, True): 0, (True, False): 1, (True, True): 2, (False, False): 3}[before, after]
