"""One stage of the pipeline: a thread that takes fair batches from a queue and works on them.

Knows batches, deadlines and failures; knows nothing of audio, tasks or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from speechprompt.errors import DeadlineExceeded, HungUp, SpeechPromptError
from speechprompt.server.fair_queue import FairQueue

logger = logging.getLogger(__name__)

LOOKAHEAD = 4
"""A batch looks for companions among this many times its own rows."""

Input = TypeVar("Input")
Output = TypeVar("Output")
Received = TypeVar("Received", contravariant=True)


class Receiver(Protocol[Received]):
    """Who waits for a piece of work. Called from the stage's thread."""

    deadline: float
    cancelled: bool

    @property
    def abandoned(self) -> bool:
        """Whether the client hung up."""
        ...

    def receive(self, index: int, output: Received) -> None:
        """One piece is done."""
        ...

    def fail(self, error: Exception) -> None:
        """A piece failed, so the whole does."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Piece(Generic[Input, Output]):
    """A piece of a request: what to do, how large it is (for buckets), who waits and since when (monotonic)."""

    work: Input
    size: int
    receiver: Receiver[Output]
    index: int
    queued: float


class StageListener(Protocol):
    """What a stage tells about itself."""

    def batch(self, stage: str, rows: int, waited_seconds: float, work_seconds: float) -> None:
        """A batch was worked on; its first row waited so long."""
        ...


class Stage(Generic[Input, Output]):
    """A queue and the thread that empties it.

    `run` works on a batch, `fits` says whether a piece may join one. A batch that fails is tried again piece by
    piece, so that one bad piece fails alone.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Input]], Sequence[Output]],
        fits: Callable[[list[Piece[Input, Output]], Piece[Input, Output]], bool],
        rows: int,
        listener: StageListener,
    ) -> None:
        self.name, self._run, self._fits, self._rows = name, run, fits, rows
        self._listener = listener
        self._queue: FairQueue[Piece[Input, Output]] = FairQueue()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"stage-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish what is queued, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def submit(self, client: str, pieces: Sequence[Piece[Input, Output]], cost: float) -> None:
        """Queue pieces of `client`, each of which takes about `cost` seconds."""
        with self._changed:
            for piece in pieces:
                self._queue.push(client, cost, piece)
            self._changed.notify()

    @property
    def queued(self) -> int:
        """Pieces that wait."""
        return len(self._queue)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                batch = self._queue.take(self._fits, LOOKAHEAD * self._rows)
            self._serve(self._still_wanted(batch))

    def _still_wanted(self, batch: list[Piece[Input, Output]]) -> list[Piece[Input, Output]]:
        now, kept = time.monotonic(), []
        for piece in batch:
            if piece.receiver.cancelled:
                continue
            if piece.receiver.abandoned:
                piece.receiver.fail(HungUp("the client hung up before its answer"))
            elif piece.receiver.deadline < now:
                piece.receiver.fail(DeadlineExceeded(f"the deadline passed in the queue of the {self.name}"))
            else:
                kept.append(piece)
        return kept

    def _serve(self, batch: list[Piece[Input, Output]]) -> None:
        if not batch:
            return
        began = time.monotonic()
        try:
            outputs = self._run([piece.work for piece in batch])
        except Exception as error:
            if len(batch) > 1:
                for piece in batch:
                    self._serve([piece])
                return
            if not isinstance(error, SpeechPromptError):
                logger.exception("the %s failed", self.name)
            batch[0].receiver.fail(error)
            return
        for piece, output in zip(batch, outputs, strict=True):
            piece.receiver.receive(piece.index, output)
        waited = began - min(piece.queued for piece in batch)
        self._listener.batch(self.name, len(batch), waited, time.monotonic() - began)
