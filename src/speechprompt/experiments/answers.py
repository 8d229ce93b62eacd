"""What a classifier answered to a row's test split: the file that a finished run leaves, and numbers over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import WorkError
from speechprompt.evaluation.summary import read_json
from speechprompt.experiments.tables import json_text, write_whole
from speechprompt.metrics import CONFIDENCE, Interval, accuracy_interval, equal_error_rate

RESAMPLES = 500

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class SavedAnswers:
    """Which utterances (B,) are right; the positive label's scores (B,) where an equal error rate is asked for."""

    right: tuple[bool, ...]
    positive_scores: tuple[float, ...] | None
    macro_f1: float
    trained_parameters: int
    seconds: float


def save_value(value: object, path: Path) -> None:
    """Write a dataclass as JSON, whole or not at all."""
    write_whole(path, json_text(asdict(value)))  # type: ignore[call-overload]


def load_value(kind: type[ValueT], path: Path) -> ValueT:
    """Read what `save_value` wrote. WorkError naming the file when it is damaged."""
    try:
        return read_json(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, WorkError) as error:
        raise WorkError(f"{path} is damaged ({error}); delete it and run the same command again") from None


def accuracy_over_seeds(answers: Sequence[SavedAnswers], groups: Sequence[str] | None) -> Interval:
    """Mean accuracy over seeds, with one hierarchical interval."""
    return accuracy_interval(np.array([one.right for one in answers]), groups)


def error_rate_over_seeds(
    answers: Sequence[SavedAnswers], is_positive: Sequence[bool], groups: Sequence[str] | None
) -> Interval:
    """Mean equal error rate over seeds with its interval.

    Each resample draws seeds, and one set of speakers (utterances where `groups` is None) for all of them;
    draws without a positive or without a negative are drawn again.
    """
    scores = np.array([one.positive_scores for one in answers], dtype=np.float64)
    truth = np.asarray(is_positive, dtype=bool)
    estimate = float(np.mean([equal_error_rate(row, truth) for row in scores]))
    speakers = None if groups is None else _members(groups)
    random = np.random.default_rng(0)
    rates: list[float] = []
    while len(rates) < RESAMPLES:
        chosen = _draw(random, len(truth), speakers)
        if truth[chosen].any() and not truth[chosen].all():
            seeds = random.integers(len(scores), size=len(scores))
            found = {s: equal_error_rate(scores[s][chosen], truth[chosen]) for s in set(seeds.tolist())}
            rates.append(float(np.mean([found[s] for s in seeds.tolist()])))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))


def _members(groups: Sequence[str]) -> list[NDArray[np.int64]]:
    """The utterances of each speaker."""
    _, speaker_of = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(speaker_of, kind="stable")
    return np.split(order, np.cumsum(np.bincount(speaker_of))[:-1])


def _draw(
    random: np.random.Generator, count: int, speakers: Sequence[NDArray[np.int64]] | None
) -> NDArray[np.int64]:
    if speakers is None:
        return random.integers(count, size=count)
    return np.concatenate([speakers[i] for i in random.integers(len(speakers), size=len(speakers))])
