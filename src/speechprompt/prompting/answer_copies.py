"""Answers over several hearings of an utterance: as it was recorded, and played a little slower and faster.

Which unit a frame gets hangs on where the frames happen to begin and on how the voice lies between k-means' centres;
the mean over hearings averages that out (test-time augmentation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.members import combined
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.run import Examples
from speechprompt.speech.manifest import Utterance

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import Artifact


def answer_scores(
    lm: UnitLM, entry: TaskPrompt, utterances: Sequence[Utterance], copies: int = 0
) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot, in order, on the CPU: the mean over hearings, normalised again.

    Errors as `Examples.of`.
    """
    return scores_of(lm, entry, Examples.of(entry.task, utterances, copies))


def artifact_scores(
    lm: UnitLM, artifact: Artifact, utterances: Sequence[Utterance], copies: int | None = None
) -> dict[str, Tensor]:
    """The same for an artifact: where several prompts answer together, the mean of their calibrated scores.

    Without a number of copies over those that the artifact was trained to answer over.
    """
    count = artifact.copies(copies)
    told = [answer_scores(lm, member.entry, utterances, count) for member in artifact.members]
    if len(told) == 1:
        return told[0]
    return combined([(m.calibration, scores) for m, scores in zip(artifact.members, told, strict=True)])
