"""The first half of a prediction: clips become units, in windows, once however often they are asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import AudioError
from speechprompt.speech.audio import AudioLimits, audio_hash, read_waveform
from speechprompt.speech.speeds import at_speed
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
    """A clip as it is answered: the units of its windows, and what users should know about it.

    `copies` holds the same windows at other speeds, by speed, for answers that are a mean over hearings.
    """

    windows: tuple[Units, ...]
    duration_seconds: float
    source: str | None = None
    notices: tuple[str, ...] = ()
    copies: Mapping[float, tuple[Units, ...]] = field(default_factory=dict)

    @property
    def unit_count(self) -> int:
        """Units of all windows."""
        return sum(len(window) for window in self.windows)

    def hearings(self, most_units: int, speeds: Sequence[float]) -> tuple[tuple[Units, ...], ...]:
        """The windows as they are, then at each of the speeds; one of more than `most_units` is the window as it is.

        Speeds that the clip was not encoded at are left out: one that came as units is heard once.
        """
        copies = (
            tuple(
                units if len(units) <= most_units else plain
                for units, plain in zip(self.copies[speed], self.windows, strict=True)
            )
            for speed in speeds
            if speed in self.copies
        )
        return (self.windows, *copies)

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

    def encode(self, clips: Sequence[ClipSource], speeds: Sequence[float] = ()) -> list[Clip]:
        """The units of every clip, and at other speeds; what is not in the cache is encoded in one batch a speed.

        AudioError for the first one that cannot be read, is over the limit or is no row of numbers.
        """
        heard = [self._hear(clip) for clip in clips]
        keys = [self.key(waveform) for waveform, _, _ in heard]
        wanted = {key: row[0] for key, row in zip(keys, heard, strict=True)}
        known = self._known(wanted)
        for speed in speeds:  # after the clips themselves, which say what cannot be encoded
            known |= self._known({replace(key, speed=speed): wave for key, wave in wanted.items()}, known)
        rate = self.tokenizer.sample_rate
        return [
            Clip(
                known[key],
                len(waveform) / rate,
                source,
                notices,
                {speed: known[replace(key, speed=speed)] for speed in speeds},
            )
            for key, (waveform, source, notices) in zip(keys, heard, strict=True)
        ]

    def _known(
        self, wanted: dict[CacheKey, Waveform], plain: Mapping[CacheKey, tuple[Units, ...]] | None = None
    ) -> dict[CacheKey, tuple[Units, ...]]:
        """The windows of every key, from the cache or encoded now; `plain` stand in for copies that cannot be."""
        found = {key: windows for key in wanted if (windows := self.cache.get(key)) is not None}
        fresh = {key: waveform for key, waveform in wanted.items() if key not in found}
        made = self._encode(fresh) if plain is None else self._copies(fresh, plain)
        for key, windows in made.items():
            self.cache.put(key, windows)
        return found | made

    def _copies(
        self, fresh: dict[CacheKey, Waveform], plain: Mapping[CacheKey, tuple[Units, ...]]
    ) -> dict[CacheKey, tuple[Units, ...]]:
        """The windows of copies; one that is too short for a unit is the clip as it is."""
        try:
            return self._encode(fresh)
        except AudioError:
            if len(fresh) == 1:
                return {key: plain[replace(key, speed=1.0)] for key in fresh}
        alone = [self._copies({key: waveform}, plain) for key, waveform in fresh.items()]
        return {key: windows for one in alone for key, windows in one.items()}

    def _encode(self, fresh: dict[CacheKey, Waveform]) -> dict[CacheKey, tuple[Units, ...]]:
        rate = self.tokenizer.sample_rate
        parts = {key: windows_of(waveform, rate, self.window_seconds) for key, waveform in fresh.items()}
        played = [
            part if key.speed == 1 else at_speed(part, key.speed)
            for key, several in parts.items()
            for part in several
        ]
        rows = iter(self.tokenizer.encode_batch(played))
        return {key: tuple(next(rows) for _ in several) for key, several in parts.items()}

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
