"""Units in memory, so that a clip that is asked about again is not encoded again; bounded, oldest use first out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from speechprompt.speech.units import Units

DEFAULT_BYTES = 64 * 2**20
_ROW_BYTES = 512
"""What a row costs besides its streams: objects, key and place in the table."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What units depend on: the sound, who made units of it, in which precision, in windows how long, how fast."""

    audio_hash: str
    tokenizer_fingerprint: str
    precision: str = "float32"
    window_samples: int = 0
    speed: float = 1.0


class UnitCache:
    """Windows of units by key, at most `size_limit_bytes` of them; safe in threads.

    What is kept is never changed, so callers share it. A clip larger than the limit is not kept.
    """

    def __init__(self, size_limit_bytes: int = DEFAULT_BYTES) -> None:
        self.size_limit_bytes = size_limit_bytes
        self.size_bytes = self.hits = self.misses = 0
        self._rows: OrderedDict[CacheKey, tuple[Units, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: CacheKey) -> tuple[Units, ...] | None:
        """The windows of a key, now the latest used; None when they are not there."""
        with self._lock:
            found = self._rows.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._rows.move_to_end(key)
            return found

    def put(self, key: CacheKey, windows: Sequence[Units]) -> None:
        """Keep the windows of a key; the least recently used go where there is no room."""
        kept = tuple(windows)
        size = _size(kept)
        if size > self.size_limit_bytes:
            return
        with self._lock:
            if key in self._rows:
                self.size_bytes -= _size(self._rows.pop(key))
            self._rows[key] = kept
            self.size_bytes += size
            while self.size_bytes > self.size_limit_bytes:
                _, dropped = self._rows.popitem(last=False)
                self.size_bytes -= _size(dropped)

    def clear(self) -> None:
        """Forget everything but the counts."""
        with self._lock:
            self._rows.clear()
            self.size_bytes = 0


def _size(windows: Sequence[Units]) -> int:
    streams = [stream for units in windows for stream in (units.ids, units.durations, units.f0)]
    return _ROW_BYTES * (1 + len(windows)) + sum(s.nbytes for s in streams if s is not None)
