"""Which phonemes a clip has, where a manifest tells: with their times, or in their order only.

A row's `phonemes` are [[symbol, start_seconds], ...] in order, "" for silence, as synthetic speech knows them; or
[symbol, ...], what was said without when.
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
    """A row's phonemes and when they start, None where it does not tell when.

    Errors: CorpusError when they are neither symbols nor pairs in order.
    """
    pairs = utterance.extra.get("phonemes")
    if pairs is None or phoneme_order(utterance) is not None:
        return None
    try:
        times = [(str(symbol), float(seconds)) for symbol, seconds in pairs]
    except (TypeError, ValueError):
        times = []
    if not times or any(a > b for (_, a), (_, b) in pairwise(times)):
        raise CorpusError(
            f"{utterance.id}: `phonemes` are neither symbols nor [symbol, start_seconds] pairs in order"
        )
    return times


def phoneme_order(utterance: Utterance) -> Sequence[str] | None:
    """A row's phonemes where it tells their order only, else None."""
    symbols = utterance.extra.get("phonemes")
    if isinstance(symbols, list) and symbols and all(isinstance(symbol, str) for symbol in symbols):
        return symbols
    return None


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


def order_ids(order: Sequence[str], ids: dict[str, int]) -> list[int]:
    """The ids of an order's symbols, without silence and without symbols that have none."""
    named = (_id(symbol, ids) for symbol in order)
    return [i for i in named if i not in (SILENCE, UNKNOWN)]


def _id(symbol: str, ids: dict[str, int]) -> int:
    if _is_silence(symbol):
        return SILENCE
    return ids.get(symbol, ids.get(symbol[0], UNKNOWN))


def _is_silence(symbol: str) -> bool:
    return not symbol or symbol.startswith("_")
