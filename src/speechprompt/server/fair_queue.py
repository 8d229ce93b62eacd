"""Who is next: every client gets an equal share of the work, in the order in which it asked.

Source: start-time fair queueing (Goyal et al. 1996). Not safe for threads by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

FORGET_AFTER = 4096
"""Clients remembered before those without a claim are forgotten."""


class FairQueue(Generic[Item]):
    """Items of many clients, each with a cost; clients with items share what is served equally by cost."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, float, Item]] = []
        self._ends: dict[str, float] = {}
        self._now, self._count = 0.0, 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, client: str, cost: float, item: Item) -> None:
        """Queue an item behind its client's own, and among the others by what the client has had."""
        start = max(self._now, self._ends.get(client, 0.0))
        self._ends[client] = start + cost
        self._count += 1
        heapq.heappush(self._heap, (start, self._count, cost, item))
        if len(self._ends) > FORGET_AFTER:
            self._ends = {name: end for name, end in self._ends.items() if end > self._now}

    def take(self, fits: Callable[[list[Item], Item], bool], lookahead: int) -> list[Item]:
        """A batch: the next item, and those among the `lookahead` after it that fit it; others keep their place."""
        taken: list[Item] = []
        passed = []
        while self._heap and lookahead >= 0:
            entry = heapq.heappop(self._heap)
            lookahead -= 1
            if not taken or fits(taken, entry[3]):
                self._now = max(self._now, entry[0])
                taken.append(entry[3])
            else:
                passed.append(entry)
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return taken
