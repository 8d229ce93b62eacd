"""Tables: csv and tsv files, and Hugging Face's metadata.csv; one utterance a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechprompt.errors import CorpusError, UnknownName, UsageError
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.rows import Row, Source, assemble, check_split_field, label_text, located
from speechprompt.speech.splits import canonical_split

METADATA = "metadata.csv"

_PATHS = ("path", "file_name", "audio", "file", "filename")
_STARTS = ("start", "start_seconds")
_ENDS = ("end", "end_seconds")


def read_tables(
    paths: Sequence[tuple[Path, str | None]],
    name: str,
    slots: Sequence[str] | None,
    split_field: str,
    seed: int,
) -> Corpus:
    """Read one table, or one per split: pairs of a path and the split of its rows (None: a column says).

    Columns: `path` (or file_name), `label` or the ones that `slots` names, and optionally split, speaker,
    start, end (seconds) and id; the rest is kept. CorpusError names file and line; UsageError: a slot that holds
    no labels.
    """
    tables = [_Table(path, split, slots, split_field) for path, split in paths]
    check_split_field(split_field, dict.fromkeys(column for table in tables for column in table.columns))
    notices = [notice for table in tables[:1] for notice in table.notices]
    path = paths[0][0]
    source = Source(str(path if len(paths) == 1 else path.parent.parent), name, notices=tuple(notices))
    return assemble(source, (row for table in tables for row in table.rows()), slots, seed)


class _Table:
    def __init__(self, path: Path, split: str | None, slots: Sequence[str] | None, split_field: str) -> None:
        self.path, self._split, self._split_field = path, split, split_field
        self._source = Source(str(path), path.stem)
        self._delimiter = _delimiter(path)
        self.columns = tuple(next(self._lines())[1])
        self._path_column = next((column for column in _PATHS if column in self.columns), "")
        if not self._path_column:
            found = ", ".join(self.columns)
            raise self._source.error(
                1, f"no column named path; the first line must name columns, not '{found}'"
            )
        if len(set(self.columns)) < len(self.columns):
            raise self._source.error(1, f"a column is named twice in '{', '.join(self.columns)}'")
        for slot in slots or ():
            if slot not in self.columns:
                raise UnknownName("slot", slot, self.columns)
            if slot in (self._path_column, *_STARTS, *_ENDS):
                raise UsageError(
                    f"column '{slot}' of {path} says where the audio is; name columns of labels as slots"
                )
        self._slots = tuple(slots) if slots is not None else ("label",) if "label" in self.columns else ()
        self.notices = () if self._slots else (self._unlabelled(),)

    def _unlabelled(self) -> str:
        return f"{self.path} has no column named label; --slots names others (of {', '.join(self.columns)})"

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as text:
                reader = csv.reader(text, delimiter=self._delimiter, strict=True)
                for cells in reader:
                    if cells:
                        yield reader.line_num, [cell.strip() for cell in cells]
        except (UnicodeDecodeError, csv.Error) as error:
            raise CorpusError(f"{self.path} is not a table in UTF-8 ({error}); export it again") from error
        except OSError as error:
            raise CorpusError(f"{self.path} cannot be read ({error.strerror}); check the path") from error

    def rows(self) -> Iterator[Row]:
        lines = self._lines()
        next(lines)
        for line, cells in lines:
            if len(cells) != len(self.columns):
                text = f"{len(cells)} cells, but the first line names {len(self.columns)} columns"
                raise self._source.error(line, text)
            yield self._row(line, dict(zip(self.columns, cells, strict=True)))

    def _row(self, line: int, cells: dict[str, str]) -> Row:
        name = cells.pop(self._path_column)
        if not name:
            raise self._source.error(line, "no path; every row needs an audio file")
        start, end = self._seconds(line, cells, _STARTS), self._seconds(line, cells, _ENDS)
        labels = {slot: label_text(cells.pop(slot)) for slot in self._slots}
        split = cells.pop(self._split_field, "") or self._split or self._split_of_path(name)
        default = name if self._split is None else f"{self.path.parent.name}/{name}"
        if start is not None or end is not None:
            default += f"@{start or 0:g}"
        return Row(
            line if self._split is None else f"{line} of {self.path.parent.name}/{self.path.name}",
            cells.pop("id", "") or default,
            {slot: label for slot, label in labels.items() if label is not None},
            split,
            located(self.path.parent, name),
            start,
            end,
            speaker=cells.pop("speaker", "") or None,
            extra={key: value for key, value in cells.items() if key != "split"},
        )

    def _split_of_path(self, name: str) -> str | None:
        """The split folder that a path of metadata.csv begins with, as audiofolder reads it."""
        top = Path(name).parts[0]
        return top if self.path.name == METADATA and top != name and canonical_split(top) else None

    def _seconds(self, line: int, cells: dict[str, str], columns: Sequence[str]) -> float | None:
        column = next((column for column in columns if column in cells), None)
        text = cells.pop(column) if column is not None else ""
        if not text:
            return None
        try:
            return float(text)
        except ValueError:
            raise self._source.error(line, f"{column} '{text}' is not a number of seconds") from None


def _delimiter(path: Path) -> str:
    """A tab for .tsv; else whichever of comma, semicolon and tab the first line has most of."""
    if path.suffix == ".tsv":
        return "\t"
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as text:
            first = text.readline(65_536)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); check the path") from error
    if not first.strip():
        raise CorpusError(f"{path} is empty; check that it is the file you mean")
    return max(",;\t", key=first.count)
