"""Rows to a manifest on disk, as a stream: what is held is a hash per row, never the rows.

The header comes first in the file but is known last (labels, skipped files), so rows go to a temporary file
beside the target and are copied behind it. The target appears whole or not at all, with the same bytes every
time.
"""

from __future__ import annotations

import gzip
import json
import os
import posixpath
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from speechprompt.corpora.protocol import Row
from speechprompt.corpora.source import plain
from speechprompt.corpora.splitting import SPLITS
from speechprompt.errors import CorpusError, OutputExists

ROW_HASH_MASK = 2**30 - 1
ENCODER = json.JSONEncoder(ensure_ascii=False)


@dataclass(slots=True)
class Tally:
    """What passed by: rows per split, per (split, slot, label), and rows that were listed twice."""

    rows: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    speakers: int = 0
    repeated: int = 0
    seen: dict[int, int] = field(default_factory=dict)

    def count(self, row: Row, identity: str) -> bool:
        """Count a row unless it is a repetition; CorpusError when it contradicts an earlier one."""
        content = hash((row.split, tuple(row.labels.items()))) & ROW_HASH_MASK
        earlier = self.seen.setdefault(hash(identity), content)
        if len(self.seen) == self.rows:
            if earlier != content:
                raise CorpusError(
                    f"{row.audio} is listed twice with different labels or splits; correct the metadata file"
                )
            self.repeated += 1
            return False
        self.rows += 1
        self.splits[row.split] += 1
        for slot, label in row.labels.items():
            self.labels[row.split, slot, label] += 1
        return True

    def rows_by_split(self) -> dict[str, int]:
        """Rows per split: train, valid, test, then folds in their order."""
        known = [split for split in SPLITS if split in self.splits]
        return {split: self.splits[split] for split in (*known, *sorted(self.splits.keys() - set(SPLITS)))}

    def labels_of(self, slot: str) -> Counter[str]:
        """Rows per label of a slot, over all splits."""
        counts: Counter[str] = Counter()
        for (_, name, label), rows in self.labels.items():
            if name == slot:
                counts[label] += rows
        return counts


def identity(row: Row) -> str:
    """The id of a row: its path without suffix, and its span where it has one."""
    if row.id is not None:
        return row.id
    name = plain(row.audio).rpartition(".")[0]
    return name if row.start_seconds is None else f"{name}#{row.start_seconds:g}"


def tallied(rows: Iterable[Row], tally: Tally) -> Iterable[tuple[str, Row]]:
    """Rows with their ids, counted, without repetitions."""
    for row in rows:
        name = identity(row)
        if tally.count(row, name):
            yield name, row


def write_manifest(
    out: Path,
    root: Path,
    rows: Iterable[Row],
    tally: Tally,
    header: Callable[[], Mapping[str, Any]],
    force: bool,
) -> None:
    """Write rows and then put the header, which is asked for last, before them.

    `root` is the folder that audio paths are relative to; in the file they are relative to the manifest. A
    name that ends in .gz is compressed. Raises OutputExists without `force`. Side effects: files beside
    `out`.
    """
    if out.exists() and not force:
        raise OutputExists(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = Path(os.path.relpath(os.path.realpath(root), os.path.realpath(out.parent))).as_posix()
    partial = out.with_name(f".{out.name}.partial")
    try:
        with tempfile.TemporaryFile(dir=out.parent) as body:
            for name, row in tallied(rows, tally):
                body.write(_encoded(_line(name, row, prefix)))
            body.seek(0)
            with partial.open("wb") as file:
                _copy(header(), body, file, compressed=out.suffix == ".gz")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _copy(header: Mapping[str, Any], body: IO[bytes], file: IO[bytes], compressed: bool) -> None:
    if not compressed:
        file.write(_encoded(header))
        shutil.copyfileobj(body, file)
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as zipped:
        zipped.write(_encoded(header))
        shutil.copyfileobj(body, zipped)


def _line(name: str, row: Row, prefix: str) -> dict[str, Any]:
    audio = row.audio if prefix == "." else f"{prefix}/{row.audio}"
    if row.audio.startswith("../"):  # beside the corpus folder
        audio = posixpath.normpath(audio)
    line: dict[str, Any] = {"id": name, "audio": audio}
    if row.start_seconds is not None:
        line["start_seconds"] = row.start_seconds
    if row.end_seconds is not None:
        line["end_seconds"] = row.end_seconds
    line["split"], line["labels"] = row.split, row.labels
    if row.speaker is not None:
        line["speaker"] = row.speaker
    for key, value in row.extra.items():
        line.setdefault(key, value)
    return line


def _encoded(line: Mapping[str, Any]) -> bytes:
    # A file name that is no UTF-8 holds lone surrogates; their backslash form is a valid JSON escape.
    return (ENCODER.encode(line) + "\n").encode("utf-8", "backslashreplace")
