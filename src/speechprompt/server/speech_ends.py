"""Where speech begins and ends in a stream: loudness over a noise floor that follows the room.

Simple on purpose: no model, no language, a few lines that run on every frame of every stream.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from speechprompt.tokenizers.protocol import Waveform

FRAME_SECONDS = 0.02
LOUDER_BY = 10.0
"""Decibels over the noise floor that count as speech."""
SILENCE = -60.0
"""Decibels of full scale below which nothing is speech."""
FLOOR_RISE = 1.0
"""Decibels a second by which the floor forgets a quieter room."""
BEGIN_FRAMES, END_FRAMES = 4, 30
"""Loud frames in a row that begin speech; quiet ones that end it."""
MARGIN_FRAMES = 10
"""Frames kept on both sides of what was loud."""


class SpeechEnds:
    """Finds stretches of speech in samples that arrive piece by piece; the pieces' sizes do not matter.

    `longest_seconds` ends a stretch that does not end by itself.
    """

    def __init__(self, sample_rate: int, longest_seconds: float = 30.0) -> None:
        self.frame_samples = int(sample_rate * FRAME_SECONDS)
        self._longest = int(longest_seconds / FRAME_SECONDS)
        self._rest = np.zeros(0, np.float32)
        self._floor: float | None = None
        self._frame = self._run = 0
        self._begin: int | None = None
        self._last_loud = self._ended = 0

    @property
    def speaking_since(self) -> int | None:
        """First sample of the speech that has not ended, None between stretches."""
        return None if self._begin is None else self._begin * self.frame_samples

    def feed(self, samples: Waveform) -> Iterator[tuple[int, int]]:
        """First and past-the-last sample of each stretch that ends within `samples`."""
        joined = np.concatenate([self._rest, samples])
        count = len(joined) // self.frame_samples
        self._rest = joined[count * self.frame_samples :]
        frames = joined[: count * self.frame_samples].reshape(count, self.frame_samples)
        for level in 10 * np.log10(np.mean(np.square(frames), 1) + 1e-12):
            yield from self._hear(float(level))

    def finish(self) -> Iterator[tuple[int, int]]:
        """The stretch that the end of the stream ends, if there is one."""
        if self._begin is not None:
            yield self._end(min(self._last_loud + 1 + MARGIN_FRAMES, self._frame))

    def _hear(self, level: float) -> Iterator[tuple[int, int]]:
        loud = level > SILENCE and self._floor is not None and level > self._floor + LOUDER_BY
        rising = FLOOR_RISE * FRAME_SECONDS
        self._floor = max(
            SILENCE - LOUDER_BY, level if self._floor is None else min(level, self._floor + rising)
        )
        self._run = self._run + 1 if loud else 0
        if loud:
            self._last_loud = self._frame
        if self._begin is None and self._run >= BEGIN_FRAMES:
            self._begin = max(self._ended, self._frame + 1 - BEGIN_FRAMES - MARGIN_FRAMES)
        self._frame += 1
        if self._begin is None:
            return
        if self._frame - self._last_loud > END_FRAMES:
            yield self._end(self._last_loud + 1 + MARGIN_FRAMES)
        elif self._frame - self._begin >= self._longest:
            yield self._end(self._frame)

    def _end(self, frame: int) -> tuple[int, int]:
        assert self._begin is not None
        begin, self._begin, self._ended = self._begin, None, frame
        return begin * self.frame_samples, frame * self.frame_samples
