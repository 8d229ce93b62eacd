"""Discrete units of one utterance: a value with its durations, and the two moves between frames and units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechprompt.errors import UnitsError


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Deduplicated units of one utterance.

    Shapes: `ids` (N,) int64, `durations` (N,) int64 or None, `f0` (N,) float32 or None. Durations are in
    frames; f0 is what the spoken LM's tokenizer says it is (pGSLM: mean-normalised log-Hz, 0 unvoiced).
    Raises UnitsError when the streams differ in length, an id is negative or a duration is below one frame.
    """

    ids: NDArray[np.int64]
    durations: NDArray[np.int64] | None = None
    f0: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _integers(self.ids, "units"))
        if self.durations is not None:
            object.__setattr__(self, "durations", _integers(self.durations, "durations"))
            if len(self.durations) and self.durations.min() < 1:
                raise UnitsError("a duration is below one frame")
        if self.f0 is not None:
            object.__setattr__(self, "f0", np.asarray(self.f0, dtype=np.float32))
        for name in ("durations", "f0"):
            stream = getattr(self, name)
            if stream is not None and stream.shape != self.ids.shape:
                raise UnitsError(f"{len(self.ids)} units but {stream.size} {name}")
        if len(self.ids) and self.ids.min() < 0:
            raise UnitsError("a unit id is negative")

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Units):
            return NotImplemented
        pairs = ((self.ids, other.ids), (self.durations, other.durations), (self.f0, other.f0))
        return all(a is b if a is None or b is None else np.array_equal(a, b) for a, b in pairs)


def _integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UnitsError(f"{name} must be a flat list of whole numbers")
    return array.astype(np.int64, copy=False)


def deduplicate(frame_ids: ArrayLike) -> Units:
    """Merge runs of equal frame ids (T,) into units (N,) with durations in frames.

    >>> deduplicate([5, 5, 7, 5]).ids.tolist(), deduplicate([5, 5, 7, 5]).durations.tolist()
    ([5, 7, 5], [2, 1, 1])
    """
    frames = _integers(frame_ids, "frame ids")
    if not len(frames):
        return Units(frames, frames.copy())
    starts = np.flatnonzero(np.r_[True, frames[1:] != frames[:-1]])
    return Units(frames[starts], np.diff(np.r_[starts, len(frames)]))


def expand(units: Units) -> NDArray[np.int64]:
    """Frame ids (T,) of units with durations; the inverse of `deduplicate`. UnitsError without durations."""
    if units.durations is None:
        raise UnitsError("these units carry no durations, so their frames cannot be restored")
    return np.repeat(units.ids, units.durations)
