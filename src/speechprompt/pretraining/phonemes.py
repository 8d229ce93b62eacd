"""Which phoneme each frame of a clip belongs to, where a manifest tells.

A row's `phonemes` are [[symbol, start_seconds], ...] in order; "" is silence. Synthetic speech knows them exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import CorpusError
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.mel_encoder import FRAME_RATE, SAMPLE_RATE, WINDOW_SAMPLES

SILENCE = 0
UNKNOWN = -1
_MIDDLE_SECONDS = WINDOW_SAMPLES / SAMPLE_RATE / 2
Times = Sequence[tuple[str, float]]


def phoneme_times(utterance: Utterance) -> Times | None:
    """A row's phonemes and when they start, None where it has none. CorpusError when they are not pairs in order."""
    pairs = utterance.extra.get("phonemes")
    if pairs is None:
        return None
    try:
        times = [(str(symbol), float(seconds)) for symbol, seconds in pairs]
    except (TypeError, ValueError):
        times = []
    if not times or any(a > b for (_, a), (_, b) in pairwise(times)):
        raise CorpusError(f"{utterance.id}: `phonemes` are not [symbol, start_seconds] pairs in order")
    return times


def inventory(rows: Iterable[Times | None], fewest: int = 250) -> dict[str, int]:
    """Ids from 1 on of the symbols that occur at least `fewest` times, most frequent first; 0 is silence."""
    counts = Counter(symbol for symbol, _ in chain.from_iterable(row for row in rows if row))
    kept = [symbol for symbol, n in counts.most_common() if n >= fewest and not _is_silence(symbol)]
    return {symbol: i for i, symbol in enumerate(kept, 1)}


def frame_phonemes(times: Times | None, frames: int, ids: dict[str, int]) -> NDArray[np.int16]:
    """The phoneme at the middle of each of a clip's frames (T,); UNKNOWN where there is no telling.

    A rare symbol counts as its first letter if that is a symbol of its own (`ts` -> `t`).
    """
    if not times:
        return np.full(frames, UNKNOWN, np.int16)
    starts = np.array([seconds for _, seconds in times])
    named = np.array([SILENCE, *(_id(symbol, ids) for symbol, _ in times)], np.int16)
    middles = np.arange(frames) / FRAME_RATE + _MIDDLE_SECONDS
    found: NDArray[np.int16] = named[np.searchsorted(starts, middles, side="right")]
    return found


def _id(symbol: str, ids: dict[str, int]) -> int:
    if _is_silence(symbol):
        return SILENCE
    return ids.get(symbol, ids.get(symbol[0], UNKNOWN))


def _is_silence(symbol: str) -> bool:
    return not symbol or symbol.startswith("_")
