"""Several prompts for one task as one classifier: the mean of their calibrated log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from speechprompt.encoding import check_lengths, encode_corpus
from speechprompt.errors import UsageError
from speechprompt.evaluation.evaluate import Evaluation, heard_over, split_of, with_answer_copies
from speechprompt.evaluation.summary import AnsweredUtterance, SlotAnswer, summarise
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.spoken_lm import SpokenLM

if TYPE_CHECKING:
    from torch import Tensor

    from speechprompt.lms.protocol import UnitLM
    from speechprompt.prompting.artifact import Artifact


def evaluate_ensemble(
    spoken_lm: SpokenLM,
    artifacts: Sequence[Artifact],
    corpus: Corpus,
    split: str = "test",
    seed: int = 0,
    copies: int | None = None,
) -> Evaluation:
    """The numbers of prompts that answer together, each over its own copies or all over so many.

    Errors as in `evaluate`, and UsageError for other slots.
    """
    encoded = encode_corpus(corpus, spoken_lm).corpus
    heard = [artifact.copies(copies) for artifact in artifacts]
    test = split_of(with_answer_copies(encoded, spoken_lm, split, *heard), split)
    check_lengths(test, spoken_lm.lm.max_units)
    rows = ensemble_answers(spoken_lm.lm, artifacts, test, copies)
    numbers = summarise(rows, artifacts[0].entry.task.slots, seed)
    name = f"ensemble of {len(artifacts)}"
    return Evaluation(name, split, numbers, tuple(rows), copies=heard_over(test, max(heard)))


def trained_parameters(artifacts: Sequence[Artifact]) -> int:
    """All that the members train together."""
    return sum(artifact.config.trained_parameters for artifact in artifacts)


def ensemble_answers(
    lm: UnitLM, artifacts: Sequence[Artifact], utterances: Sequence[Utterance], copies: int | None = None
) -> list[AnsweredUtterance]:
    """What the members together answer to each utterance, in order."""
    slots = artifacts[0].entry.task.slots
    scores = ensemble_scores(lm, artifacts, utterances, copies)
    best = {slot: scores[slot].argmax(1).tolist() for slot in slots}
    shares = {slot: scores[slot].exp().tolist() for slot in slots}
    return [
        AnsweredUtterance(
            u.id,
            {
                slot: SlotAnswer(u.labels[slot], labels[best[slot][i]], shares[slot][i])
                for slot, labels in slots.items()
            },
            u.speaker,
        )
        for i, u in enumerate(utterances)
    ]


def ensemble_scores(
    lm: UnitLM, artifacts: Sequence[Artifact], utterances: Sequence[Utterance], copies: int | None = None
) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot: the members' calibrated ones, averaged and normalised again.

    UsageError unless all members answer the same slots with the same labels in the same order.
    """
    from speechprompt.prompting.answer_copies import artifact_scores
    from speechprompt.prompting.members import combined

    task = artifacts[0].entry.task
    for artifact in artifacts:
        if dict(artifact.entry.task.slots) != dict(task.slots):
            raise UsageError(
                f"'{artifact.name}' answers other slots or labels than '{artifacts[0].name}', so the two cannot "
                "answer together"
            )
    members = [
        (artifact.config.calibration, artifact_scores(lm, artifact, utterances, copies))
        for artifact in artifacts
    ]
    return combined(members)
