"""What a server has only so much of: places for streams, memory for bodies. No client gets over half of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from speechprompt.errors import Overloaded

RETRY_SECONDS = 10
"""When to come back: by then most requests have been answered."""


class Room:
    """So much of something, and who holds how much of it. Lives on one event loop."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.what = most, what
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """How much is taken."""
        return self._held.total()

    @contextmanager
    def place(self, client: str, size: int = 1) -> Iterator[None]:
        """Hold some of it while the context lasts. Overloaded when it, or the client's half of it, is taken.

        A client that holds nothing may take over its half, so that a place as large as all of it can be had.
        """
        own = self._held[client]
        if self.held + size > self.most:
            raise Overloaded(f"all {self.most:,} {self.what} are taken; try again later", RETRY_SECONDS)
        if own and own + size > self.most // 2:
            raise Overloaded(
                f"this client has its half of the {self.most:,} {self.what}; try again when it has ended some",
                RETRY_SECONDS,
            )
        self._held[client] += size
        try:
            yield
        finally:
            self._held[client] -= size
            if not self._held[client]:
                del self._held[client]
