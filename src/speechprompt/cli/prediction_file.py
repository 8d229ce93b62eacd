"""`predict --out`: answers in a file that grows over any number of runs, each clip answered once, all in one precision.

While a run lasts, `OUT.part` takes a line a clip as soon as it is answered; OUT itself is replaced at the end,
whole. So a killed run loses the batch that it was at, and the same command goes on behind it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from speechprompt.cli.answer_formats import READERS, WRITERS, Row, line_of
from speechprompt.errors import CorpusError, UsageError

if TYPE_CHECKING:
    from speechprompt.prompting.bulk import Answered

UNRECORDED = "float32"
"""What answers without a `dtype` were computed in: files from before it was kept, when no other was the default."""


@dataclass
class PredictionFile:
    """The answers of some prompts (`digests`: their hashes by task) in `out`, which the LM computes in `dtype`."""

    out: Path
    digests: Mapping[str, str]
    dtype: str
    force: bool = False
    done: set[str] = field(default_factory=set)
    _file: IO[str] | None = None

    @property
    def part(self) -> Path:
        """Where a run writes while it lasts; one that starts OUT anew does not go on from one that does not."""
        return self.out.with_name(self.out.name + (".anew.part" if self.force else ".part"))

    @classmethod
    def open(cls, out: Path, digests: Mapping[str, str], dtype: str, force: bool = False) -> PredictionFile:
        """Find what is answered already; failed clips are not. Starts `OUT.part`, without what was cut off in it.

        UsageError for a kind of file that is not written here. CorpusError when the file holds something else,
        answers of other prompts, or answers in another precision, unless `force` starts it anew: then only what a
        stopped run with `force` answered of the same is kept.
        """
        if out.suffix not in READERS:
            raise UsageError(f"{out} is written by its ending; take one of {', '.join(READERS)}")
        found = cls(out, digests, dtype, force)
        journal = [row for row in found._journal() if "error" not in row]
        if force:
            journal = [row for row in journal if found._misfit(row) is None]
        old = [] if force else list(_old_rows(out))
        for row in [*journal, *old]:
            if (problem := found._misfit(row)) is not None:
                raise CorpusError(problem)
        whole = found._whole(journal)
        kept = [row for row in journal if row["id"] in whole]
        found.done = whole | found._whole(old)
        cut = {journal[-1]["id"]} if journal else set()
        if not force and {row["id"] for row in [*journal, *old]} - found.done - cut:
            raise CorpusError(
                f"{out} lacks answers of some of these prompts; choose another --out, or pass --force to start it anew"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = found.part.with_name(found.part.name + ".tmp")
        temporary.write_text("".join(line_of(row) for row in kept), encoding="utf-8")
        temporary.replace(found.part)
        return found

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
        return None

    def _whole(self, rows: Iterable[Row]) -> set[str]:
        """The clips that every prompt has answered; a kill may have cut the last one's rows."""
        tasks: dict[str, set[str]] = {}
        for row in rows:
            tasks.setdefault(str(row["id"]), set()).add(str(row["task"]))
        return {clip for clip, answered in tasks.items() if answered >= set(self.digests)}

    def add(self, answered: Sequence[Answered]) -> None:
        """Append what came of some clips and hand it to the system."""
        if self._file is None:
            self._file = self.part.open("a", encoding="utf-8")
        for one in answered:
            for row in rows_of(one, self.digests, self.dtype):
                self._file.write(line_of(row))
        self._file.flush()

    def close(self) -> None:
        """Close `OUT.part`, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """Put old and new answers into OUT, whole or not at all, and remove `OUT.part`."""
        self.close()
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


def rows_of(answered: Answered, digests: Mapping[str, str], dtype: str) -> Iterator[Row]:
    """A JSON row a task, or the one of an error."""
    listed = answered.clip
    if answered.error is not None:
        yield {"id": listed.id, "source": listed.source, "error": answered.error}
    for prediction in answered.predictions:
        yield {
            "id": listed.id,
            "prompt": digests[prediction.task],
            "dtype": dtype,
            **prediction.to_json(),
        }


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "id" in row else None


def _old_rows(out: Path) -> Iterator[Row]:
    """The answers (id, task, prompt) that a file holds. CorpusError when it is no file of answers."""
    if not out.exists():
        return
    problem = CorpusError(f"{out} holds no answers of predict; choose another --out, or pass --force")
    try:
        rows = list(READERS[out.suffix](out))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise problem from None
    for row in rows:
        if not row.get("error"):
            if not all(isinstance(row.get(name), str) for name in ("id", "task", "prompt")):
                raise problem
            yield row
