"""What a command prints: results on stdout, progress and notices on stderr; one JSON document instead with --json."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.table import Table

PIPE_WIDTH = 500
"""Columns where nobody looks: wide enough that a row of a table stays one line."""
PLAIN_STEPS = 10
"""Progress lines a stage prints where stderr is not a terminal."""
PLAIN_SECONDS = 10.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `main`, which ends quietly."""
        raise BrokenPipeError


class Progress(Protocol):
    """What a stage tells: how many of how many (None: not known), and a few words."""

    def update(self, done: int, total: int | None, text: str = "") -> None:
        """Show where the stage stands."""
        ...


class Terminal:
    """The two streams of one command.

    `as_json` keeps tables off stdout, so that what is there is JSON only; `quiet` keeps progress and notices off
    stderr.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.out, self.err = _console(stderr=False), _console(stderr=True)
        self._told: set[str] = set()

    def show(self, document: Any, *parts: RenderableType) -> None:
        """Print a result: `document` as JSON with --json, else `parts`, one below the other."""
        if self.as_json:
            self.json_line(document)
            return
        for part in parts:
            self.out.print(part, soft_wrap=isinstance(part, str))

    def json_line(self, document: Any) -> None:
        """Print one JSON document as one line, at once."""
        text = json.dumps(_plain(document), ensure_ascii=False, allow_nan=False, default=str)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A line on stderr, unless --quiet."""
        if not self.quiet:
            self.err.print(text, soft_wrap=True)

    def notice(self, text: str) -> None:
        """Something users should know about their material; told once."""
        if text not in self._told:
            self._told.add(text)
            self.say(f"notice: {text}")

    def complain(self, text: str) -> None:
        """An error that does not end the command; --quiet does not hide it."""
        self.err.print(f"error: {one_line(text)}", soft_wrap=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A bar on a terminal, a few plain lines elsewhere, nothing with --quiet."""
        if self.quiet:
            yield _Silent()
        elif not self.err.is_terminal:
            yield _Lines(self, title)
        else:
            with _bars(self.err) as bars:
                yield _Bar(bars, bars.add_task(title, total=None, text=""))


class _Silent:
    def update(self, done: int, total: int | None, text: str = "") -> None:
        """Show nothing."""


class _Lines:
    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal, self._title = terminal, title
        self._last, self._time = -1, -math.inf

    def update(self, done: int, total: int | None, text: str = "") -> None:
        """Print a line at every tenth, and at the end; every ten seconds where the end is not known."""
        tenth = done * PLAIN_STEPS // total if total else self._last
        late = not total and time.monotonic() - self._time > PLAIN_SECONDS
        if tenth == self._last and not late:
            return
        self._last, self._time = tenth, time.monotonic()
        place = f" {done}/{total}" if total else f" {done}" if done else ""
        self._terminal.say(f"{self._title}{place} {text}".rstrip())


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def update(self, done: int, total: int | None, text: str = "") -> None:
        """Move the bar."""
        self._bars.update(self._task, completed=done, total=total, text=text)


def _bars(console: Console) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """Rows under headings; numbers stand at the right."""
    drawn = Table(box=None, title=title, title_justify="left", pad_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        numeric = bool(rows) and all(isinstance(row[place], int | float) for row in rows)
        drawn.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    return drawn


def pairs(values: Mapping[str, object]) -> Table:
    """Names and values, a line each; values that are None are left out."""
    drawn = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in values.items():
        if value is not None:
            drawn.add_row(name, str(value))
    return drawn


def next_command(*words: object, lm: str | None = None) -> str:
    """The line that says what to run next, as a shell reads it.

    `lm` is the spoken LM of a prompt that the command reads, which finds it again by name, but not in a folder.
    """
    named = ["--lm", lm] if lm is not None and ("/" in lm or Path(lm).is_dir()) else []
    return f"next: speechprompt {shlex.join(map(str, [*words, *named]))}"


def reading_flags(split_field: str, skip_unreadable: bool) -> list[str]:
    """How a command that goes on with a source has to read it."""
    named = [] if split_field == "split" else ["--split-field", split_field]
    return [*named, *["--skip-unreadable"] * skip_unreadable]


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def interval(value: Any, points: bool = False) -> str:
    """An estimate with its 95 % interval in percent; `points` signs it, as a difference is."""
    sign = "+" if points else ""
    return f"{100 * value.estimate:{sign}.1f} [{100 * value.low:{sign}.1f}, {100 * value.high:{sign}.1f}]"


def one_line(text: object) -> str:
    """The text with line breaks and runs of blanks as single blanks."""
    return " ".join(str(text).split())


def _plain(value: Any) -> Any:
    """The value without numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
