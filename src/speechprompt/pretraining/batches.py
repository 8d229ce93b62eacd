"""Which rows an update sees: rows of like length, in an order that depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Batches:
    """Endless batches of row numbers, every row once an epoch; `budget` bounds a batch with its padding."""

    def __init__(self, lengths: Sequence[int], budget: int, seed: int) -> None:
        self._lengths, self._budget, self._seed = lengths, budget, seed
        self._epoch, self._first, self._batches = -1, 0, list[list[int]]()

    def at(self, step: int) -> list[int]:
        """Row numbers of one update; steps must not go backwards."""
        while step >= self._first + len(self._batches):
            self._first += len(self._batches)
            self._epoch += 1
            self._batches = self._shuffled(self._epoch)
        return self._batches[step - self._first]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((self._seed, epoch))
        batches = bucketed(self._lengths, rng.permutation(len(self._lengths)).tolist(), self._budget)
        return [batches[i] for i in rng.permutation(len(batches))]


def bucketed(lengths: Sequence[int], order: Iterable[int], budget: int) -> list[list[int]]:
    """Rows in batches of like length, longest first, of at most `budget` with padding or of one row.

    >>> bucketed([3, 9, 3], [0, 1, 2], budget=8)
    [[1], [0, 2]]
    """
    batches: list[list[int]] = []
    for row in sorted(order, key=lambda i: -lengths[i]):  # stable: ties keep the order given
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > budget:
            batches.append([])
        batches[-1].append(row)
    return batches
