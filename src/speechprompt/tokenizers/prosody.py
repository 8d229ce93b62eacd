"""Units with prosody, as pGSLM was trained on: one F0 value a unit, mean-normalised, in log-Hz.

Source: Kharitonov et al. 2021, section 3.1. A tracker gives F0 every 5 ms; the mean of a unit's voiced values is
its F0; units without any are interpolated between their neighbours. Knows no LM: bins are the LM adapter's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import UnitsError
from speechprompt.speech.units import Units
from speechprompt.tokenizers.protocol import UnitTokenizer, Waveform, precision_of

F0_RATE = 200
"""F0 values per second of every tracker: a hop of 5 ms."""

TOLERATED_FRAMES = 5
"""How many unit frames the F0 track and the units may differ in length (the reference's limit)."""

Pitch = NDArray[np.float32]
"""F0 in Hz, `F0_RATE` values per second, 0 where unvoiced."""


@runtime_checkable
class PitchTracker(Protocol):
    """Waveforms -> F0 tracks of ceil(S * F0_RATE / sample_rate) values; `fingerprint` covers every option.

    `name` is what stands behind `+` in the name of a tokenizer whose units it gives F0.

    Any finite waveform has a result: silence, noise and clips shorter than a period are unvoiced throughout.
    """

    name: str
    fingerprint: str

    def track(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Pitch]:
        """One track a waveform (S,)."""
        ...


F0Mean = Literal["utterance", "absolute"]
"""What log-F0 is measured from: the utterance's mean (the published way, as is a speaker's), or nothing."""

ABSOLUTE = "-absolute"
"""What follows the tracker in the name of a tokenizer whose F0 keeps the voice's height."""


class ProsodyTokenizer:
    """Any unit tokenizer, its units carrying F0 as well; itself a UnitTokenizer.

    `mean` is what log-F0 is measured from: the utterance's own mean over voiced values, or a table of speakers'
    means (`speaker_means`), the utterance's own for a speaker who is not in it. `absolute` measures it from
    nothing, the logarithm of Hz itself, so that the height of a voice stays; the name then ends in `-absolute`.
    """

    def __init__(
        self,
        tokenizer: UnitTokenizer,
        tracker: PitchTracker,
        mean: F0Mean | Mapping[str, float] = "utterance",
    ) -> None:
        self.tokenizer, self.tracker = tokenizer, tracker
        self.absolute = mean == "absolute"
        self.means: Mapping[str, float] = {} if isinstance(mean, str) else mean
        self.name = f"{tokenizer.name}+{tracker.name}{ABSOLUTE if self.absolute else ''}"
        self.sample_rate, self.frame_rate = tokenizer.sample_rate, tokenizer.frame_rate
        self.unit_count, self.precision = tokenizer.unit_count, precision_of(tokenizer)
        about = [
            tokenizer.fingerprint,
            tracker.fingerprint,
            "absolute" if self.absolute else sorted(self.means.items()),
        ]
        self.fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def encode(self, waveform: Waveform, speaker: str | None = None) -> Units:
        """Units of samples (S,) with durations and F0; errors are the inner tokenizer's."""
        return self.encode_batch([waveform], [speaker])[0]

    def encode_batch(
        self, waveforms: Sequence[Waveform], speakers: Sequence[str | None] | None = None
    ) -> list[Units]:
        """Units of each clip, as if alone; `speakers` pick rows of the table of means."""
        units = self.tokenizer.encode_batch(waveforms)
        tracks = self.tracker.track(waveforms, self.sample_rate)
        named = speakers or [None] * len(waveforms)
        return [
            self._with_f0(row, track, speaker)
            for row, track, speaker in zip(units, tracks, named, strict=True)
        ]

    def _with_f0(self, units: Units, track: Pitch, speaker: str | None) -> Units:
        if units.durations is None:
            raise UnitsError(f"tokenizer '{self.tokenizer.name}' gives no durations, which F0 needs")
        known = self.means.get(speaker) if speaker is not None else None
        own = 0.0 if self.absolute else mean_log_f0([track])
        mean = own if known is None else known
        f0 = unit_f0(track, units.durations, self.frame_rate)
        return replace(units, f0=normalised_log_f0(interpolated(f0), mean))


def unit_f0(track: Pitch, durations: NDArray[np.int64], frame_rate: float) -> Pitch:
    """Mean of the voiced values of each unit (N,) in Hz, 0 where it has none.

    A track that is longer than the units is cut, a shorter one goes on with its last value; UnitsError when they
    differ by more than `TOLERATED_FRAMES`.
    """
    per_frame = F0_RATE / frame_rate
    ends = np.cumsum(durations) * per_frame
    length = int(ends[-1]) if len(ends) else 0
    if abs(len(track) - length) > TOLERATED_FRAMES * per_frame:
        raise UnitsError(f"an F0 track of {len(track)} values does not fit units of {length}")
    if len(track) < length:
        last = track[-1] if len(track) else np.float32(0)
        track = np.concatenate([track, np.full(length - len(track), last, np.float32)])
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    values = [track[first : int(last)] for first, last in zip(starts, ends, strict=True)]
    means = [row[row > 0].mean(dtype=np.float32) if (row > 0).any() else 0.0 for row in values]
    return np.asarray(means, dtype=np.float32)


def interpolated(f0: Pitch) -> Pitch:
    """F0 (N,) with straight lines over inner zeros; zeros before the first and after the last value stay."""
    voiced = np.flatnonzero(f0)
    if len(voiced) < 2:
        return f0
    filled = np.interp(np.arange(len(f0)), voiced, f0[voiced].astype(np.float64), left=0.0, right=0.0)
    return filled.astype(np.float32)


def normalised_log_f0(f0: Pitch, mean: float) -> Pitch:
    """log(f0) - mean where there is pitch, 0 where there is none."""
    voiced = f0 > 0
    logs = np.log(np.where(voiced, f0, 1.0), dtype=np.float32)
    return np.where(voiced, logs - np.float32(mean), np.float32(0.0)).astype(np.float32)


def mean_log_f0(tracks: Sequence[Pitch]) -> float:
    """Mean log-F0 over the voiced values of tracks, 0 where there are none."""
    voiced = np.concatenate([track[track > 0] for track in tracks]) if tracks else np.zeros(0)
    return float(np.log(voiced, dtype=np.float64).mean()) if len(voiced) else 0.0


def speaker_means(tracks: Sequence[Pitch], speakers: Sequence[str]) -> dict[str, float]:
    """Each speaker's mean log-F0 over all of their tracks; speakers without a voiced value are left out."""
    grouped: dict[str, list[Pitch]] = {}
    for track, speaker in zip(tracks, speakers, strict=True):
        grouped.setdefault(speaker, []).append(track)
    return {
        speaker: mean_log_f0(rows) for speaker, rows in grouped.items() if any((r > 0).any() for r in rows)
    }
