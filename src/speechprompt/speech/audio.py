"""Any audio file -> mono float32 at the rate a tokenizer wants, in bounded memory and with limits.

Samples are mixed over channels and resampled from the rate in the header, never from a guess.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from speechprompt.errors import AudioError, AudioTooLong
from speechprompt.speech.decoders import AudioHeader, Block, Decoder, opened

__all__ = ["AudioHeader", "AudioLimits", "audio_hash", "probe", "read_waveform", "read_waveform_bytes"]

RATES = (100, 1_536_000)
"""Sample rates in Hz that a header may state and still be believed."""
_ROUNDING_SECONDS = 0.02  # manifests round their times; a span may end this much after the file


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What a reader accepts: hours of audio and bytes of the file, checked before decoding, and seconds to decode."""

    hours: float = 12.0
    size_bytes: int = 100 * 10**9
    decode_seconds: float | None = None


DEFAULT_LIMITS = AudioLimits()


def probe(path: str | Path) -> AudioHeader:
    """The header of an audio file, without decoding it.

    AudioError: missing, a folder, empty, truncated or not audio.
    """
    path = _checked_path(path, DEFAULT_LIMITS)
    with opened(path, str(path)) as decoder:
        return decoder.header


def read_waveform(
    path: str | Path,
    sample_rate: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    limits: AudioLimits = DEFAULT_LIMITS,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """A file, or a span of one, as mono samples (S,) at `sample_rate` Hz, and notices for the user.

    A notice says that channels were mixed or that resampling lost or invented bandwidth. Memory: the result
    plus a few blocks, whatever the file's rate and channel count.
    AudioError, one line: missing, a folder, empty, truncated, not audio, no samples, values that are not
    numbers, over a limit, or a span outside the file.
    """
    path = _checked_path(path, limits)
    with opened(path, str(path)) as decoder:
        return _read(decoder, str(path), sample_rate, (start_seconds, end_seconds), limits)


def read_waveform_bytes(
    content: bytes,
    sample_rate: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    limits: AudioLimits = DEFAULT_LIMITS,
    name: str = "<stdin>",
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """`read_waveform` of an audio file held in memory; `name` is what errors and notices call it."""
    _check_size(len(content), name, limits)
    with opened(content, name) as decoder:
        return _read(decoder, name, sample_rate, (start_seconds, end_seconds), limits)


def audio_hash(waveform: NDArray[np.float32], sample_rate: int) -> str:
    """SHA-256 (hex) of samples (S,) and their rate: equal for equal sound, whatever file it came from."""
    digest = hashlib.sha256(f"{sample_rate}:".encode())
    digest.update(np.ascontiguousarray(waveform, dtype="<f4").data)
    return digest.hexdigest()


def _checked_path(path: str | Path, limits: AudioLimits) -> Path:
    path = Path(path)
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} does not exist or cannot be reached; check the path") from error
    if path.is_dir():
        raise AudioError(f"{path} is a folder; name an audio file in it")
    if not path.is_file():
        raise AudioError(f"{path} is not a regular file; pipe its bytes to '-' instead")
    _check_size(size, str(path), limits)
    return path


def _check_size(size: int, name: str, limits: AudioLimits) -> None:
    if not size:
        raise AudioError(f"{name} is empty (0 bytes); record or copy it again")
    if size > limits.size_bytes:
        raise AudioTooLong(f"{name} has {size:,} bytes, over the limit of {limits.size_bytes:,}; split it")


def _read(
    decoder: Decoder,
    name: str,
    sample_rate: int,
    span: tuple[float | None, float | None],
    limits: AudioLimits,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    header = decoder.header
    if not RATES[0] <= header.sample_rate <= RATES[1] or header.channels < 1:
        raise AudioError(
            f"{name} is damaged: it claims {header.channels} channels at {header.sample_rate} Hz"
        )
    start, stop = _frames_of_span(header, span, name)
    buffer = bytearray()  # grows in place: a list of blocks would need twice the memory
    mono = _mono(decoder, name, start, stop, limits)
    for block in _resampled(mono, header.sample_rate, sample_rate):
        if not np.isfinite(block).all():
            raise AudioError(f"{name} holds values that are not numbers (NaN or infinity); export it again")
        buffer += block.astype(np.float32, copy=False).tobytes()
    if not buffer:
        raise AudioError(f"{name} holds no samples at {sample_rate} Hz; record it again")
    return np.frombuffer(buffer, dtype=np.float32), _notices(header, sample_rate, name)


def _frames_of_span(
    header: AudioHeader, span: tuple[float | None, float | None], name: str
) -> tuple[int, int | None]:
    """First frame and the frame after the last (None: as far as the file goes)."""
    start, end = span
    total = header.duration_seconds
    if start is None and end is None:
        return 0, header.frame_count if header.exact else None
    start = start or 0.0
    if not (math.isfinite(start) and start >= 0) or (end is not None and not end > start):
        raise AudioError(
            f"{name}: the span {start} to {end} s is not one; it must start at 0 or later and end after"
        )
    if total is not None:
        if start >= total or (end is not None and end > total + _ROUNDING_SECONDS):
            shown = "the end" if end is None else f"{end:g} s"
            raise AudioError(f"{name} lasts {total:g} s, but the span asked for is {start:g} s to {shown}")
        end = total if end is None else min(end, total)
    return round(start * header.sample_rate), None if end is None else round(end * header.sample_rate)


def _mono(decoder: Decoder, name: str, start: int, stop: int | None, limits: AudioLimits) -> Iterator[Block]:
    """Blocks (S,) mixed over channels, from frame `start` to `stop`, held against header and limit."""
    header = decoder.header
    expected = header.frame_count if stop is None else stop
    most = math.ceil(limits.hours * 3600 * header.sample_rate)
    length = f"{limits.hours:g} h" if limits.hours >= 1 else f"{limits.hours * 3600:g} s"
    too_long = AudioTooLong(f"{name} is over the limit of {length}; split it or read spans of it")
    if expected is not None and expected - start > most:
        raise too_long
    position, began = start, time.monotonic()
    for block in decoder.blocks(start):
        if limits.decode_seconds is not None and time.monotonic() - began > limits.decode_seconds:
            raise AudioTooLong(
                f"{name} takes over {limits.decode_seconds:g} s to decode; send it as wav or flac"
            )
        block = block if stop is None else block[: stop - position]
        position += len(block)
        if position - start > most:
            raise too_long
        yield block[:, 0] if header.channels == 1 else block.mean(axis=1, dtype=np.float32)
        if position == stop:
            return
    if expected is not None and position - start < (expected - start) * (1.0 if header.exact else 0.9):
        seconds = f"{position / header.sample_rate:.2f} s of {expected / header.sample_rate:.2f} s"
        raise AudioError(f"{name} is truncated: {seconds} could be decoded; copy or record it again")


def _resampled(blocks: Iterator[Block], source_rate: int, target_rate: int) -> Iterator[Block]:
    """The same sound at another rate; equal to resampling it in one piece."""
    if source_rate == target_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="VHQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _notices(header: AudioHeader, sample_rate: int, name: str) -> tuple[str, ...]:
    notices = []
    rates = f"{name}: {header.sample_rate} Hz resampled to {sample_rate} Hz"
    if header.channels > 1:
        notices.append(f"{name}: {header.channels} channels were mixed to one")
    if header.sample_rate > sample_rate:
        notices.append(f"{rates}; sound above {sample_rate // 2} Hz is lost")
    elif header.sample_rate < sample_rate:
        notices.append(f"{rates}; above {header.sample_rate // 2} Hz there is nothing to hear")
    return tuple(notices)
