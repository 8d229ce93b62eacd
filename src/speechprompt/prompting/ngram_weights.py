"""Weights of n-grams of units beside a prompt: a linear classifier that is fitted once the prompt has learnt.

Gradient steps enough for a prompt are too few for thousands of rare n-grams; a convex problem has its solution at once.
Counts and pace, where the verbalizer reads them, get a second weight there, for n-grams alone know no durations.
Source of the classifier: what `evaluation.baselines.NgramBaseline` fits, over hashed n-grams instead of all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt.errors import UsageError
from speechprompt.lms.batch import collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.calibration import fit_temperature
from speechprompt.prompting.outputs import outputs_of
from speechprompt.prompting.readings import (
    COUNTS,
    PACE,
    ngram_stream,
    ngram_values,
    sizes_of,
    unit_counts,
    unit_pace,
)
from speechprompt.prompting.run import NgramFit, Run
from speechprompt.prompting.verbalizers import LearnableVerbalizer
from speechprompt.speech.units import Units

STRENGTHS = (0.1, 0.5)
"""Of the classifier (its C); validation chooses."""
SHARES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""What its scores may count for beside the prompt's log-probabilities; validation chooses."""
BESIDE = 0.1
"""Scale of counts and pace beside a row of n-grams of length 1."""
_ROWS = 256


def add_ngrams(lm: UnitLM, run: Run) -> NgramFit:
    """Widen the verbalizer of a run that has ended by weights of n-grams, and note what both reach on validation.

    Deterministic. Strength and share are those with the lowest loss on validation, each share at its own temperature;
    share 0 leaves the prompt as it is. With `refit_ngrams` the weights are then fitted again, to validation too, for
    `Run.answering`. UsageError for a verbalizer that is not learnable.
    """
    verbalizer, options = run.entry.verbalizer, run.options
    if not isinstance(verbalizer, LearnableVerbalizer):
        raise UsageError("n-grams of units need the learnable verbalizer")
    stream = ngram_stream(options.ngrams, options.ngram_kind)
    streams = [*(name for name in verbalizer.streams if name in (COUNTS, PACE)), stream]
    told = outputs_of(lm, run.entry, run.valid).scores
    heard, asked = (_features(lm, units, streams) for units in (run.train.units, run.valid.units))
    found: list[tuple[float, float, float, Tensor, dict[str, Tensor]]] = []
    for strength in STRENGTHS:
        weight = _fitted(heard, run.train.targets, run, strength)
        scores = {
            slot: torch.from_numpy(
                np.asarray(asked @ weight[verbalizer.columns(slot).cpu()].T.double().numpy())
            )
            for slot in verbalizer.slots
        }
        for share in SHARES:
            both = {slot: told[slot] + share * scores[slot].float() for slot in verbalizer.slots}
            found.append((_loss(both, run.valid.targets), strength, share, weight, both))
    loss, strength, share, weight, both = min(found, key=lambda each: each[0])
    run.entry.verbalizer = _widened(lm, verbalizer, streams, share * weight)
    right = [scores.argmax(1) == run.valid.targets[:, s] for s, scores in enumerate(both.values())]
    alone, run.progress.best_loss = run.progress.best_accuracy, loss
    run.progress.best_accuracy = float(torch.stack(right).all(0).float().mean())
    nothing = copy.deepcopy(verbalizer)
    with torch.no_grad():
        nothing.weight.zero_()
    refitted: LearnableVerbalizer | None = None
    if options.refit_ngrams:
        targets = torch.cat([run.train.targets, run.valid.targets])
        weight = _fitted(_stacked([heard, asked]), targets, run, strength)
        refitted = _widened(lm, verbalizer, streams, share * weight)
    return NgramFit(strength, share, alone, verbalizer, _widened(lm, nothing, streams, weight), refitted)


def _features(lm: UnitLM, units: Sequence[Units], streams: Sequence[str]) -> Any:
    """What the classifier reads of utterances (n,F), a sparse matrix in the order of `streams`, n-grams last."""
    from scipy.sparse import csr_matrix

    parts = []
    for first in range(0, len(units), _ROWS):
        batch = collate(list(units[first : first + _ROWS]))
        found = [ngram_values(batch, streams[-1])]
        if PACE in streams:
            found.insert(0, BESIDE * unit_pace(batch, lm.unit_count))
        if COUNTS in streams:
            found.insert(0, BESIDE * unit_counts(batch, lm.unit_count))
        parts.append(csr_matrix(torch.cat(found, 1).numpy()))
    return _stacked(parts)


def _stacked(parts: Sequence[Any]) -> Any:
    """Sparse matrices of the same columns, one below the other."""
    from scipy.sparse import vstack

    return vstack(parts).tocsr()


def _fitted(features: Any, targets: Tensor, run: Run, strength: float) -> Tensor:
    """The classifier's weights (O,F) of every label, from features (n,F) and targets (n,S) of utterances.

    A label that no utterance has gets weights under which it is never the best; a slot with one label gets none.
    """
    from sklearn.svm import LinearSVC

    verbalizer = run.entry.verbalizer
    outputs = 1 + max(int(verbalizer.columns(slot).max()) for slot in verbalizer.slots)
    weight = torch.zeros(outputs, features.shape[1])
    for s, slot in enumerate(verbalizer.slots):
        labels = targets[:, s].numpy()
        present = np.unique(labels)
        if len(present) < 2:
            continue
        balance = "balanced" if run.options.balanced else None
        classifier = LinearSVC(C=strength, class_weight=balance, fit_intercept=False, random_state=0)
        rows = torch.from_numpy(np.atleast_2d(classifier.fit(features, labels).coef_)).float()
        if len(rows) == 1:
            rows = torch.cat([-rows, rows]) / 2
        columns = verbalizer.columns(slot).cpu()
        weight[columns] = rows.min()
        weight[columns[torch.from_numpy(present)]] = rows
    return weight


def _loss(scores: Mapping[str, Tensor], targets: Tensor) -> float:
    """Nats an utterance over all slots, each slot at the temperature that suits it best."""
    total = 0.0
    for s, values in enumerate(scores.values()):
        cooled = values / fit_temperature(values.log_softmax(-1), targets[:, s])
        total += float(torch.nn.functional.cross_entropy(cooled, targets[:, s]))
    return total


def _widened(
    lm: UnitLM, verbalizer: LearnableVerbalizer, streams: Sequence[str], weight: Tensor
) -> LearnableVerbalizer:
    """The same verbalizer over n-grams, too: `weight` (O,F) is added to that of streams which it reads already."""
    old = verbalizer.weight.detach()
    columns = {slot: verbalizer.columns(slot) for slot in verbalizer.slots}
    answers = {slot: verbalizer.answers(slot) for slot in verbalizer.slots}
    parts = dict(zip(verbalizer.streams, old.split(sizes_of(lm, verbalizer.streams), 1), strict=True))
    for name, rows in zip(streams, weight.to(old).split(sizes_of(lm, streams), 1), strict=True):
        parts[name] = parts[name] + BESIDE * rows if name in parts else rows
    widened = LearnableVerbalizer(torch.cat(list(parts.values()), 1), columns, answers)
    widened.streams = tuple(parts)
    return widened
