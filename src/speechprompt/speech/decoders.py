"""Audio containers as blocks of frames: libsndfile for most formats, PyAV for what browsers and phones make.

Knows files and bytes; knows nothing of mixing, resampling or limits (see `audio`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechprompt.errors import AudioError, MissingExtra

Block = NDArray[np.float32]
"""Decoded frames (S, channels), float32."""

BLOCK_SAMPLES = 1 << 19  # 2 MiB of float32 across the channels of a block
_LOSSY_FORMATS = ("MP3", "OGG", "MEDIA")  # their headers estimate the length
_UNKNOWN_FRAMES = 1 << 60  # libsndfile says 2**63 - 1 where the header is silent
_STREAMED_BYTES = 0x7FFFF000  # from here on, a RIFF size is what pipes write because they cannot seek back
_SHORTENED = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be \d+\)", re.MULTILINE)
_OGG_UNFINISHED = "without an End-Of-Stream flag"


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """What a file says of itself: `sample_rate` in Hz, channel count, duration, container format.

    `duration_seconds` is None where the header is silent (a stream that was never finished).
    """

    sample_rate: int
    channels: int
    duration_seconds: float | None
    format: str

    @property
    def frame_count(self) -> int | None:
        """Length in sample frames, None where the header is silent."""
        return None if self.duration_seconds is None else round(self.duration_seconds * self.sample_rate)

    @property
    def exact(self) -> bool:
        """Whether the header's length is exact, so that fewer frames mean a truncated file."""
        return self.format not in _LOSSY_FORMATS


class Decoder(Protocol):
    """An open file: its header, and its frames in blocks of bounded size from `start` (a frame) on."""

    header: AudioHeader

    def blocks(self, start: int) -> Iterator[Block]:
        """Frames from `start` on; AudioError where the file is damaged."""
        ...


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[Decoder]:
    """Open a file or its bytes for decoding; `name` is what errors call it.

    AudioError, one line: may not be read, not audio, truncated, or damaged while decoding. MissingExtra: webm, m4a
    or mp4 without PyAV.
    """
    try:
        with (
            _ClampedBytes(source) if isinstance(source, bytes) else source.open("rb") as raw,
            _decoding(raw, name) as decoder,
        ):
            yield decoder
    except OSError as error:  # permissions, or a disk that fails while it is read
        reason = error.strerror or error
        raise AudioError(f"{name} cannot be read ({reason}); check its permissions and its disk") from error


@contextmanager
def _decoding(raw: IO[bytes], name: str) -> Iterator[Decoder]:
    if media_format := _media_format(raw):
        with _opened_media(raw, name, media_format) as media:
            yield media
        return
    try:
        file = _ForwardFile(raw)
    except (soundfile.SoundFileError, TypeError, RuntimeError, ValueError) as error:
        raise AudioError(
            f"{name} is not audio that can be read here ({_reason(error)}); is it complete?"
        ) from error
    with file:
        yield _SoundFileDecoder(file, name)


class _ClampedBytes(io.BytesIO):
    """Bytes whose seek never fails: a damaged header can ask libsndfile to seek before the start."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}[whence]
        return super().seek(max(0, base + offset))


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file read front to back; soundfile would seek after every read, which unfinished FLAC refuses."""

    def seekable(self) -> bool:
        return False


class _SoundFileDecoder:
    def __init__(self, file: soundfile.SoundFile, name: str) -> None:
        self._file, self._name = file, name
        known = file.frames < _UNKNOWN_FRAMES
        duration = file.frames / file.samplerate if known else None
        self.header = AudioHeader(file.samplerate, file.channels, duration, file.format)
        claimed = _SHORTENED.search(file.extra_info)
        if (claimed and int(claimed[1]) < _STREAMED_BYTES) or _OGG_UNFINISHED in file.extra_info:
            raise AudioError(f"{name} is truncated: it ends before its header says; copy or record it again")

    def blocks(self, start: int) -> Iterator[Block]:
        size = max(1, BLOCK_SAMPLES // self.header.channels)
        try:
            if start:
                self._file.seek(start)
            while len(block := self._file.read(size, dtype="float32", always_2d=True)):
                yield block
        except (soundfile.SoundFileError, RuntimeError) as error:
            text = f"{self._name} is truncated or damaged ({_reason(error)}); copy or record it again"
            raise AudioError(text) from error


def _media_format(raw: IO[bytes]) -> str | None:
    """FFmpeg's name of what the first bytes are: Matroska or WebM, an ISO file (mp4, m4a, mov) or bare AAC."""
    start = raw.read(12)
    raw.seek(0)
    if start[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if start[4:8] == b"ftyp":
        return "mov"
    return "aac" if start[:2] in (b"\xff\xf1", b"\xff\xf9") else None


@contextmanager
def _opened_media(raw: IO[bytes], name: str, media_format: str) -> Iterator[Decoder]:
    """The format is told, not guessed: FFmpeg also knows descriptions of streams that it would go and fetch."""
    try:
        import av
    except ImportError as error:
        raise MissingExtra("av", "media", f"reading {name} (webm, m4a, mp4)") from error
    try:
        with av.open(raw, format=media_format, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError(f"{name} holds no audio stream")
            if container.streams.audio[0].codec_context is None:
                raise AudioError(
                    f"{name} is coded in a way that cannot be decoded here; convert it to wav or flac"
                )
            yield _MediaDecoder(container)
    except av.FFmpegError as error:
        text = f"{name} is truncated or damaged ({error.strerror}); copy or record it again"
        raise AudioError(text) from error


class _MediaDecoder:
    """A PyAV container. Spans are decoded from the file's start: exact, if slower than a seek."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._stream = stream = container.streams.audio[0]
        duration = None
        if stream.duration is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / 1e6
        self.header = AudioHeader(stream.rate, stream.channels, duration, "MEDIA")

    def blocks(self, start: int) -> Iterator[Block]:
        from av.audio.resampler import AudioResampler

        to_float = AudioResampler(format="fltp", rate=self.header.sample_rate)
        skip = start
        for frame in self._container.decode(self._stream):
            for planar in to_float.resample(frame):
                block = planar.to_ndarray().T.astype(np.float32, copy=False)
                if skip < len(block):
                    yield block[skip:]
                skip = max(0, skip - len(block))


def _reason(error: Exception) -> str:
    if isinstance(error, TypeError):
        return "raw samples without a header"
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip().rstrip(".").splitlines()[0] if str(text).strip() else type(error).__name__
