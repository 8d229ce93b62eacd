"""A table as Markdown, numbers as cells, and a study as a file whose name says its form."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechprompt.errors import UsageError
from speechprompt.metrics import Interval

FORMS = (".html", ".md", ".json")


def interval_cell(value: Interval | None, signed: bool = False) -> str:
    """An estimate with its interval in percent (`signed`: in points); empty for None.

    >>> interval_cell(Interval(0.5, 0.4, 0.62))
    '50.0 [40.0, 62.0]'
    """
    if value is None:
        return ""
    sign = "+" if signed else ""
    return f"{100 * value.estimate:{sign}.1f} [{100 * value.low:{sign}.1f}, {100 * value.high:{sign}.1f}]"


def share_cell(share: float | None) -> str:
    """A share in percent with one decimal; empty for None."""
    return "" if share is None else f"{100 * share:.1f}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under headings as a Markdown table.

    >>> print(markdown_table(("a", "b"), [("x|y", 1)]))
    | a | b |
    |---|---|
    | x\\|y | 1 |
    """
    lines = [headings, *rows]
    drawn = ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]
    return "\n".join([drawn[0], "|" + "---|" * len(headings), *drawn[1:]])


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def json_text(document: Mapping[str, Any]) -> str:
    """A document as indented JSON with a line break at its end."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def form_of(path: Path) -> str:
    """The form that a file name asks for. UsageError when it is none of them."""
    if path.suffix not in FORMS:
        raise UsageError(f"{path} says no form; end its name in {', '.join(FORMS)}")
    return path.suffix


def write_whole(path: Path, text: str) -> Path:
    """Write a text file whole or not at all, replacing what is there. Side effects: the file, its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="replace")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
