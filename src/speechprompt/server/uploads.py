"""A multipart upload -> a clip and its fields, with every limit held before the work that it bounds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
import soxr
from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from speechprompt.errors import AudioError, AudioTooLong, TooLarge, UsageError
from speechprompt.server.front_door import LEAVING
from speechprompt.server.multipart import Part, read_form
from speechprompt.server.service import service_of
from speechprompt.server.settings import ServerSettings
from speechprompt.speech.audio import RATES, read_waveform_bytes
from speechprompt.tokenizers.protocol import Waveform


@dataclass(frozen=True, slots=True)
class Upload:
    """What arrived: the file's bytes, what to call it, and the other fields in order."""

    content: bytes
    name: str
    fields: list[tuple[str, str]]

    def all(self, field: str) -> list[str]:
        """Every value of a repeated field."""
        return [value for name, value in self.fields if name == field]

    def number(self, field: str, least: float, most: float) -> float | None:
        """A field as a number within bounds, None when it is absent. UsageError."""
        given = self.all(field)
        if not given:
            return None
        try:
            value = float(given[-1])
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise UsageError(f"{field} is '{given[-1][:40]}'; it must be a number from {least:g} to {most:g}")
        return value


async def body_of(request: Request, settings: ServerSettings) -> bytes:
    """A whole request body. TooLarge from its announced size or as it arrives, UsageError when it stalls or ends early.

    Overloaded before it is read when the server holds too many others; it holds this one until it has answered.
    """
    parts = [part async for part in _limited(request, settings)]
    return b"".join(parts)


async def _limited(request: Request, settings: ServerSettings) -> AsyncGenerator[bytes, None]:
    too_large = TooLarge(f"the body is over the limit of {settings.body_bytes:,} bytes; send less at once")
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else settings.body_bytes
    if size > settings.body_bytes:
        raise too_large
    service = service_of(request)
    request.scope[LEAVING].enter_context(service.bodies.place(service.client_of(request), size))
    received = 0
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                received += len(part)
                if received > settings.body_bytes:
                    raise too_large
                yield part
    except TimeoutError:
        raise UsageError(f"the body did not arrive within {settings.body_seconds:g} s") from None
    except ClientDisconnect:
        raise UsageError("the client hung up before its body was whole") from None


async def read_parts(request: Request, settings: ServerSettings, form: type[BaseModel]) -> list[Part]:
    """The parts of a multipart form in order. UsageError when it is none or has parts that `form` does not know.

    TooLarge, Overloaded as `body_of`.
    """
    parts = await read_form(request.headers.get("content-type", ""), _limited(request, settings))
    for part in parts:
        if part.name not in form.model_fields:
            known = ", ".join(form.model_fields)
            raise UsageError(f"the form has a part '{part.name[:40]}', which is unknown here; known: {known}")
    return parts


async def read_upload(request: Request, settings: ServerSettings, form: type[BaseModel]) -> Upload:
    """The `file` and the fields of a multipart form. UsageError as `read_parts`, TooLarge, Overloaded."""
    parts = await read_parts(request, settings, form)
    files = [part for part in parts if part.filename is not None]
    if len(files) != 1 or files[0].name != "file":
        raise UsageError("send one clip, in a part called 'file' with a file name")
    fields = [(part.name, part.content.decode("utf-8", "replace")) for part in parts if part.filename is None]
    return Upload(bytes(files[0].content), display_name(files[0].filename), fields)


def display_name(given: str | None) -> str:
    """What to call an upload in messages: the last part of its name without surprises. Never a path."""
    last = re.split(r"[/\\]", given or "")[-1]
    return re.sub(r"[^\w .()+-]", "_", last).strip()[:80] or "the upload"


def decode(upload: Upload, sample_rate: int, settings: ServerSettings) -> tuple[Waveform, tuple[str, ...]]:
    """Samples at `sample_rate`, and notices. With the field `sample_rate` the file is raw 16-bit mono PCM.

    AudioError, AudioTooLong, UsageError, MissingExtra. Blocks; runs in a worker thread.
    """
    rate = upload.number("sample_rate", *RATES)
    if rate is None:
        limits = settings.audio_limits
        return read_waveform_bytes(upload.content, sample_rate, limits=limits, name=upload.name)
    if len(upload.content) % 2 or not upload.content:
        raise AudioError(f"{upload.name} holds {len(upload.content)} bytes; raw PCM is two a sample")
    if len(upload.content) / 2 / rate > settings.clip_seconds:
        raise AudioTooLong(f"{upload.name} is over the limit of {settings.clip_seconds:g} s")
    samples = np.frombuffer(upload.content, dtype="<i2").astype(np.float32) / np.float32(32768)
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate, quality="VHQ").astype(np.float32)
    if not len(samples):
        raise AudioError(f"{upload.name} holds no samples at {sample_rate} Hz")
    return samples, ()
