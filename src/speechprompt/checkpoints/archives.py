"""Bytes of files from the outside: compressed streams, tar archives, fairseq dictionaries; all with limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from speechprompt.checkpoints.inert_pickle import BoundedStream
from speechprompt.errors import CheckpointError

MAX_EXPANSION = 100
"""Weights hardly compress; what grows more than this is a bomb."""

_FLOOR_BYTES = 64 * 2**20
_LZMA_MEMORY = 512 * 2**20
_MAX_DICTIONARY_BYTES = 64 * 2**20


@contextmanager
def reading(source: str | Path | bytes, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into one CheckpointError that names the source.

    Hostile bytes can make any layer below fail in any way, so every Exception is caught, on purpose.
    """
    name = "the file's content" if isinstance(source, bytes) else str(source)
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{name} does not exist; check the path") from None
    except Exception as error:
        why = (str(error).splitlines() or [""])[0][:160] or type(error).__name__
        raise CheckpointError(
            f"{name} cannot be read as {kind} ({why}); it is damaged, cut off or another kind of file: "
            "check the path, or delete the file and fetch it again"
        ) from error


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[tuple[BinaryIO, int]]:
    """A source as a binary file and its size in bytes."""
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
        return
    with Path(source).open("rb") as file:
        yield file, Path(source).stat().st_size


def expanded(content: bytes) -> bytes:
    """Bytes without their zlib, gzip, bz2, xz or lzma compression. ValueError for a bomb or a cut stream."""
    decoder = _decoder(content[:6])
    if decoder is None:
        return content
    limit = max(_FLOOR_BYTES, MAX_EXPANSION * len(content))
    plain: bytes = decoder.decompress(content, limit)
    if not decoder.eof:
        raise ValueError("a compressed stream that is cut off or expands too far")
    return plain


def _decoder(head: bytes) -> Any:
    if head.startswith(b"\x1f\x8b") or head[:1] == b"\x78":
        return zlib.decompressobj(wbits=47)
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if head.startswith((b"\xfd7zXZ", b"\x5d\x00")):
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    if head.startswith(b"\x04\x22\x4d\x18"):
        raise ValueError("lz4 compression, which is not supported")
    return None


def open_archive_members(path: str | Path, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of the named files in a .tar, .tgz, .tar.bz2 or .tar.xz, in whatever folder they lie.

    Nothing is written to disk and no path of the archive is used. CheckpointError when one is missing or is
    there twice, or when the archive is damaged or expands like a bomb.
    """
    wanted = set(names)
    with reading(path, "a tar archive"), opened(path) as (file, size):
        members = _members(file, size, wanted)
    if missing := sorted(wanted - members.keys()):
        raise CheckpointError(f"{path} holds no {' and no '.join(missing)}; it is another archive")
    return members


def _members(file: BinaryIO, size: int, wanted: set[str]) -> dict[str, bytes]:
    limit = max(_FLOOR_BYTES, MAX_EXPANSION * size)
    stream = BoundedStream(_plain_stream(file), limit)
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=cast(Any, stream), mode="r|") as archive:
        for member in archive:
            if member.size > limit:
                raise ValueError(f"a member of {member.size} bytes")
            name = PurePosixPath(member.name).name
            if name not in wanted or not member.isreg():
                continue
            if name in found:
                raise ValueError(f"{name} is there twice")
            extracted = archive.extractfile(member)
            content = extracted.read() if extracted else b""
            if len(content) != member.size:
                raise ValueError(f"{name} is cut off")
            found[name] = content
    return found


def _plain_stream(file: BinaryIO) -> BinaryIO:
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    if head.startswith(b"\xfd7zXZ"):
        return cast(BinaryIO, lzma.LZMAFile(file))
    return file


def read_dictionary(source: str | Path | bytes) -> list[str]:
    """Symbols of a fairseq dict.txt (`symbol count` a line) in file order, without the four special ones.

    CheckpointError, with the line, for anything else.
    """
    with reading(source, "a fairseq dictionary"), opened(source) as (file, size):
        if size > _MAX_DICTIONARY_BYTES:
            raise ValueError(f"{size} bytes")
        lines = file.read().decode("utf-8").splitlines()
        symbols = [_symbol(number, line) for number, line in enumerate(lines, 1)]
        if not symbols:
            raise ValueError("no symbols")
        if len(set(symbols)) != len(symbols):
            raise ValueError("a symbol is there twice")
        return symbols


def _symbol(number: int, line: str) -> str:
    symbol, _, count = line.rstrip().removesuffix(" #fairseq:overwrite").rpartition(" ")
    if not symbol or not count.isascii() or not count.lstrip("-").isdigit():
        raise ValueError(f"line {number} is not 'symbol count'")
    return symbol
