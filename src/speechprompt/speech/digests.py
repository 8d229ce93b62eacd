"""Hashes of what training hears: corpora of one digest teach the same."""

from __future__ import annotations

import hashlib

from speechprompt.speech.manifest import Corpus
from speechprompt.speech.units import Units


def unit_bytes(units: Units) -> bytes:
    """Every stream of an utterance's units, for a hash."""
    streams = [b"-" if s is None else s.tobytes() for s in (units.durations, units.f0)]
    return f"{len(units)} ".encode() + units.ids.tobytes() + b"".join(streams)


def corpus_digest(corpus: Corpus) -> str:
    """sha256 of slots, and of every utterance's id, split, labels, units and copies at other speeds, in order."""
    digest = hashlib.sha256(repr(dict(corpus.slots)).encode())
    for u in corpus.utterances:
        labels, speeds = [u.labels.get(slot) for slot in corpus.slots], sorted(u.speed_copies)
        digest.update(repr((u.id, u.split, labels, speeds)).encode())
        for units in (u.units, *(u.speed_copies[speed] for speed in speeds)):
            digest.update(b"-" if units is None else unit_bytes(units))
    return digest.hexdigest()
