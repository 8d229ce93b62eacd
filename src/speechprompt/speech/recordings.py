"""The same recording in several files. Waveforms tell copies surely, rounded or louder; units tell them for nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import CorpusError
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.digests import unit_bytes
from speechprompt.speech.manifest import Corpus, Utterance

RATE = 16_000
SAME = 0.99
"""Correlation of two clips of one length above which they are one recording: copies have .99999 and more."""


def distinct(corpus: Corpus) -> Corpus:
    """The corpus with the first utterance of every recording. CorpusError for an utterance without audio.

    Holds the audio of clips of one length at a time; its cost grows with the square of their number.
    """
    of_length: dict[int, list[Utterance]] = defaultdict(list)
    for utterance in corpus.utterances:
        of_length[len(_waveform(corpus, utterance))].append(utterance)
    kept: set[str] = set()
    for length, utterances in of_length.items():
        firsts = np.zeros((0, length), np.float32)
        for utterance in utterances:
            waveform = _waveform(corpus, utterance)
            shape = waveform - waveform.mean()
            shape /= max(float(np.linalg.norm(shape)), 1e-9)
            if not (firsts @ shape > SAME).any():
                firsts = np.vstack([firsts, shape])
                kept.add(utterance.id)
    return replace(corpus, utterances=tuple(u for u in corpus.utterances if u.id in kept))


def _waveform(corpus: Corpus, utterance: Utterance) -> NDArray[np.float32]:
    if utterance.audio is None:
        raise CorpusError(
            f"{corpus.name}: '{utterance.id}' has no audio, so nobody knows whether it is a copy"
        )
    return read_waveform(utterance.audio, RATE, utterance.start_seconds, utterance.end_seconds)[0]


def copies(corpus: Corpus, split: str) -> int:
    """How many utterances of a split sound exactly like one in train or valid: in every unit and every duration.

    Utterances without durations do not count: two recordings may well have the same units.
    """
    timed = [
        (u.split, unit_bytes(u.units))
        for u in corpus.utterances
        if u.units is not None and u.units.durations is not None
    ]
    learnt = {sound for place, sound in timed if place in ("train", "valid") and place != split}
    return sum(place == split and sound in learnt for place, sound in timed)
