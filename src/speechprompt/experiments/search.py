"""What a sweep may try: lists and ranges of training options, and who picks the next ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from speechprompt.errors import MissingExtra, UnknownName, UsageError

if TYPE_CHECKING:
    from speechprompt.prompting.recipes import TrainingOptions

DEFAULT_SPACE = ("learning_rate=5e-3,2e-2,5e-2", "prompt_length=5,20")
METHODS = ("grid", "random", "optuna")
LOG_RATIO = 10.0
"""A range whose ends differ by so much is searched by order of magnitude."""
_SEED_STEP = 1_000_003  # between the draws of one search, so that those of neighbouring seeds do not meet

Changes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """Listed values of one option, as they were written."""

    name: str
    values: tuple[str, ...]

    @property
    def ends(self) -> list[Any]:
        """Values that must be right for all to be."""
        return list(self.values)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two ends, whole ones where both ends are."""

    name: str
    low: float
    high: float

    @property
    def ends(self) -> list[Any]:
        """Values that must be right for all to be."""
        return [self.at(0), self.at(1)]

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return float(self.low).is_integer() and float(self.high).is_integer()

    @property
    def logarithmic(self) -> bool:
        """Whether orders of magnitude count alike."""
        return self.low > 0 and self.high / self.low >= LOG_RATIO

    def at(self, share: float) -> float | int:
        """The value so far (0 to 1) into the range, to four digits."""
        if self.logarithmic:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.whole else float(f"{value:.4g}")


Dimension = Choice | Range


def read_space(texts: Sequence[str]) -> list[Dimension]:
    """`name=a,b,c` and `name=low:high`. UnknownName for an option that is none, UsageError for what is neither."""
    from speechprompt.prompting.recipes import TrainingOptions

    space: list[Dimension] = []
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in TrainingOptions.model_fields or name == "recipe":
            raise UnknownName("training option", name, TrainingOptions.model_fields)
        if any(dimension.name == name for dimension in space):
            raise UsageError(f"'{name}' is varied twice")
        parts = [part.strip() for part in values.split(",")]
        low, colon, high = values.partition(":")
        if colon:
            space.append(_range(name, low, high, text))
        elif "" in parts or len(set(parts)) < len(parts):
            raise UsageError(f"'{text}' is not name=a,b,c or name=low:high")
        else:
            space.append(Choice(name, tuple(parts)))
    return space


def check_ranked(options: TrainingOptions, space: Sequence[Dimension]) -> None:
    """UsageError where trials would be validated on different clips, so that their accuracies tell nothing."""
    from speechprompt.prompting.joint import variants_of

    deciding = {one.name: one.ends for one in space if one.name in ("ensemble", "rotate_validation")}
    if len({variant.divisions for _, variant in variants_of(options, deciding)}) > 1:
        raise UsageError(
            "these trials cannot be ranked: prompts that validate in turn are judged by other clips than the rest, and "
            "another number of them by others again; leave rotate-validation, or with it ensemble, out of --try, sweep "
            "each apart, and let evaluate compare the best of each"
        )


def _range(name: str, low: str, high: str, text: str) -> Range:
    try:
        found = Range(name, float(low), float(high))
    except ValueError:
        raise UsageError(f"'{text}' is not name=low:high with two numbers") from None
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise UsageError(f"'{text}': the first number must be the smaller one")
    if name == "answer_copies":
        raise UsageError(f"'{text}' has odd numbers in it; list even ones: answer-copies=0,2,4")
    return found


class Searcher(Protocol):
    """Proposes trials and hears how they went."""

    def propose(self, count: int) -> list[Changes]:
        """At most so many new trials; none when the search is over."""
        ...

    def tell(self, changes: Changes, accuracy: float) -> None:
        """The validation accuracy of a trial, proposed or known from before."""
        ...


class ListedSearcher:
    """Trials that are known beforehand: a grid, or seeded random draws."""

    def __init__(self, trials: Sequence[Changes]) -> None:
        self._left = list(trials)

    def propose(self, count: int) -> list[Changes]:
        """The next ones of the list."""
        found, self._left = self._left[:count], self._left[count:]
        return found

    def tell(self, changes: Changes, accuracy: float) -> None:
        """A trial known from before is not proposed again."""
        self._left = [one for one in self._left if one != changes]


def grid(space: Sequence[Dimension]) -> list[Changes]:
    """Every combination, the last option changing fastest. UsageError for a range, which has no end of values."""
    lists = []
    for dimension in space:
        if isinstance(dimension, Range):
            raise UsageError(f"'{dimension.name}' is a range; say how many trials to draw with --trials")
        lists.append(dimension.values)
    names = [dimension.name for dimension in space]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*lists)]


def random_draws(space: Sequence[Dimension], count: int, seed: int) -> list[Changes]:
    """At most so many different trials, drawn evenly; the same for the same seed."""
    random = np.random.default_rng(seed)
    found: list[Changes] = []
    for _ in range(20 * count):
        draw: dict[str, Any] = {}
        for dimension in space:
            share = float(random.random())
            if isinstance(dimension, Range):
                draw[dimension.name] = dimension.at(share)
            else:
                draw[dimension.name] = dimension.values[int(share * len(dimension.values))]
        if draw not in found:
            found.append(draw)
        if len(found) == count:
            break
    return found


class OptunaSearcher:
    """Tree-structured Parzen estimator (optuna), which learns from the trials so far. MissingExtra without optuna."""

    def __init__(self, space: Sequence[Dimension], count: int, seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise MissingExtra("optuna", "sweep", "the method optuna") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {dimension.name: _distribution(dimension) for dimension in space}
        self._sampler = optuna.samplers.TPESampler
        self._study = optuna.create_study(direction="maximize")
        self._create = optuna.trial.create_trial
        self._seed, self._known = seed, 0
        self._count, self._open = count, dict[str, Any]()

    def propose(self, count: int) -> list[Changes]:
        """So many as are left; asked together, they keep away from each other.

        Drawn by the seed and the number of trials that are known, so that a resumed search draws new ones.
        """
        drawn = (self._seed + _SEED_STEP * self._known) % 2**32
        self._study.sampler = self._sampler(seed=drawn, constant_liar=True)
        found: list[Changes] = []
        for _ in range(min(count, self._count)):
            trial = self._study.ask(self._distributions)
            changes = {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in trial.params.items()}
            self._open[str(changes)] = trial
            found.append(changes)
        self._count -= len(found)
        return found

    def tell(self, changes: Changes, accuracy: float) -> None:
        """Learn from a trial."""
        self._known += 1
        trial = self._open.pop(str(dict(changes)), None)
        if trial is not None:
            self._study.tell(trial, accuracy)
            return
        self._count -= 1
        known = self._create(params=dict(changes), distributions=self._distributions, value=accuracy)
        self._study.add_trial(known)


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.logarithmic)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.logarithmic)


def searcher(method: str, space: Sequence[Dimension], trials: int | None, seed: int) -> Searcher:
    """The searcher of a name. UnknownName for another; UsageError without the number of trials where it is needed."""
    if method not in METHODS:
        raise UnknownName("search", method, METHODS)
    if method == "grid":
        return ListedSearcher(grid(space)[:trials])
    if trials is None:
        raise UsageError(f"--search {method} needs --trials")
    if method == "random":
        return ListedSearcher(random_draws(space, trials, seed))
    return OptunaSearcher(space, trials, seed)
