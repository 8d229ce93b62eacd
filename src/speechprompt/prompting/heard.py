"""Which clips a prompt has heard, as hashes of their units: a clip is known again under any id and any file name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from speechprompt.speech.digests import unit_bytes
from speechprompt.speech.manifest import Utterance

MOST_HEARD = 65_536
"""So many clips are remembered (0.5 MB), those of the smallest hashes; of a larger corpus a part drawn by hash."""


def heard_in(utterances: Iterable[Utterance]) -> Tensor:
    """Hashes (n,) int64 of utterances, each once and in order of size, at most `MOST_HEARD`.

    Utterances without durations do not count: two recordings may well have the same units.
    """
    hashes = {found for utterance in utterances if (found := _hash(utterance)) is not None}
    return torch.tensor(sorted(hashes)[:MOST_HEARD], dtype=torch.int64)


def count_heard(heard: Tensor | None, utterances: Iterable[Utterance]) -> int:
    """How many utterances are among those of `heard_in`, at least; none where an artifact does not remember them."""
    known = set() if heard is None else set(heard.tolist())
    return sum(_hash(utterance) in known for utterance in utterances)


def _hash(utterance: Utterance) -> int | None:
    units = utterance.units
    if units is None or units.durations is None:
        return None
    return int.from_bytes(hashlib.sha256(unit_bytes(units)).digest()[:8], "big", signed=True)
