"""The first half of a prediction: clips become units, in windows, once however often they are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import AudioError
from speechprompt.speech.audio import AudioLimits, audio_hash, read_waveform
from speechprompt.speech.unit_cache import CacheKey, UnitCache
from speechprompt.speech.units import Units
from speechprompt.tokenizers.protocol import UnitTokenizer, Waveform, precision_of

WINDOW_SECONDS = 10.0
LONGEST_HOURS = 4.0
"""Most hours of a clip: its samples (0.9 GB at 16 kHz) and what is made of them are in memory while it is encoded."""

ClipSource = str | Path | NDArray[np.float32]
"""A path, or a mono waveform (S,) at the tokenizer's rate."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as it is answered: the units of its windows, and what users should know about it."""

    windows: tuple[Units, ...]
    duration_seconds: float
    source: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def unit_count(self) -> int:
        """Units of all windows."""
        return sum(len(window) for window in self.windows)

    def spans(self) -> list[tuple[float, float]]:
        """Start and end of each window in seconds, to a sample."""
        count = len(self.windows)
        ends = [self.duration_seconds * i / count for i in range(count + 1)]
        return list(pairwise(ends))


class ClipEncoder:
    """Clips -> units through one tokenizer and a cache. Safe in threads as far as the tokenizer is."""

    def __init__(
        self,
        tokenizer: UnitTokenizer,
        cache: UnitCache | None = None,
        window_seconds: float = WINDOW_SECONDS,
        limits: AudioLimits | None = None,
    ) -> None:
        self.tokenizer, self.window_seconds = tokenizer, window_seconds
        self.cache = UnitCache() if cache is None else cache
        self.limits = limits or AudioLimits(hours=LONGEST_HOURS)

    def encode(self, clips: Sequence[ClipSource]) -> list[Clip]:
        """The units of every clip; what is not in the cache is encoded in one batch.

        AudioError for the first one that cannot be read, is over the limit or is no row of numbers.
        """
        heard = [self._hear(clip) for clip in clips]
        keys = [self.key(waveform) for waveform, _, _ in heard]
        known = {key: windows for key in set(keys) if (windows := self.cache.get(key)) is not None}
        fresh = {key: row[0] for key, row in zip(keys, heard, strict=True) if key not in known}
        known |= self._encode(fresh)
        rate = self.tokenizer.sample_rate
        return [
            Clip(known[key], len(waveform) / rate, source, notices)
            for key, (waveform, source, notices) in zip(keys, heard, strict=True)
        ]

    def _encode(self, fresh: dict[CacheKey, Waveform]) -> dict[CacheKey, tuple[Units, ...]]:
        rate = self.tokenizer.sample_rate
        parts = {key: windows_of(waveform, rate, self.window_seconds) for key, waveform in fresh.items()}
        rows = iter(self.tokenizer.encode_batch([part for several in parts.values() for part in several]))
        found = {key: tuple(next(rows) for _ in several) for key, several in parts.items()}
        for key, windows in found.items():
            self.cache.put(key, windows)
        return found

    def _hear(self, clip: ClipSource) -> tuple[Waveform, str | None, tuple[str, ...]]:
        rate = self.tokenizer.sample_rate
        if isinstance(clip, str | Path):
            waveform, notices = read_waveform(clip, rate, limits=self.limits)
            return waveform, str(clip), tuple(notices)
        waveform = np.asarray(clip, dtype=np.float32)
        if waveform.ndim != 1 or not np.isfinite(waveform).all():
            raise AudioError("a waveform must be one-dimensional and hold numbers only")
        if len(waveform) > self.limits.hours * 3600 * rate:
            raise AudioError(f"the waveform is over the limit of {self.limits.hours:g} h; split it")
        return waveform, None, ()

    def key(self, waveform: Waveform) -> CacheKey:
        """Where the cache keeps the units of a waveform."""
        rate = self.tokenizer.sample_rate
        return CacheKey(
            audio_hash(waveform, rate),
            self.tokenizer.fingerprint,
            precision_of(self.tokenizer),
            int(self.window_seconds * rate),
        )


def windows_of(
    waveform: Waveform, sample_rate: int, window_seconds: float = WINDOW_SECONDS
) -> list[Waveform]:
    """Windows of equal length (to a sample) that cover the clip (S,), none longer than `window_seconds`."""
    longest = int(window_seconds * sample_rate)
    return np.array_split(waveform, max(1, -(-len(waveform) // longest)))
