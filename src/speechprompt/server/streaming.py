"""WS /v1/stream: 16-bit mono PCM in, predictions out, a set for every window and one for every stretch of speech.

A client sends binary messages of samples, and the text `end` when there are no more. The server sends JSON:
`ready`, then `window` and `speech` events with start, end and predictions, `problem` where one was skipped, `end`.
Nothing is read while predictions are made, so a client that sends too fast is slowed down by its own connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
import soxr
from fastapi import APIRouter, Depends, Query, WebSocket, WebSocketDisconnect
from starlette.types import Message

from speechprompt.errors import Overloaded, SpeechPromptError, TooLarge, UsageError
from speechprompt.server.catalogue import EVERY_TASK, readings_of
from speechprompt.server.presenting import task_answer
from speechprompt.server.problems import kind_of
from speechprompt.server.service import Service, service_of
from speechprompt.server.speech_ends import SpeechEnds
from speechprompt.speech.audio import RATES as FILE_RATES
from speechprompt.tokenizers.protocol import Waveform

router = APIRouter()

END = "end"
RATES = (4_000, FILE_RATES[1])
"""Samples a second that a stream may have; a slower one would make many of each that it sends."""
LONGEST_SPEECH_SECONDS = 30.0
MOST_HEARD_SECONDS = 1.0
"""Most that is heard at once: a stretch of speech is asked about before its beginning is forgotten."""
FAREWELL_SECONDS = 5.0
POLICY_CODE, LATER_CODE = 1008, 1013
"""Close codes of RFC 6455: the request was refused; try again later."""


class StreamQuery:
    """The options of a stream, in its address."""

    def __init__(
        self,
        task: Annotated[list[str] | None, Query()] = None,
        window_seconds: Annotated[float, Query(ge=0.2, le=30)] = 2.0,
        hop_seconds: Annotated[float, Query(ge=0.1, le=30)] = 1.0,
        sample_rate: Annotated[int, Query(ge=RATES[0], le=RATES[1])] = 16000,
        top_k: Annotated[int | None, Query(ge=1)] = None,
    ) -> None:
        self.task = task or [EVERY_TASK]
        self.window_seconds, self.hop_seconds = window_seconds, hop_seconds
        self.sample_rate, self.top_k = sample_rate, top_k


class Timeline:
    """The samples of a stream that may still be asked about, by their place since its beginning."""

    def __init__(self, keep_samples: int) -> None:
        self._keep, self._kept = keep_samples, np.zeros(0, np.float32)
        self.length = 0

    def append(self, samples: Waveform) -> None:
        """Add what arrived; forget what is too old."""
        self.length += len(samples)
        self._kept = np.concatenate([self._kept, samples])[-self._keep :]

    def between(self, start: int, end: int) -> Waveform:
        """Samples `start` to `end`."""
        first = self.length - len(self._kept)
        return self._kept[max(0, start - first) : max(0, end - first)]


class Stream:
    """One connection: what it asked for, what it has heard, and what is due."""

    def __init__(self, socket: WebSocket, service: Service, query: StreamQuery) -> None:
        self.socket, self.service, self.query = socket, service, query
        self.rate = service.spoken_lm.tokenizer.sample_rate
        self.client = service.client_of(socket)
        self.window, self.hop = int(query.window_seconds * self.rate), int(query.hop_seconds * self.rate)
        self.timeline = Timeline(self.window + int((LONGEST_SPEECH_SECONDS + 2) * self.rate))
        self.ends = SpeechEnds(self.rate, LONGEST_SPEECH_SECONDS)
        self.next_window = self.window
        self._resampler = None
        if query.sample_rate != self.rate:
            self._resampler = soxr.ResampleStream(query.sample_rate, self.rate, 1, dtype="float32")

    async def run(self) -> None:
        """Serve until the client is done or gone. TooLarge when it is over its time, UsageError when it is silent."""
        try:
            async with asyncio.timeout(self.service.settings.stream_seconds):
                await self._serve()
        except TimeoutError:
            raise self._too_long() from None

    def _too_long(self) -> TooLarge:
        return TooLarge(f"the stream is over {self.service.settings.stream_seconds:g} s; open another")

    async def _serve(self) -> None:
        await self._send({"event": "ready", "sample_rate": self.query.sample_rate, "tasks": self.query.task})
        most = min(self.hop, int(MOST_HEARD_SECONDS * self.rate))
        async for samples in self._samples():
            for part in np.array_split(samples, len(samples) // most + 1):
                await self._hear(part)
        for start, end in self.ends.finish():
            await self._tell("speech", start, end)
        await self._send({"event": END, "duration_seconds": self.timeline.length / self.rate})

    async def _samples(self) -> AsyncIterator[Waveform]:
        """What arrives, at the tokenizer's rate."""
        longest = self.service.settings.stream_seconds * self.rate
        while True:
            message = await self._received()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            if message.get("text") is not None:
                if message["text"].strip() != END:
                    raise UsageError(f"a text message can only be '{END}'; samples are binary messages")
                yield self._resampled(b"", last=True)
                return
            content = message.get("bytes") or b""
            if self.timeline.length + len(content) // 2 * self.rate / self.query.sample_rate > longest:
                raise self._too_long()
            yield self._resampled(content)

    async def _received(self) -> Message:
        seconds = self.service.settings.stream_idle_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self.socket.receive()
        except TimeoutError:
            raise UsageError(f"nothing arrived for {seconds:g} s; open another stream for more") from None

    def _resampled(self, content: bytes, last: bool = False) -> Waveform:
        if len(content) % 2:
            raise UsageError("a message holds half a sample; send 16-bit samples whole")
        samples = np.frombuffer(content, dtype="<i2").astype(np.float32) / np.float32(32768)
        if self._resampler is None:
            return samples
        return np.asarray(self._resampler.resample_chunk(samples, last=last), dtype=np.float32)

    async def _hear(self, samples: Waveform) -> None:
        self.timeline.append(samples)
        for start, end in self.ends.feed(samples):
            await self._tell("speech", start, end)
        while self.next_window <= self.timeline.length:
            await self._tell("window", self.next_window - self.window, self.next_window)
            self.next_window += self.hop

    async def _tell(self, event: str, start: int, end: int) -> None:
        """Send the predictions of a span, or why there are none."""
        span = {"event": event, "start_seconds": start / self.rate, "end_seconds": end / self.rate}
        try:
            predictions = await self._predictions(self.timeline.between(start, end))
        except SpeechPromptError as error:
            await self._send({**span, "event": "problem", "of": event, **_problem(error)})
        else:
            await self._send({**span, "predictions": predictions})

    async def _predictions(self, waveform: Waveform) -> list[dict[str, Any]]:
        service, now = self.service, asyncio.get_running_loop().time()
        tasks = service.catalogue.chosen(self.query.task)
        with service.gate.enter(self.client, now + service.settings.deadline_seconds) as ticket:
            ticket.settle(service.engine.planned_seconds(len(waveform) / self.rate, readings_of(tasks)))
            clip = await service.engine.encode(waveform, ticket)
            found = await service.engine.ask(clip, tasks, ticket)
        for task in tasks:
            service.metrics.answered(task.name)
        top_k = self.query.top_k
        return [
            task_answer(answer, task.revision, top_k).model_dump()
            for answer, task in zip(found, tasks, strict=True)
        ]

    async def _send(self, document: dict[str, Any]) -> None:
        await self.socket.send_json(document)


def _problem(error: SpeechPromptError) -> dict[str, Any]:
    return {
        "type": f"/docs#problem-{kind_of(type(error))}",
        "status": error.http_status,
        "detail": str(error),
    }


@router.websocket("/v1/stream")
async def stream(socket: WebSocket, query: Annotated[StreamQuery, Depends()]) -> None:
    """Serve one stream; what it may not do is told as a `problem` before it is closed."""
    service = service_of(socket)
    try:
        service.check_origin(socket)
    except SpeechPromptError:
        await socket.close(POLICY_CODE)
        return
    await socket.accept()
    try:
        with service.streams.place(service.client_of(socket)):
            service.catalogue.chosen(query.task)
            await Stream(socket, service, query).run()
        await socket.close()
    except WebSocketDisconnect:
        return
    except SpeechPromptError as error:
        with suppress(TimeoutError, WebSocketDisconnect):  # who does not read is not waited for
            async with asyncio.timeout(FAREWELL_SECONDS):
                await socket.send_json({"event": "problem", "of": "stream", **_problem(error)})
                await socket.close(LATER_CODE if isinstance(error, Overloaded) else POLICY_CODE)
