"""Several prompts of one task that answer together: the options of each, and the clips that each learns by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechprompt.prompting.calibration import Calibration
from speechprompt.speech.splits import FEWEST_FOLDS, folds, groups_of

if TYPE_CHECKING:
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus, Utterance

MEMBER_SEEDS = 1000
"""Seeds of an ensemble's members lie so far apart, so that no two of neighbouring seeds share one."""

FEW_PARTS = 5
"""Where clips are few, each prompt of an ensemble validates on a fifth of them."""

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


def divisions_of(corpus: Corpus, options: TrainingOptions, slots: Iterable[str]) -> list[Division]:
    """What each member trains on and is validated on: the corpus's own splits, or with `rotate_validation` in turn.

    `slots` are those that the prompts answer.
    """
    if options.rotate_validation:
        return divisions(corpus, options.ensemble, slots)
    return [(corpus.split("train"), corpus.split("valid"))] * options.ensemble


def divisions(corpus: Corpus, count: int, slots: Iterable[str] | None = None) -> list[Division]:
    """So many divisions of a corpus's train and valid, each of which validates on other clips, taken in turn.

    The first is the corpus's own, each further one validates on a part of train about as large as valid. Where valid
    is over half of train, as with few clips, or nothing, or train has fewer than three speakers, valid is divided like
    the rest, in `FEW_PARTS` or more. Parts are drawn by hash; speakers stay whole where those of valid do not train. A
    part without which a label of `slots` (None: all) would not be learnt is not held out; where all parts are such, the
    corpus's own division stands.
    """
    train, valid = corpus.split("train"), corpus.split("valid")
    if count == 1:
        return [(train, valid)]
    asked = tuple(corpus.slots if slots is None else slots)
    new = {u.speaker for u in valid}.isdisjoint({u.speaker for u in train} - {None})
    if not valid or 2 * len(valid) > len(train) or (new and _speakers(train) < FEWEST_FOLDS):
        first, held = [], _held_out(corpus, asked, (*train, *valid), (), max(FEW_PARTS, count), new)
    else:
        parts = max(FEWEST_FOLDS, round(len(train) / len(valid)))
        first, held = [(train, valid)], _held_out(corpus, asked, train, valid, parts, new)
    needed = _labels(train, asked)
    found = [one for one in held if needed <= _labels(one[0], asked)] or [(train, valid)]
    return [*first, *(found[member % len(found)] for member in range(count - len(first)))]


def _held_out(
    corpus: Corpus,
    slots: Sequence[str],
    rows: Sequence[Utterance],
    always: Sequence[Utterance],
    parts: int,
    whole: bool,
) -> list[Division]:
    """Divisions that validate on one part of `rows` each; the rest, and what is `always` learnt, trains.

    Labels of `slots` are spread evenly. There are at most as many parts as groups that stay together: with `whole`
    speakers, where there are three or more, else recordings that are cut into spans.
    """
    divided = tuple(
        replace(u, speaker=u.speaker if whole else None, labels={slot: u.labels[slot] for slot in slots})
        for u in rows
    )
    parts = min(parts, groups_of(divided))
    if parts < FEWEST_FOLDS:
        return []
    drawn = [set(part.test) for part in folds(replace(corpus, utterances=divided, fold=None), parts)]
    return [
        ((*(u for u in rows if u.id not in held), *always), tuple(u for u in rows if u.id in held))
        for held in drawn
    ]


def _labels(rows: Sequence[Utterance], slots: Sequence[str]) -> set[tuple[str, str]]:
    """The labels of those slots that occur, each with its slot."""
    return {(slot, u.labels[slot]) for u in rows for slot in slots}


def _speakers(rows: Sequence[Utterance]) -> int:
    """How many speakers there are, clips of nobody known each being one."""
    return len({u.speaker or ("", u.id) for u in rows})


def combined(members: Sequence[tuple[Calibration, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot from each member's calibration and its own log-probabilities."""
    return {
        slot: torch.stack([calibration.cooled(slot, scores[slot]) for calibration, scores in members])
        .mean(0)
        .log_softmax(1)
        for slot in members[0][1]
    }
