"""Units as training hears them a little differently every time; validation, testing and inference never come here.

What a step draws depends on seed and step alone, so a resumed run draws what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import TrainingError
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.speech.units import Units

_STREAM = 7  # beside the order of batches, which draws from (seed, epoch)


def check_augmentation(options: TrainingOptions, rows: Sequence[Units]) -> None:
    """TrainingError when time is to be jittered and some units have no durations to jitter."""
    if options.unit_jitter and any(row.durations is None for row in rows):
        raise TrainingError(
            "some training units carry no durations, so --unit-jitter has nothing to stretch; leave it out"
        )


def augmented(rows: Sequence[Units], options: TrainingOptions, step: int) -> Sequence[Units]:
    """The units of a training batch, changed as the options say; `rows` themselves where they say nothing.

    An utterance keeps at least one unit, and equal neighbours are merged as a tokenizer merges them.
    """
    if not (options.unit_jitter or options.unit_masking or options.unit_dropout or options.span_dropout):
        return rows
    random = np.random.default_rng((options.seed, step, _STREAM))
    heard = np.concatenate([row.ids for row in rows])
    return [_changed(row, heard, options, random) for row in rows]


def _changed(
    row: Units, heard: NDArray[np.int64], options: TrainingOptions, random: np.random.Generator
) -> Units:
    """One utterance; `heard` are all units of its batch, from which masked units get their stand-ins."""
    if not len(row):
        return row
    ids, durations = row.ids, row.durations
    if options.unit_jitter and durations is not None:
        durations = _stretched(durations, options.unit_jitter, random)
    if options.unit_masking:
        hidden = random.random(len(ids)) < options.unit_masking
        ids = np.where(hidden, random.choice(heard, len(ids)), ids)
    kept = np.ones(len(ids), bool) if durations is None else durations > 0
    if options.unit_dropout:
        kept &= random.random(len(ids)) >= options.unit_dropout
    if options.span_dropout:
        length = int(random.random() * options.span_dropout * len(ids) + 0.5)
        first = int(random.integers(len(ids) - length + 1))
        kept[first : first + length] = False
    if not kept.any():
        kept[random.integers(len(ids))] = True
    if durations is not None:
        durations = np.maximum(durations, 1)[kept]
    return _merged(Units(ids[kept], durations, None if row.f0 is None else row.f0[kept]))


def _stretched(durations: NDArray[np.int64], most: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Durations in frames, 0 for what is gone, of the same speech at another speed: time scaled by 1 -+ `most`."""
    ends = np.cumsum(durations) * (1 + most * (2 * random.random() - 1)) + random.random()
    return np.diff(np.floor(ends).astype(np.int64), prepend=0)


def _merged(units: Units) -> Units:
    """Equal neighbours as one unit: durations added, the first f0 kept."""
    starts = np.flatnonzero(np.r_[True, units.ids[1:] != units.ids[:-1]])
    durations = None if units.durations is None else np.add.reduceat(units.durations, starts)
    return Units(units.ids[starts], durations, None if units.f0 is None else units.f0[starts])
