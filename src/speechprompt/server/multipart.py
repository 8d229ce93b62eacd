"""A multipart form as it arrives -> its file and fields, all in memory and within limits."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from speechprompt.errors import UsageError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

PARTS = 20_000
"""Parts of a form: enough to name every task of a large catalogue."""
FIELD_BYTES = 4096
PART_HEADER_BYTES = 8192
BOUNDARY_BYTES = 200


@dataclass
class Part:
    """One part: its name, its file name where it has one, and its content."""

    name: str = ""
    filename: str | None = None
    content: bytearray = field(default_factory=bytearray)


class _Collector:
    """Callbacks of the parser; UsageError as soon as a limit is passed."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._header_name, self._header_value, self._header_bytes = bytearray(), bytearray(), 0
        self.ended = False

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls."""
        return {
            "on_part_begin": self.on_part_begin,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_part_data": self.on_part_data,
            "on_end": self.on_end,
        }

    def on_part_begin(self) -> None:
        """A part begins."""
        if len(self.parts) >= PARTS:
            raise UsageError(f"the form has over {PARTS:,} parts")
        self.parts.append(Part())
        self._header_bytes = 0

    def on_header_field(self, chunk: bytes, start: int, end: int) -> None:
        """Some of a header's name."""
        self._header_name += chunk[start:end]
        self._count(end - start)

    def on_header_value(self, chunk: bytes, start: int, end: int) -> None:
        """Some of its value."""
        self._header_value += chunk[start:end]
        self._count(end - start)

    def on_header_end(self) -> None:
        """The header is whole."""
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self.parts[-1].name = _text(options.get(b"name", b""))
            if b"filename" in options:
                self.parts[-1].filename = _text(options[b"filename"])
        self._header_name.clear()
        self._header_value.clear()

    def on_part_data(self, chunk: bytes, start: int, end: int) -> None:
        """Some of a part's content."""
        part = self.parts[-1]
        part.content += chunk[start:end]
        if part.filename is None and len(part.content) > FIELD_BYTES:
            raise UsageError(f"a field of the form is over {FIELD_BYTES:,} bytes; a file needs a file name")

    def on_end(self) -> None:
        """The last boundary was there."""
        self.ended = True

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > PART_HEADER_BYTES:
            raise UsageError(f"a part of the form has over {PART_HEADER_BYTES:,} bytes of headers")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


async def read_form(content_type: str, body: AsyncIterable[bytes]) -> list[Part]:
    """The parts of a form in order. UsageError when it is none, is cut off, or is over a limit."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= BOUNDARY_BYTES:
        raise UsageError("send the clip as multipart/form-data with a part called 'file'")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        async for chunk in body:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise UsageError(f"the form cannot be read: {error}") from None
    if not collector.ended:
        raise UsageError("the form ends before its last boundary; send it again")
    return collector.parts
