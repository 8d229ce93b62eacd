"""Who is let in: a request is refused at once when the work accepted before leaves too little time for it.

The gate measures how fast planned work gets done, everything included, so it needs no tuning to a machine.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from speechprompt.errors import DeadlineExceeded, Overloaded, TooLarge

SAFETY = 0.4
"""Part of its deadline that a request may be expected to wait and take: estimates err, and newcomers push in."""
QUEUEING = 0.1
"""Part of its deadline that a request may be expected to wait for others: where ten times too many come at once,
refusing them slows the work by three to four times before the gate has measured it."""
MEMORY_SECONDS = 1.0
"""Busy time over which the pace is averaged."""
ALIKE = 2.0
"""A request of so many times the typical work is weighed again when its size is known."""
TYPICAL_SECONDS = 0.02
"""Planned work of a request before the first one was seen."""


class Ticket:
    """A request's place in the accepted work: who asks, until when (monotonic), planned seconds still to do."""

    __slots__ = ("_gate", "abandoned", "client", "deadline", "remaining")

    def __init__(self, gate: Gate, client: str, deadline: float) -> None:
        self._gate, self.client, self.deadline = gate, client, deadline
        self.remaining, self.abandoned = 0.0, False

    def abandon(self) -> None:
        """Nobody waits for the answer any more; what is queued for it is dropped."""
        self.abandoned = True

    def settle(self, planned_seconds: float) -> None:
        """The request turned out to be this much work. Overloaded, or TooLarge if it can never be in time."""
        self._gate.settle(self, planned_seconds)

    def progress(self, planned_seconds: float) -> None:
        """So much of it is done. Safe in any thread."""
        self._gate.progress(self, planned_seconds)


class Arrival:
    """Room kept for a request while its body is on its way, until it is left; leaving twice is leaving once."""

    __slots__ = ("_client", "_gate")

    def __init__(self, gate: Gate, client: str) -> None:
        self._gate: Gate | None = gate
        self._client = client

    def leave(self) -> None:
        """The body is there, or will not come."""
        if self._gate is not None:
            self._gate.leave(self._client)
            self._gate = None


class Gate:
    """Accepted work by client, and the pace at which work gets done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._by_client: dict[str, float] = {}
        self._outstanding = 0.0
        self._done, self._busy = MEMORY_SECONDS, MEMORY_SECONDS
        self._since = clock()
        self._typical = TYPICAL_SECONDS
        self._arriving: Counter[str] = Counter()
        self.accepted = 0

    @property
    def backlog_seconds(self) -> float:
        """How long the accepted work will take, at the present pace."""
        with self._lock:
            return self._outstanding * self._busy / self._done

    def check(self, client: str, deadline_seconds: float, planned_seconds: float | None = None) -> None:
        """Overloaded when a request (of typical size) would come too late.

        It waits for all the accepted work at most, and in a fair queue no longer than its client's own work takes
        at an equal share.
        """
        with self._lock:
            self._tick()
            if not self._outstanding and not self._arriving:
                return
            own = self._by_client.get(client, 0.0) + self._arriving.get(client, 0) * self._typical
            clients = len(self._by_client.keys() | self._arriving.keys() | {client})
            planned = self._typical if planned_seconds is None else planned_seconds
            everything = self._outstanding + self._arriving.total() * self._typical
            pace = self._busy / self._done
            wait = min(everything + planned, (own + planned) * clients) * pace
            late = max(wait - SAFETY * deadline_seconds, wait - planned * pace - QUEUEING * deadline_seconds)
            if late > 0:
                after = math.ceil(late)
                raise Overloaded(
                    f"an answer would take about {wait:.1f} s, too close to the deadline of "
                    f"{deadline_seconds:.1f} s; try again in {after} s",
                    max(1, after),
                )

    def arrive(self, client: str, deadline_seconds: float) -> Arrival:
        """Keep room for a request whose body is on its way. Overloaded, before the body is read, when there is none."""
        with self._lock:
            self.check(client, deadline_seconds)
            self._arriving[client] += 1
        return Arrival(self, client)

    def leave(self, client: str) -> None:
        """See Arrival."""
        with self._lock:
            self._arriving[client] -= 1
            if not self._arriving[client]:
                del self._arriving[client]

    @contextmanager
    def enter(self, client: str, deadline: float, has_room: bool = False) -> Iterator[Ticket]:
        """Accept a request of typical size while the context lasts. Overloaded when there is no room.

        `has_room`: room was kept for it while it was arriving, so it is not weighed again.
        """
        ticket = Ticket(self, client, deadline)
        with self._lock:
            if not has_room:
                self.check(client, deadline - self._clock())
            self._plan(ticket, self._typical)
            self.accepted += 1
        try:
            yield ticket
            self.progress(ticket, ticket.remaining)
        finally:
            with self._lock:
                self._tick()
                self._plan(ticket, -ticket.remaining)  # what failed was not done
                self.accepted -= 1

    def settle(self, ticket: Ticket, planned_seconds: float) -> None:
        """See Ticket."""
        with self._lock:
            self._plan(ticket, -ticket.remaining)
            left = ticket.deadline - self._clock()
            if left <= 0:
                raise DeadlineExceeded("the deadline passed before the clip was decoded")
            alone = planned_seconds * self._busy / self._done
            if alone > left:
                raise TooLarge(
                    f"this takes about {alone:.1f} s, over its deadline; ask for fewer tasks or less audio, "
                    "or give it a longer deadline_seconds"
                )
            if planned_seconds > ALIKE * self._typical:  # else it is what the gate was asked about
                self.check(ticket.client, left, planned_seconds)
            self._plan(ticket, planned_seconds)
            self._typical += 0.05 * (planned_seconds - self._typical)

    def progress(self, ticket: Ticket, planned_seconds: float) -> None:
        """See Ticket."""
        with self._lock:
            self._tick()
            done = min(planned_seconds, ticket.remaining)
            self._done += done
            self._plan(ticket, -done)
            self._fade()

    def _plan(self, ticket: Ticket, change: float) -> None:
        ticket.remaining = max(0.0, ticket.remaining + change)
        held = self._by_client.get(ticket.client, 0.0) + change
        self._outstanding += change
        if held > 1e-9:
            self._by_client[ticket.client] = held
        else:
            self._by_client.pop(ticket.client, None)
        if not self._by_client:
            self._outstanding = 0.0

    def _tick(self) -> None:
        """Count busy time."""
        now = self._clock()
        if self._outstanding:
            self._busy += now - self._since
        self._since = now

    def _fade(self) -> None:
        """Forget old measurements; after work is counted, since its time came first."""
        if self._busy > 2 * MEMORY_SECONDS:
            self._done = max(self._done * MEMORY_SECONDS / self._busy, MEMORY_SECONDS / 100)
            self._busy = MEMORY_SECONDS
