"""Several prompts of one task that answer together: the options of each, and the clips that each learns by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechprompt.prompting.calibration import Calibration
from speechprompt.speech.splits import folds

if TYPE_CHECKING:
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus, Utterance

MEMBER_SEEDS = 1000
"""Seeds of an ensemble's members lie so far apart, so that no two of neighbouring seeds share one."""

Division = tuple[tuple["Utterance", ...], tuple["Utterance", ...]]
"""Utterances to train on and to validate on."""


def members_of(options: TrainingOptions) -> list[TrainingOptions]:
    """The options of each member: a seed of its own; n-grams stand beside the first alone."""
    return [
        options.model_copy(
            update={"seed": options.seed + MEMBER_SEEDS * member, **({"ngrams": 0} if member else {})}
        )
        for member in range(options.ensemble)
    ]


def divisions_of(corpus: Corpus, options: TrainingOptions) -> list[Division]:
    """What each member trains on and is validated on: the corpus's own splits, or with `rotate_validation` in turn."""
    if options.rotate_validation:
        return divisions(corpus, options.ensemble)
    return [(corpus.split("train"), corpus.split("valid"))] * options.ensemble


def divisions(corpus: Corpus, count: int) -> list[Division]:
    """So many divisions of a corpus's train and valid; the first is its own, each further one validates on other clips.

    They are parts of train about as large as valid, drawn by hash; speakers stay whole where those of valid do not
    train. CorpusError where train has too few speakers for three parts.
    """
    train, valid = corpus.split("train"), corpus.split("valid")
    found = [(train, valid)]
    if count > 1:
        new = {u.speaker for u in valid}.isdisjoint({u.speaker for u in train} - {None})
        rows = train if new else tuple(replace(u, speaker=None) for u in train)
        parts = folds(replace(corpus, utterances=rows, fold=None), max(3, round(len(train) / len(valid))))
        for member in range(count - 1):
            held = set(parts[member % len(parts)].test)
            found.append(
                (
                    (*(u for u in train if u.id not in held), *valid),
                    tuple(u for u in train if u.id in held),
                )
            )
    return found


def combined(members: Sequence[tuple[Calibration, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot from each member's calibration and its own log-probabilities."""
    return {
        slot: torch.stack([calibration.cooled(slot, scores[slot]) for calibration, scores in members])
        .mean(0)
        .log_softmax(1)
        for slot in members[0][1]
    }
