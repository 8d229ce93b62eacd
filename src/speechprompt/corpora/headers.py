"""The headers of audio files, read without decoding: is the file whole, and how long is it?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

from speechprompt.errors import AudioError


class Header(NamedTuple):
    """What a header says; `seconds` is None where only decoding would tell (mp3, mp4, ogg)."""

    container: str
    seconds: float | None
    sample_rate: int | None = None


def read_header(path: Path) -> Header:
    """The header of an audio or video file.

    Raises AudioError when the file is absent, empty, truncated or not audio.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _parse(path, file, size)
    except FileNotFoundError:
        raise AudioError(f"{path} is not there; finish the download or unpack the archive again") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from None


def _parse(path: Path, file: BinaryIO, size: int) -> Header:
    if size == 0:
        raise _damaged(path, "is empty")
    start = file.read(12)
    if start[:4] in (b"RIFF", b"RIFX", b"RF64") and start[8:12] == b"WAVE":
        return _wav(path, file, size)
    if start[:4] == b"fLaC":
        return _flac(path, start, file)
    if start[:4] == b"OggS":
        return Header("ogg", None)
    if start[:4] == b"FORM" or start[8:12] == b"AVI ":
        return Header("aiff" if start[:4] == b"FORM" else "avi", None)
    if start[4:8] == b"ftyp":
        return Header("mp4", None)
    if start[:4] == b"\x1aE\xdf\xa3":
        return Header("matroska", None)
    if start[:3] == b"ID3" or (start[0] == 0xFF and len(start) > 1 and start[1] & 0xE0 == 0xE0):
        return Header("mp3", None)
    if start[:7] == b"NIST_1A":
        return Header("sphere", None)
    raise _damaged(path, "is not audio that is known here")


def _wav(path: Path, file: BinaryIO, size: int) -> Header:
    """Walk the chunks: the standard library's reader refuses float and extensible files."""
    byte_rate, sample_rate = 0, 0
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"fmt ":
            chunk = file.read(length)
            sample_rate = int.from_bytes(chunk[4:8], "little")
            byte_rate = int.from_bytes(chunk[8:12], "little")
            file.seek(length % 2, os.SEEK_CUR)
        elif head[:4] == b"data":
            held = size - file.tell()
            # Recorders that were cut off and pipes leave 0 or 0xFFFFFFFF: the rest of the file is the audio.
            if length in (0, 0xFFFFFFFF):
                length = held
            if held < length:
                raise _damaged(path, f"is truncated ({held} of {length} bytes of audio)")
            if not byte_rate or not sample_rate:
                raise _damaged(path, "has no valid format chunk")
            return Header("wav", length / byte_rate, sample_rate)
        else:
            file.seek(length + length % 2, os.SEEK_CUR)
    raise _damaged(path, "holds no audio")


def _flac(path: Path, start: bytes, file: BinaryIO) -> Header:
    """STREAMINFO: 20 bits of sample rate and 36 bits of sample count, after 10 bytes of block sizes."""
    info = (start[4:] + file.read(34))[4:]
    if len(info) < 18:
        raise _damaged(path, "is truncated")
    packed = int.from_bytes(info[10:18], "big")
    sample_rate, samples = packed >> 44, packed & (2**36 - 1)
    return Header("flac", samples / sample_rate if sample_rate and samples else None, sample_rate)


def _damaged(path: Path, what: str) -> AudioError:
    return AudioError(f"{path} {what}; fetch it again, or pass --skip-unreadable to leave it out")
