"""Clips at other speeds: which speeds a clip is heard at, and how it sounds there. Knows nothing of training.

Pitch and formants move with the speed, as when a tape runs faster (Ko et al. 2015; Kaldi's speed perturbation).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from speechprompt.errors import UsageError

MOST_ANSWER_COPIES = 20
"""More hearings than these cost time and change nothing."""
_STEPS = 1000
"""Speeds are whole thousandths, so that a key names them exactly."""


class SpeedCopies(NamedTuple):
    """So many copies of a clip, at speeds from 1 - `spread` to 1 + `spread`."""

    copies: int
    spread: float

    def speeds(self, identity: str) -> tuple[float, ...]:
        """The speeds of a clip's copies, drawn by hashing its id: the same for every seed, fold and machine.

        The first two of four are the two of two: asking for more copies encodes only what is new.

        >>> SpeedCopies(2, 0.15).speeds("a") == SpeedCopies(4, 0.15).speeds("a")[:2]
        True
        """
        return tuple(self._speed(identity, place) for place in range(self.copies))

    def _speed(self, identity: str, place: int) -> float:
        digest = hashlib.sha256(f"speed\0{place}\0{identity}".encode()).digest()
        share = int.from_bytes(digest[:6]) / 2**48
        return round(_STEPS * (1 + self.spread * (2 * share - 1))) / _STEPS


class AnswerCopies(NamedTuple):
    """So many copies (an even number) of a clip that is to be answered, as many slower as faster than it is.

    Their speeds lie evenly between 1 - `spread` and 1 + `spread`, the same for every clip.

    >>> AnswerCopies(4).speeds()
    (0.9, 0.95, 1.05, 1.1)
    """

    copies: int
    spread: float = 0.1

    def speeds(self, identity: str = "") -> tuple[float, ...]:
        """The speeds of the copies, whatever the clip's id. UsageError for an odd number of copies, or too many."""
        half, odd = divmod(self.copies, 2)
        if odd or not 0 <= self.copies <= MOST_ANSWER_COPIES:
            raise UsageError(
                f"a clip is answered with an even number of copies, not {self.copies}; take 0 to {MOST_ANSWER_COPIES}"
            )
        places = (i / half for i in range(-half, half + 1) if i)
        return tuple(round(_STEPS * (1 + self.spread * place)) / _STEPS for place in places)


def at_speed(waveform: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """The same sound (S,) played `speed` times as fast: about S / `speed` samples at the same rate."""
    played: NDArray[np.float32] = soxr.resample(waveform, _STEPS * speed, _STEPS, quality="HQ")
    return played.astype(np.float32, copy=False)


def speed_key(key: str, speed: float) -> str:
    """The unit store's key of a clip at another speed, from the clip's own key."""
    return hashlib.sha256(f"{key}:speed:{speed:.3f}".encode()).hexdigest()
