"""Load on a server: HTTP/1.1 over kept connections, as little work a request as Python allows.

Every clip differs in a sample from every other that this process sends, so that a server's cache of units never helps.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import random
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import soundfile

from speechprompt.errors import WorkError

BOUNDARY = "7d1c0f3a"
_NUMBERS = itertools.count(1)
"""One for every request of this process: generators that counted for themselves would send the same clips again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: `seconds` from its first byte to the last of its answer; `late_seconds`, by how much
    the generator was behind when it sent it."""

    status: int
    seconds: float
    late_seconds: float = 0.0


class Requests:
    """Requests about clips (files), each new to the server and about one of `tasks`. `query` follows the path."""

    def __init__(self, clips: Sequence[bytes], tasks: Sequence[str], query: str = "", seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._clips, self._tasks, self._query = [_wav(clip) for clip in clips], tasks, query

    def __call__(self) -> bytes:
        """The next one, head and body."""
        clip, task = bytearray(self._random.choice(self._clips)), self._random.choice(self._tasks)
        struct.pack_into("<i", clip, len(clip) - 4, next(_NUMBERS))
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="task"\r\n\r\n{task}\r\n'
        head += f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="c.wav"\r\n\r\n'
        body = head.encode() + clip + f"\r\n--{BOUNDARY}--\r\n".encode()
        lines = (
            f"POST /v1/classify{self._query} HTTP/1.1",
            "host: x",
            f"content-type: multipart/form-data; boundary={BOUNDARY}",
            f"content-length: {len(body)}",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _wav(clip: bytes) -> bytes:
    samples, rate = soundfile.read(io.BytesIO(clip), dtype="int16")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate([samples, np.zeros(2, np.int16)]), rate, format="WAV")
    return buffer.getvalue()


class Connection:
    """One kept connection, open while its context lasts."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._host, self._port = str(place.hostname), place.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body. The first request connects. OSError or EOFError where the server hangs up."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        return int(head[9:12]), await reader.readexactly(length)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def closed_loop(url: str, clients: int, seconds: float, requests: Callable[[], bytes]) -> list[Outcome]:
    """So many clients, each asking again as soon as it is answered."""
    found: list[Outcome] = []
    until = time.monotonic() + seconds

    async def ask() -> None:
        async with Connection(url) as connection:
            while time.monotonic() < until:
                request, began = requests(), time.monotonic()
                status, _ = await connection.send(request)
                found.append(Outcome(status, time.monotonic() - began))

    await asyncio.gather(*(ask() for _ in range(clients)))
    return found


async def open_loop(
    url: str, rate: float, seconds: float, requests: Callable[[], bytes], connections: int
) -> list[Outcome]:
    """Requests at random times (Poisson) whether or not others are answered; those without a connection wait."""
    arrivals, generator, found = asyncio.Queue[float](), random.Random(1), list[Outcome]()

    async def ask() -> None:
        async with Connection(url) as connection:
            while (due := await arrivals.get()) >= 0:
                request, began = requests(), time.monotonic()
                status, _ = await connection.send(request)
                found.append(Outcome(status, time.monotonic() - began, began - due))

    workers = [asyncio.create_task(ask()) for _ in range(connections)]
    due = time.monotonic()
    until = due + seconds
    while due < until:
        due += generator.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        arrivals.put_nowait(due)
    for _ in workers:
        arrivals.put_nowait(-1.0)
    await asyncio.gather(*workers)
    return found


async def ask_once(url: str, request: bytes) -> tuple[Any, float]:
    """One answer and the seconds that it took. WorkError for a refusal."""
    async with Connection(url) as connection:
        began = time.monotonic()
        status, body = await connection.send(request)
        seconds = time.monotonic() - began
    if status != 200:
        raise WorkError(body.decode())
    return json.loads(body), seconds


def milliseconds(outcomes: Sequence[Outcome], part: float) -> float:
    """A quantile of the latency, in ms."""
    ordered = sorted(outcome.seconds for outcome in outcomes) or [float("nan")]
    return round(1e3 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)
