"""The pipeline behind the routes: clips through the encoder's stage, rows of any tasks through the LM's.

Knows clips and served tasks; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from speechprompt.errors import AudioError
from speechprompt.prompting.bank import FoldedPrompt
from speechprompt.prompting.clips import Clip, ClipEncoder, windows_of
from speechprompt.prompting.predictor import (
    Prediction,
    Question,
    WindowScores,
    mean_scores,
    prediction_of,
    window_scores,
)
from speechprompt.server.catalogue import ServedTask
from speechprompt.server.gate import Ticket
from speechprompt.server.settings import ServerSettings
from speechprompt.server.stage import Piece, Stage, StageListener
from speechprompt.speech.speeds import at_speed
from speechprompt.speech.unit_cache import CacheKey, UnitCache
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.tokenizers.protocol import Waveform

Input = TypeVar("Input")
Output = TypeVar("Output")
Result = TypeVar("Result")

PADDING = 1.3
"""A batch's longest piece may be this many times its shortest, and a few more."""
PADDING_ALLOWANCE = 8
REQUEST_SECONDS, ENCODER_SECONDS, LM_SECONDS = 0.003, 0.005, 0.0012
"""Planned seconds for a request, and for a second of audio in each stage; the gate measures how far this is off."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the LM's batches: a window's units, the task that is asked about it, and one of its prompts."""

    units: Units
    task: ServedTask
    prompt: FoldedPrompt


class Gathering(Generic[Output, Result]):
    """Collects the pieces of one request and wakes its coroutine. `finish` runs in the stage's thread."""

    def __init__(
        self, count: int, ticket: Ticket, planned_seconds: float, finish: Callable[[list[Output]], Result]
    ) -> None:
        self.deadline, self.cancelled = ticket.deadline, False
        self._ticket, self._piece_seconds = ticket, planned_seconds / count
        self._outputs: list[Any] = [None] * count
        self._missing, self._finish = count, finish
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Result] = self._loop.create_future()

    @property
    def abandoned(self) -> bool:
        """Whether the client hung up."""
        return self._ticket.abandoned

    def receive(self, index: int, output: Output) -> None:
        """Take one piece."""
        self._outputs[index] = output
        self._missing -= 1
        self._ticket.progress(self._piece_seconds)
        if not self._missing and not self.cancelled:
            try:
                result = self._finish(self._outputs)
            except Exception as error:
                self.fail(error)
            else:
                self._loop.call_soon_threadsafe(self._settle, result, None)

    def fail(self, error: Exception) -> None:
        """End with an error; further pieces are not wanted."""
        self.cancelled = True
        self._loop.call_soon_threadsafe(self._settle, None, error)

    def _settle(self, result: Any, error: Exception | None) -> None:
        if self._future.done():
            return
        if error is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(result)

    async def result(self) -> Result:
        """Wait for the whole; leaving early tells the stage that nobody waits."""
        try:
            return await self._future
        finally:
            self.cancelled = True


class Engine:
    """Encodes clips and asks tasks about them, in batches over all requests."""

    def __init__(self, spoken_lm: SpokenLM, settings: ServerSettings, listener: StageListener) -> None:
        self.spoken_lm, self.settings = spoken_lm, settings
        self.cache = UnitCache(settings.cache_bytes)
        self.encoder: Stage[Waveform, Units] = Stage(
            "encoder", self._encode, self._fits_encoder, settings.batch_rows, listener
        )
        self.lm: Stage[Row, WindowScores] = Stage(
            "lm", self._classify, self._fits_lm, settings.batch_rows, listener
        )

    @cached_property
    def clips(self) -> ClipEncoder:
        """Names clips in the cache; loads the tokenizer."""
        return ClipEncoder(self.spoken_lm.tokenizer, self.cache, self.settings.window_seconds)

    def start(self) -> None:
        """Load the models and start both stages."""
        _ = self.spoken_lm.tokenizer, self.spoken_lm.lm
        self.encoder.start()
        self.lm.start()

    def close(self) -> None:
        """Finish what was accepted, then stop."""
        self.encoder.close()
        self.lm.close()

    def planned_seconds(self, clip_seconds: float, readings: int, hearings: int = 1) -> float:
        """Planned work of a request whose clip the LM reads so often, and the encoder hears so often."""
        return REQUEST_SECONDS + clip_seconds * (hearings * ENCODER_SECONDS + readings * LM_SECONDS)

    async def encode(self, waveform: Waveform, ticket: Ticket, speeds: Sequence[float] = ()) -> Clip:
        """The units of a clip's windows, and of its copies at other speeds. AudioError, DeadlineExceeded."""
        key = self.clips.key(waveform)
        windows = await self._windows(key, waveform, ticket)  # first, since it says what cannot be encoded
        heard: list[tuple[Units, ...]] = []
        at_once = max(1, len(speeds)) if len(windows) == 1 else 1  # many windows fill a batch
        for some in _in_turn(speeds, at_once):
            heard += await asyncio.gather(
                *(self._copy(replace(key, speed=speed), waveform, windows, ticket) for speed in some)
            )
        copies = dict(zip(speeds, heard, strict=True))
        return Clip(windows, len(waveform) / self.spoken_lm.tokenizer.sample_rate, copies=copies)

    async def _copy(
        self, key: CacheKey, waveform: Waveform, plain: tuple[Units, ...], ticket: Ticket
    ) -> tuple[Units, ...]:
        """The windows at the key's speed; where they are too short for a unit, the clip's own."""
        try:
            return await self._windows(key, waveform, ticket)
        except AudioError:
            return plain

    async def _windows(self, key: CacheKey, waveform: Waveform, ticket: Ticket) -> tuple[Units, ...]:
        """The units of a clip's windows at the key's speed, from the cache or encoded now."""
        windows = self.cache.get(key)
        if windows is None:
            rate = self.spoken_lm.tokenizer.sample_rate
            parts = windows_of(waveform, rate, self.settings.window_seconds)
            if key.speed != 1:
                parts = await asyncio.to_thread(lambda: [at_speed(part, key.speed) for part in parts])
            sizes, planned = [len(part) for part in parts], len(waveform) / rate * ENCODER_SECONDS
            windows = await self._pieces(self.encoder, parts, sizes, ticket, planned, tuple)
            self.cache.put(key, windows)
        return windows

    async def ask(
        self, clip: Clip, tasks: Sequence[ServedTask], ticket: Ticket, copies: int | None = 0
    ) -> list[Prediction]:
        """Every task's answer to a clip, over so many copies of it, or each task's own number (None).

        The clip must have been encoded at their speeds. DeadlineExceeded.
        """
        if not tasks:
            return []
        most = self.spoken_lm.lm.max_units
        heard = [clip.hearings(most, task.prompt.speeds(copies)) for task in tasks]
        rows = [
            Row(window, task, prompt)
            for task, hearings in zip(tasks, heard, strict=True)
            for windows in zip(*hearings, strict=True)
            for window in windows
            for prompt in task.prompt.members
        ]
        counts = [len(hearings) for hearings in heard]
        planned = clip.duration_seconds * len(rows) / len(clip.windows) * LM_SECONDS
        sizes = [len(row.units) for row in rows]
        return await self._pieces(
            self.lm, rows, sizes, ticket, planned, lambda outputs: _answers(clip, tasks, counts, outputs)
        )

    async def score(
        self, task: ServedTask, windows: Sequence[Units], window_seconds: float, ticket: Ticket
    ) -> list[WindowScores]:
        """What a task says to windows of about `window_seconds` of audio, in order. DeadlineExceeded."""
        prompts = task.prompt.members
        rows = [Row(window, task, prompt) for window in windows for prompt in prompts]
        planned, sizes = len(rows) * window_seconds * LM_SECONDS, [len(row.units) for row in rows]
        return await self._pieces(
            self.lm, rows, sizes, ticket, planned, lambda outputs: _means(outputs, len(prompts))
        )

    async def _pieces(
        self,
        stage: Stage[Input, Output],
        works: Sequence[Input],
        sizes: Sequence[int],
        ticket: Ticket,
        planned_seconds: float,
        finish: Callable[[list[Output]], Result],
    ) -> Result:
        """Send pieces of work through a stage, and wait for what `finish` makes of their outputs."""
        gathering: Gathering[Output, Result] = Gathering(len(works), ticket, planned_seconds, finish)
        now = time.monotonic()
        pieces = [Piece(work, sizes[i], gathering, i, now) for i, work in enumerate(works)]
        stage.submit(ticket.client, pieces, planned_seconds / len(works))
        return await gathering.result()

    def _encode(self, waveforms: Sequence[Waveform]) -> list[Units]:
        return self.spoken_lm.tokenizer.encode_batch(waveforms)

    def _classify(self, rows: Sequence[Row]) -> list[WindowScores]:
        asked = [(row.prompt, row.units) for row in rows]
        return list(window_scores(self.spoken_lm.lm, asked))

    def _fits_encoder(self, batch: list[Piece[Waveform, Units]], piece: Piece[Waveform, Units]) -> bool:
        longest = max(piece.size, *(one.size for one in batch))
        rate = self.spoken_lm.tokenizer.sample_rate
        return (
            len(batch) < self.settings.batch_rows
            and (len(batch) + 1) * longest <= self.settings.batch_seconds * rate
            and _alike(piece.size, batch[0].size, rate // 10)
        )

    def _fits_lm(self, batch: list[Piece[Row, WindowScores]], piece: Piece[Row, WindowScores]) -> bool:
        return (
            len(batch) < self.settings.batch_rows
            and _alike(piece.size, batch[0].size, PADDING_ALLOWANCE)
            and _steps(piece.work.task) == _steps(batch[0].work.task)
        )


def _in_turn(items: Sequence[Input], count: int) -> list[Sequence[Input]]:
    """The items, so many at a time."""
    return [items[i : i + count] for i in range(0, len(items), count)]


def _alike(one: int, other: int, allowance: int) -> bool:
    return max(one, other) <= PADDING * min(one, other) + allowance


def _steps(task: ServedTask) -> int:
    """Forward passes that reading a task's slots takes."""
    return 1 if task.prompt.prompt.decoding == "parallel" else len(task.config.slots)


def _answers(
    clip: Clip, tasks: Sequence[ServedTask], hearings: Sequence[int], outputs: Sequence[WindowScores]
) -> list[Prediction]:
    """Predictions from the rows of each task's windows: all its prompts on so many hearings of a window in turn."""
    found, place = [], 0
    for task, count in zip(tasks, hearings, strict=True):
        heard = count * len(task.prompt.members)
        last = place + heard * len(clip.windows)
        found.append(prediction_of(Question(clip, task.prompt), _means(outputs[place:last], heard)))
        place = last
    return found


def _means(outputs: Sequence[WindowScores], heard: int) -> list[WindowScores]:
    """What is said about each window, from so many rows of each in turn."""
    return [mean_scores(rows) for rows in _in_turn(outputs, heard)]
