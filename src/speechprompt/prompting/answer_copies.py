"""Answers over several hearings of an utterance: as it was recorded, and played a little slower and faster.

Which unit a frame gets hangs on where the frames happen to begin and on how the voice lies between k-means' centres;
the mean over hearings averages that out (test-time augmentation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechprompt.errors import CorpusError
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.finishing import scores_of
from speechprompt.prompting.members import combined
from speechprompt.prompting.run import Examples
from speechprompt.speech.manifest import Utterance
from speechprompt.speech.speeds import AnswerCopies

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import Artifact


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


def answer_scores(
    lm: UnitLM, entry: TaskPrompt, utterances: Sequence[Utterance], copies: int = 0
) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot, in order, on the CPU: the mean over hearings, normalised again.

    Errors as `hearings_of`, and CorpusError for an utterance without units.
    """
    found = [
        scores_of(lm, entry, Examples.of(entry.task, heard)) for heard in hearings_of(utterances, copies)
    ]
    if len(found) == 1:
        return found[0]
    return {slot: torch.stack([scores[slot] for scores in found]).mean(0).log_softmax(1) for slot in found[0]}


def artifact_scores(
    lm: UnitLM, artifact: Artifact, utterances: Sequence[Utterance], copies: int = 0
) -> dict[str, Tensor]:
    """The same for an artifact: where several prompts answer together, the mean of their calibrated scores."""
    told = [answer_scores(lm, member.entry, utterances, copies) for member in artifact.members]
    if len(told) == 1:
        return told[0]
    return combined([(m.calibration, scores) for m, scores in zip(artifact.members, told, strict=True)])
