"""`predict --out`: answers in a file that grows over any number of runs, each clip answered once, all in one precision.

While a run lasts, `OUT.part` takes a line a clip as soon as it is answered; OUT itself is replaced at the end,
whole. So a killed run loses the batch that it was at, and the same command goes on behind it.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from filelock import FileLock, Timeout

from speechprompt.cli.answer_formats import (
    COLUMNS,
    OLDEST_COLUMNS,
    READERS,
    WRITERS,
    Row,
    columns_of,
    line_of,
)
from speechprompt.errors import CorpusError, UsageError

if TYPE_CHECKING:
    from speechprompt.prompting.bulk import Answered, Listed

UNRECORDED = "float32"
"""What answers without a `dtype` were computed in: files from before it was kept, when no other was the default."""


@dataclass
class PredictionFile:
    """The answers of some prompts (`digests`: their hashes by task) in `out`, which the LM computes in `dtype`, each
    task's over so many `copies` of a clip (0 for one that is not named).

    `done` names the clips that are answered, with their sources. One run at a time holds a file.
    """

    out: Path
    digests: Mapping[str, str]
    dtype: str
    force: bool = False
    copies: Mapping[str, int] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    _file: IO[str] | None = None
    _lock: FileLock | None = None

    @property
    def part(self) -> Path:
        """Where a run writes while it lasts; one that starts OUT anew does not go on from one that does not."""
        return self.out.with_name(self.out.name + (".anew.part" if self.force else ".part"))

    @classmethod
    def open(
        cls,
        out: Path,
        digests: Mapping[str, str],
        dtype: str,
        force: bool = False,
        copies: Mapping[str, int] | None = None,
    ) -> PredictionFile:
        """Find what is answered already; failed clips are not. Starts `OUT.part`, without what was cut off in it.

        No other run can open the file until it is closed. UsageError for a kind of file that is not written here.
        CorpusError while another run has it open, where no file can be written, or when it holds something else,
        answers of other prompts, in another precision or over another number of copies, unless `force` starts it anew:
        then only what a stopped run with `force` answered of the same is kept.
        """
        if out.suffix not in READERS:
            raise UsageError(f"{out} is written by its ending; take one of {', '.join(READERS)}")
        found = cls(out, digests, dtype, force, copies or {})
        out.parent.mkdir(parents=True, exist_ok=True)
        found._hold()
        try:
            found._begin()
        except BaseException:
            found.close()
            raise
        return found

    def _hold(self) -> None:
        lock = FileLock(self.out.with_name(f".{self.out.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _check_takes_files(
                self.out.parent
            )  # where none can be made, the lock's is missing as if it were held
            raise CorpusError(
                f"another run is writing {self.out}; wait for it, or choose another --out"
            ) from None
        self._lock = lock

    def _begin(self) -> None:
        """Read what is there, and start `OUT.part` with what is whole of it."""
        journal = [row for row in self._journal() if "error" not in row]
        if self.force:
            journal = [row for row in journal if self._misfit(row) is None]
        old = [] if self.force else list(_old_rows(self.out))
        for row in [*journal, *old]:
            if (problem := self._misfit(row)) is not None:
                raise CorpusError(problem)
        whole = self._whole(journal)
        kept = [row for row in journal if row["id"] in whole]
        self.done = self._whole(old) | whole
        cut = {journal[-1]["id"]} if journal else set()
        if not self.force and {row["id"] for row in [*journal, *old]} - set(self.done) - cut:
            raise CorpusError(
                f"{self.out} lacks answers of some of these prompts; choose another --out, "
                "or pass --force to start it anew"
            )
        temporary = self.part.with_name(self.part.name + ".tmp")
        temporary.write_text("".join(line_of(row) for row in kept), encoding="utf-8")
        temporary.replace(self.part)

    def _misfit(self, row: Row) -> str | None:
        """Why an answer cannot stand beside this run's; None when it can."""
        task = str(row["task"])
        if self.digests.get(task) != row["prompt"]:
            which = "another prompt" if task in self.digests else "the task"
            return (
                f"{self.out} holds answers of {which} '{task}'; choose another --out, "
                "or pass --force to start it anew"
            )
        if (known := row.get("dtype") or UNRECORDED) != self.dtype:
            return (
                f"{self.out} holds answers computed in {known}, and this run computes in {self.dtype}; "
                f"pass --dtype {known} to go on, choose another --out, or pass --force to start it anew"
            )
        if (heard := str(row.get("copies") or 0)) != str(ours := self.copies.get(task, 0)):
            return (
                f"{self.out} holds answers over {heard} copies of each clip, and this run's are over {ours}; "
                f"pass --copies {heard} to go on, choose another --out, or pass --force to start it anew"
            )
        return None

    def _whole(self, rows: Iterable[Row]) -> dict[str, str]:
        """The clips that every prompt has answered, with their sources; a kill may have cut the last one's rows."""
        tasks: dict[str, set[str]] = {}
        sources: dict[str, str] = {}
        for row in rows:
            tasks.setdefault(str(row["id"]), set()).add(str(row["task"]))
            sources[str(row["id"])] = str(row.get("source") or "")
        return {clip: sources[clip] for clip, answered in tasks.items() if answered >= set(self.digests)}

    def left(self, listed: Iterable[Listed]) -> list[Listed]:
        """What is not answered yet. CorpusError for a clip under whose id another file was."""
        found = []
        for one in listed:
            known = self.done.get(one.id)
            if known is None:
                found.append(one)
            elif known and Path(known).absolute() != Path(one.source).absolute():
                raise CorpusError(
                    f"{self.out} holds answers of {known} under the id '{one.id}', and this run's is {one.source}; "
                    "choose another --out, or pass --force to start it anew"
                )
        return found

    def add(self, answered: Sequence[Answered]) -> None:
        """Append what came of some clips and hand it to the system."""
        if self._file is None:
            self._file = self.part.open("a", encoding="utf-8")
        for one in answered:
            for row in rows_of(one, self.digests, self.dtype, self.copies):
                self._file.write(line_of(row))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close `OUT.part`, which stays, and let other runs open the file."""
        self._end_journal()
        if self._lock is not None:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None

    def _end_journal(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """Put old and new answers into OUT, whole or not at all, and remove `OUT.part`."""
        self._end_journal()
        if not self.part.stat().st_size and self.out.exists() and not self.force:
            self.part.unlink()  # nothing is new
            return
        temporary = self.out.with_name(f".{self.out.name}.tmp")
        try:
            WRITERS[self.out.suffix](temporary, None if self.force else self.out, self._journal())
            temporary.replace(self.out)
        finally:
            temporary.unlink(missing_ok=True)
        for part in (self.part, replace(self, force=False).part):
            part.unlink(missing_ok=True)

    def _journal(self) -> Iterator[Row]:
        """The whole lines of `OUT.part`; what a kill cut is left out."""
        if not self.part.exists():
            return
        with self.part.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.endswith("\n") and (row := _parsed(line)) is not None:
                    yield row


def rows_of(
    answered: Answered, digests: Mapping[str, str], dtype: str, copies: Mapping[str, int]
) -> Iterator[Row]:
    """A JSON row a task, or the one of an error."""
    listed = answered.clip
    if answered.error is not None:
        yield {"id": listed.id, "source": listed.source, "error": answered.error}
    for prediction in answered.predictions:
        yield {
            "id": listed.id,
            "prompt": digests[prediction.task],
            "dtype": dtype,
            "copies": copies.get(prediction.task, 0),
            **prediction.to_json(),
        }


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "id" in row else None


def _check_takes_files(folder: Path) -> None:
    """CorpusError when no file can be written in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CorpusError(
            f"no file can be written in {folder} ({error.strerror or error}); choose another --out"
        ) from None


def _old_rows(out: Path) -> Iterator[Row]:
    """The answers (id, task, prompt) that a file holds.

    CorpusError when it is no file of answers, or a table with columns that writing it again would lose.
    """
    if not out.exists():
        return
    problem = CorpusError(f"{out} holds no answers of predict; choose another --out, or pass --force")
    try:
        columns, rows = columns_of(out), list(READERS[out.suffix](out))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise problem from None
    if columns is not None:
        _check_columns(out, columns, problem)
    for row in rows:
        if not isinstance(row, dict) or not _is_known(row):
            raise problem
        if columns is not None and None in row:
            raise CorpusError(
                f"{out}: the row of '{row['id']}' has more cells than the table has columns, and they would be lost; "
                "remove them, choose another --out, or pass --force to start it anew"
            )
        if not row.get("error"):
            yield row


def _check_columns(out: Path, columns: Sequence[str], problem: CorpusError) -> None:
    """CorpusError for a table that is not of answers (`problem`), or that has other columns beside theirs."""
    if not set(OLDEST_COLUMNS) <= set(columns):
        raise problem
    if others := [name for name in columns if name not in COLUMNS]:
        raise CorpusError(
            f"{out} has columns that predict does not write and would lose: {', '.join(map(repr, others))}; "
            "choose another --out, or pass --force to start it anew"
        )


def _is_known(row: Row) -> bool:
    """Whether a row is an answer or an error as `rows_of` writes them."""
    if row.get("error"):
        texts = all(isinstance(row.get(name), str) for name in ("id", "source", "error"))
        return texts and row.keys() - {None} <= COLUMNS.keys()
    texts = all(isinstance(row.get(name), str) for name in ("id", "task", "prompt"))
    return texts and str(row.get("copies") or 0).isdecimal()
