"""A load generator for `serve.py`: HTTP/1.1 over kept connections, as little work a request as Python allows.

Every clip differs in one sample from every other, so that the server's cache of units never helps.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import soundfile

BOUNDARY = "7d1c0f3a"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: `seconds` from its first byte to the last of its answer; `late_seconds`, by how much
    the generator was behind when it sent it."""

    status: int
    seconds: float
    late_seconds: float = 0.0


class Requests:
    """Requests about real clips, each new to the server. `query` follows the path."""

    def __init__(self, clips: Sequence[bytes], tasks: Sequence[str], query: str = "", seed: int = 0) -> None:
        self._random, self._count = random.Random(seed), itertools.count(1)
        self._clips, self._tasks, self._query = [_wav(clip) for clip in clips], tasks, query

    def __call__(self) -> bytes:
        clip, task = bytearray(self._random.choice(self._clips)), self._random.choice(self._tasks)
        struct.pack_into("<i", clip, len(clip) - 4, next(self._count))
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
    """One kept connection."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._host, self._port = str(place.hostname), place.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body. The first request connects."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        return int(head[9:12]), await reader.readexactly(length)

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()


async def closed_loop(url: str, clients: int, seconds: float, requests: Callable[[], bytes]) -> list[Outcome]:
    """So many clients, each asking again as soon as it is answered."""
    found: list[Outcome] = []
    until = time.monotonic() + seconds

    async def ask() -> None:
        connection = Connection(url)
        while time.monotonic() < until:
            request, began = requests(), time.monotonic()
            status, _ = await connection.send(request)
            found.append(Outcome(status, time.monotonic() - began))
        connection.close()

    await asyncio.gather(*(ask() for _ in range(clients)))
    return found


async def open_loop(
    url: str, rate: float, seconds: float, requests: Callable[[], bytes], connections: int
) -> list[Outcome]:
    """Requests at random times (Poisson) whether or not others are answered; those without a connection wait."""
    arrivals, generator, found = asyncio.Queue[float](), random.Random(1), list[Outcome]()

    async def ask() -> None:
        connection = Connection(url)
        while (due := await arrivals.get()) >= 0:
            request, began = requests(), time.monotonic()
            status, _ = await connection.send(request)
            found.append(Outcome(status, time.monotonic() - began, began - due))
        connection.close()

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
    """One answer and the seconds that it took."""
    connection, began = Connection(url), time.monotonic()
    status, body = await connection.send(request)
    seconds = time.monotonic() - began
    connection.close()
    if status != 200:
        raise RuntimeError(body.decode())
    return json.loads(body), seconds


def milliseconds(outcomes: Sequence[Outcome], part: float) -> float:
    """A quantile of the latency."""
    ordered = sorted(outcome.seconds for outcome in outcomes) or [float("nan")]
    return round(1e3 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)
