"""N-gram SVMs of a table that hear what its prompts hear: over copies, and tuned with all that prompts have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from speechprompt.evaluation.baselines import LABEL_JOINT, NgramBaseline
from speechprompt.experiments.table_rounds import Round
from speechprompt.metrics import accuracy
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.speech.hearings import hearings_of
from speechprompt.speech.manifest import Utterance

STRENGTHS = (0.5, 0.1, 2.0)
"""What C of the tuned SVM is chosen from; the first is the plain SVM's."""


class NgramAnswers(NamedTuple):
    """Answers to a round's test utterances, and what was chosen on valid, if anything was."""

    predictions: tuple[str, ...]
    trained_parameters: int
    valid_accuracy: float | None
    chosen: Mapping[str, Any]


def ngrams_over_copies(one: Round, options: TrainingOptions, copies: int) -> NgramAnswers:
    """The n-gram SVM over all hearings: it trains on every copy and answers with its mean score."""
    svm = NgramBaseline().fit(*_learnt(one, options))
    return NgramAnswers(_heard(svm, one.rows("test"), copies), svm.trained_parameters, None, {})


def tuned_ngrams(one: Round, options: TrainingOptions, copies: int) -> NgramAnswers:
    """The n-gram SVM with all that prompts have.

    Its strength, whether labels are balanced, and whether it hears the row's copies are chosen on valid; then it
    learns from valid too. Ties go to what comes first: the plain SVM's strength, balanced, over all copies.
    """
    ways = [(options, copies)]
    if (options.speed_copies or copies) and any(u.speed_copies for u in one.corpus.utterances):
        ways.append((options.model_copy(update={"speed_copies": 0}), 0))
    valid, truth = one.rows("valid"), one.labels("valid")
    found = []
    for asked, heard in ways:
        units, labels = _learnt(one, asked)
        for strength, balanced in product(STRENGTHS, (True, False)):
            svm = NgramBaseline(strength, balanced=balanced).fit(units, labels)
            found.append((accuracy(truth, _heard(svm, valid, heard)), strength, balanced, asked, heard))
    reached, strength, balanced, asked, heard = max(found, key=lambda one: one[0])
    units, labels = _learnt(one, asked)
    told = hearings_of(valid, heard)
    svm = NgramBaseline(strength, balanced=balanced).fit(
        [*units, *(ids for rows in told for ids in _ids(rows))], [*labels, *truth * len(told)]
    )
    chosen = {"strength": strength, "balanced": balanced, "hears_copies": asked is options and len(ways) > 1}
    return NgramAnswers(_heard(svm, one.rows("test"), heard), svm.trained_parameters, reached, chosen)


def _learnt(one: Round, options: TrainingOptions) -> tuple[list[list[int]], list[str]]:
    """Units of the training clips and of their copies, and their labels."""
    train, slots = Examples.to_train(one.task, one.rows("train"), options), one.task.slots
    labels = named(slots, dict(zip(slots, train.targets.T.tolist(), strict=True)))
    return [row.ids.tolist() for row in train.units], list(labels)


def _heard(svm: NgramBaseline, utterances: Sequence[Utterance], copies: int) -> tuple[str, ...]:
    """Answers by mean score over the clips and so many copies of each."""
    answers = [svm.predict(_ids(rows)) for rows in hearings_of(utterances, copies)]
    best = np.mean([answer.scores for answer in answers], 0).argmax(1)
    return tuple(answers[0].labels[i] for i in best)


def _ids(utterances: Sequence[Utterance]) -> list[list[int]]:
    return [u.units.ids.tolist() for u in utterances if u.units is not None]


def named(slots: Mapping[str, Sequence[str]], best: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The labels of all slots as one, from each slot's numbers (n,)."""
    columns = [[labels[i] for i in best[slot]] for slot, labels in slots.items()]
    return tuple(LABEL_JOINT.join(row) for row in zip(*columns, strict=True))
