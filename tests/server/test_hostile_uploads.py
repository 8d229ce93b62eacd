"""Five hundred uploads that are broken or meant to break something: each gets one clear answer, and nothing is left."""

from __future__ import annotations

import gc
import io
import logging
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
import soundfile

from server.material import clip_bytes

BOUNDARY = "limit"
PATH_TRICKS = (
    "../../etc/passwd", "/etc/passwd", "C:\\boot.ini", "a\x00b.wav", "\r\nset-cookie: a=b", "x" * 5000, "", "..",
    "\U0001f4a3.wav", "%2e%2e%2f", "<script>alert(1)</script>", "clip.wav; rm -rf /", '"quoted".wav', "nul", "con.wav",
)  # fmt: skip


def form(content: bytes, name: str = "clip.wav", **fields: str) -> bytes:
    """A multipart body, written by hand so that nothing tidies it up."""
    parts = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'
        for k, v in fields.items()
    ]
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def encoded(file_format: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(1).standard_normal(4000) * 0.1
    soundfile.write(buffer, samples, 8000, format=file_format, subtype=subtype)
    return buffer.getvalue()


def wav_head(channels: int, rate: int, bits: int, length: int, kind: int = 1) -> bytes:
    """A WAV header that says what it is told to."""
    block = channels * bits // 8
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 2**31, b"WAVE", b"fmt ", 16, kind, channels % 2**16, rate,
                       rate * block % 2**32, block % 2**16, bits)  # fmt: skip
    return head + struct.pack("<4sI", b"data", length)


def bombs() -> Iterator[bytes]:
    """Small files that claim to be, or unpack to, very large ones."""
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(8000 * 1200, np.int16), 8000, format="FLAC")
    yield silence.getvalue()  # twenty minutes in a few kilobytes
    for channels, rate, bits in (
        (1, 8000, 16),
        (65535, 8000, 16),
        (1, 0, 16),
        (1, 2**31, 16),
        (0, 8000, 16),
        (2, 8000, 0),
    ):
        yield wav_head(channels, rate, bits, 2**31 - 1) + bytes(4000)
    yield wav_head(1, 8000, 32, 4000, kind=3) + np.full(1000, np.nan, "<f4").tobytes()
    yield wav_head(1, 8000, 32, 4000, kind=3) + np.full(1000, 3e38, "<f4").tobytes()


def malformed_forms() -> Iterator[bytes]:
    """Bodies that are no form, or hardly one."""
    clip = clip_bytes()
    whole = form(clip)
    yield from (
        b"",
        b"--",
        b"--limit",
        b"--limit--",
        b"--limit\r\n\r\n",
        whole[: len(whole) // 2],
        clip,
        b"\x00" * 10_000,
    )
    yield whole.replace(b'name="file"', b"")
    yield whole.replace(b"content-disposition", b"content-disposition" * 500)
    yield whole.replace(b"form-data", b"form-data" + b"; a=b" * 5000)
    yield whole.replace(b"\r\n\r\n", b"\r\n" + b"x: y\r\n" * 5000 + b"\r\n", 1)
    yield whole.replace(b"--limit--", whole)  # two files
    yield form(clip, task="x" * 5000)
    yield form(clip, task="\udcff".encode("utf-8", "surrogateescape").decode("latin-1"))
    for top_k in ("0", "-1", "nan", "1e999", "ten", "9" * 400):
        yield form(clip, top_k=top_k)
    for rate in ("0", "inf", "16000.5", "-8000", "1536001"):
        yield form(clip, sample_rate=rate)
    yield form(b"\x00", sample_rate="8000")
    many = b"".join(
        b'--limit\r\ncontent-disposition: form-data; name="task"\r\n\r\nword\r\n' for _ in range(20_001)
    )
    yield many + whole


def mutants(count: int) -> Iterator[bytes]:
    """Real files, cut and with bytes changed."""
    random = np.random.default_rng(0)
    kinds = [
        clip_bytes(),
        encoded("FLAC"),
        encoded("OGG"),
        encoded("OGG", "OPUS"),
        encoded("MP3"),
        encoded("AIFF"),
    ]
    kinds += [
        b"\x1aE\xdf\xa3" + bytes(200),
        b"\x00\x00\x00\x20ftypM4A " + bytes(200),
        b"\xff\xf1" + bytes(200),
    ]
    for i in range(count):
        content = bytearray(kinds[i % len(kinds)])
        for place in random.integers(0, min(len(content), 200 if i % 2 else len(content)), 1 + i % 12):
            content[place] = random.integers(0, 256)
        yield bytes(content[: random.integers(1, len(content) + 1)] if i % 3 == 0 else content)


def uploads() -> list[bytes]:
    found = [form(clip_bytes(), name) for name in PATH_TRICKS]
    found += [form(content) for content in bombs()]
    found += list(malformed_forms())
    texts = (
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        b"MZ" + bytes(100),
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"#!/bin/sh\n",
        b"\x80\x04cos\nsystem\n",
    )
    found += [form(text) for text in texts]
    return found + [form(content) for content in mutants(500 - len(found))]


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_five_hundred_hostile_uploads(address: str, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    sent, statuses, slowest, settled = uploads(), [], 0.0, 0
    assert len(sent) == 500
    with httpx2.Client(base_url=address, timeout=20) as http, caplog.at_level(logging.WARNING):
        for i, body in enumerate([*sent[:250], *sent]):  # half of them once before memory is looked at
            if i == 250:
                settled = resident_bytes()
            began = time.monotonic()
            response = http.post("/v1/classify", content=body, headers=headers)
            slowest = max(slowest, time.monotonic() - began)
            statuses.append(response.status_code)
            if response.status_code != 200:
                assert response.headers["content-type"] == "application/problem+json"
                assert "\n" not in response.json()["detail"]
                assert "set-cookie" not in response.headers
        assert http.post("/v1/classify", files={"file": clip_bytes()}).status_code == 200
    assert statuses.count(422) > 250
    assert resident_bytes() - settled < 24 * 2**20
    assert slowest < 15
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def exchange(address: str, request: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    place = urlsplit(address)
    with socket.create_connection((str(place.hostname), place.port or 0), timeout=10) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 2**20 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 200_000 + b"\r\n", b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"404"),
        (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"404"),
        (b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n"
         b"content-type: multipart/form-data; boundary=a\r\n\r\n", b"413"),
        (b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
    ],
)  # fmt: skip
def test_heads_that_are_too_long_or_none(address: str, request_bytes: bytes, status: bytes) -> None:
    assert exchange(address, request_bytes)[9:12] == status
    assert httpx2.get(f"{address}/healthz").status_code == 200


def test_a_client_that_hangs_up_in_its_body_is_no_failure_of_the_server(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    where = urlsplit(address)
    assert where.hostname is not None
    head = (
        f"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary={BOUNDARY}\r\n"
    )
    with (
        caplog.at_level(logging.INFO),
        socket.create_connection((where.hostname, where.port or 80)) as client,
    ):
        client.sendall(f"{head}content-length: 1000\r\n\r\n--{BOUNDARY}\r\n".encode())
        client.close()
        until = time.monotonic() + 10
        while (
            not (seen := [r for r in caplog.records if getattr(r, "status", None)])
            and time.monotonic() < until
        ):
            time.sleep(0.02)
    assert [record.status for record in seen] == [422]  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.WARNING]
