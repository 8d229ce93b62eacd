"""Metadata files as they are published: byte order marks, CRLF, commas or tabs, no end to the last line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from speechprompt.errors import CorpusError


def encoding(path: Path) -> str:
    """utf-16 where a byte order mark says so, else utf-8 (with or without a mark)."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def read_lines(path: Path) -> Iterator[str]:
    """The non-empty lines of a text file, without their ends; bytes that are not text become U+FFFD."""
    with path.open(encoding=encoding(path), errors="replace") as file:
        for line in file:
            if stripped := line.strip():
                yield stripped


def read_table(
    path: Path, columns: tuple[str, ...] = (), delimiter: str | None = None, quoted: bool = True
) -> Iterator[dict[str, str]]:
    """The rows of a table with a header line, one at a time, stripped.

    Without `delimiter` it is a tab where the header holds one, else a comma. Raises CorpusError when a column
    of `columns` is missing or a line cannot be parsed.
    """
    with path.open(encoding=encoding(path), errors="replace", newline="") as file:
        if delimiter is None:
            delimiter = "\t" if "\t" in file.readline() else ","
            file.seek(0)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting)
        try:
            header = [name.strip().lstrip("\ufeff") for name in next(reader, [])]
            needed = 1 + max((_require(path, header, name) for name in columns), default=0)
            for cells in reader:
                if any(cells):
                    if len(cells) < needed and columns:
                        raise CorpusError(f"{path}:{reader.line_num} is cut off; fetch the file again")
                    yield {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
        except csv.Error as error:
            raise CorpusError(f"{path}:{reader.line_num} is no table row ({error}); fetch it again") from None


def _require(path: Path, header: list[str], column: str) -> int:
    if column in header:
        return header.index(column)
    found = ", ".join(header[:8]) or "nothing"
    raise CorpusError(f"{path} has no column '{column}' (found: {found}); fetch the published file")


def read_records(path: Path, keys: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """A JSON object of objects that all have `keys`; CorpusError when it is not."""
    try:
        records = json.loads(path.read_text(encoding=encoding(path)))
    except ValueError as error:
        raise CorpusError(f"{path} is not valid JSON ({error}); fetch it again") from None
    if not isinstance(records, dict):
        raise CorpusError(f"{path} is no JSON object; fetch the published file")
    for name, record in records.items():
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing or not isinstance(record, dict):
            raise CorpusError(
                f"{path}: entry '{name}' lacks {', '.join(missing) or 'fields'}; fetch it again"
            )
    return records
