"""Hearings of utterances: as they were recorded, and with the units that they have at other speeds. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from speechprompt.errors import CorpusError
from speechprompt.speech.manifest import Utterance
from speechprompt.speech.speeds import AnswerCopies


def hearings_of(utterances: Sequence[Utterance], copies: int) -> list[list[Utterance]]:
    """The utterances with their own units, and once for each of so many copies with the units of that speed.

    An utterance without audio has its own units every time. CorpusError when a copy was not encoded
    (`encoding.with_speed_copies` with `AnswerCopies`), UsageError for an odd number of copies.
    """
    speeds = AnswerCopies(copies).speeds()
    return [list(utterances), *([_at(u, speed) for u in utterances] for speed in speeds)]


def _at(utterance: Utterance, speed: float) -> Utterance:
    if utterance.audio is None:
        return utterance
    if speed not in utterance.speed_copies:
        raise CorpusError(f"'{utterance.id}' was not encoded at other speeds; call with_speed_copies first")
    return replace(utterance, units=utterance.speed_copies[speed])
