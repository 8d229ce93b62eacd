"""Files of answers: JSONL (a nested row a clip and task), csv and Parquet (flat, a row a clip, task and slot)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Reader = Callable[[Path], Iterator[Row]]
Writer = Callable[[Path, Path | None, Iterable[Row]], None]

COLUMNS: Mapping[str, str] = {
    "id": "string",
    "source": "string",
    "task": "string",
    "prompt": "string",
    "dtype": "string",
    "copies": "int64",
    "slot": "string",
    "label": "string",
    "score": "double",
    "scores": "string",
    "abstained": "bool",
    "out_of_domain": "double",
    "duration_seconds": "double",
    "unit_count": "int64",
    "window_count": "int64",
    "error": "string",
}
"""Columns of csv and Parquet, a row a clip, task and slot; `scores` holds JSON, `prompt` a hash of the artifact.

`dtype` is what the LM computed in, `copies` at how many other speeds a clip was heard; both are empty in files from
before they were kept.
"""


OLDEST_COLUMNS = ("id", "source", "task", "prompt", "error")
"""What every file of answers has, of whatever age: a table without them is another table."""


def line_of(row: Row) -> str:
    """A row as a line of JSONL."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def flat_rows(row: Row) -> Iterator[Row]:
    """A JSON row as rows of `COLUMNS`, one a slot."""
    shared = {name: row.get(name) for name in COLUMNS}
    for slot, found in (row.get("slots") or {None: None}).items():
        values = {} if found is None else {"label": found["label"], "score": found["score"]}
        if found is not None:
            values["scores"] = json.dumps(found["scores"], ensure_ascii=False)
        yield {**shared, "slot": slot, **values}


def columns_of(path: Path) -> list[str] | None:
    """The columns of a csv or Parquet file; None for JSONL, whose rows differ, and for an empty csv."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), None)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    return None


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(use_threads=False):
            yield from batch.to_pylist()


def _write_jsonl(target: Path, old: Path | None, fresh: Iterable[Row]) -> None:
    with target.open("w", encoding="utf-8") as file:
        for row in _kept(_read_jsonl, old):
            file.write(line_of(row))
        file.writelines(line_of(row) for row in fresh)


def _write_csv(target: Path, old: Path | None, fresh: Iterable[Row]) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(_kept(_read_csv, old))
        writer.writerows(flat for row in fresh for flat in flat_rows(row))


def _write_parquet(target: Path, old: Path | None, fresh: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"string": pa.string(), "double": pa.float64(), "bool": pa.bool_(), "int64": pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    flat = (row for one in fresh for row in flat_rows(one))
    with pq.ParquetWriter(target, schema) as writer:
        for group in _groups(chain(_kept(_read_parquet, old), flat), 10_000):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _kept(read: Reader, old: Path | None) -> Iterator[Row]:
    if old is not None and old.exists():
        yield from (row for row in read(old) if not row.get("error"))


def _groups(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


READERS: Mapping[str, Reader] = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
WRITERS: Mapping[str, Writer] = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}
"""By ending: rows of an old file, and a file of an old one's answers and fresh JSON rows."""
