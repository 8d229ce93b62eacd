"""Units on disk, so that no clip is encoded twice: a cache in Parquet shards, never a format to exchange.

A store belongs to one tokenizer fingerprint and precision; rows are keyed by content (`file_key`). Shards are
written whole and never changed, so several processes may share a store without locks.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechprompt.downloads import home
from speechprompt.errors import AudioError, UnitsError
from speechprompt.speech.units import Units

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("ids", pa.list_(pa.int64())),
        ("durations", pa.list_(pa.int64())),
        ("f0", pa.list_(pa.float32())),
    ]
)
DESCRIPTION = "store.json"
_OPEN_SHARDS = 16  # tables kept in memory
_MOST_SMALL_SHARDS = 64  # single predictions write tiny shards; beyond this many they are merged
_SMALL_BYTES = 1 << 20
_DAMAGE = (pa.ArrowException, UnitsError, ValueError, TypeError, KeyError)
_UNREADABLE = (OSError, MemoryError)  # now, and perhaps not later; Arrow's errors of memory are of these, too


def default_folder() -> Path:
    """Where unit stores lie unless told otherwise."""
    return home() / "units"


def file_key(path: str | Path, start_seconds: float | None = None, end_seconds: float | None = None) -> str:
    """The key of a file, or of a span of one: SHA-256 (hex) of its bytes and the span's ends.

    The file's hash is remembered within the process while its size and time stay the same. AudioError: the
    file cannot be read.
    """
    try:
        status = Path(path).stat()
        digest = _file_digest(Path(path).absolute(), status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{path} cannot be read ({reason}); check the path") from error
    if start_seconds is None and end_seconds is None:
        return digest
    return hashlib.sha256(f"{digest}:{start_seconds}:{end_seconds}".encode()).hexdigest()


@lru_cache(maxsize=1 << 17)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class UnitStore:
    """Units of one tokenizer fingerprint and precision, by key.

    `folder` holds all stores (None: `default_folder()`); this one is a subfolder. With `size_limit_bytes` the
    shards written first go when the store outgrows it. A cache never fails its caller: a damaged shard is
    dropped and a folder that cannot be written is left alone, with a line in `notices`. Safe in threads and
    processes.
    """

    def __init__(
        self,
        folder: str | Path | None,
        tokenizer_fingerprint: str,
        precision: str,
        size_limit_bytes: int | None = None,
    ) -> None:
        self.tokenizer_fingerprint, self.precision = tokenizer_fingerprint, precision
        self.size_limit_bytes = size_limit_bytes
        name = hashlib.sha256(f"{tokenizer_fingerprint}\0{precision}".encode()).hexdigest()[:16]
        self.folder = Path(folder or default_folder()) / name
        self.notices: list[str] = []
        self._lock = threading.RLock()
        self._shard_of: dict[str, str] = {}  # key -> shard name
        self._seen: set[str] = set()
        self._tables: OrderedDict[str, tuple[pa.Table, dict[str, int]]] = OrderedDict()

    def get(self, key: str) -> Units | None:
        """The units of a key, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Units]:
        """The units of those keys that are stored."""
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            if any(key not in self._shard_of for key in wanted):
                self._refresh()
            indexed = [key for key in wanted if key in self._shard_of]
            found = self._read(indexed)
            if len(found) < len(indexed):
                self._refresh()  # another process merged or removed the shard meanwhile
                found |= self._read([key for key in indexed if key not in found])
        return found

    def put_many(self, units: Mapping[str, Units]) -> None:
        """Store units; one shard file, moved into place when whole. Side effects: files, and `notices`."""
        if not units:
            return
        table = _table(units)
        with self._lock:
            try:
                self._write(table)
                self._merge_small_shards()
                self._keep_within_limit()
            except OSError as error:
                self.notices.append(f"units were not stored in {self.folder} ({error.strerror or error})")

    def clear(self) -> None:
        """Remove every shard of this store."""
        with self._lock:
            _remove_files(self.folder)
            self._refresh()

    def __len__(self) -> int:
        return len(self.keys())

    def keys(self) -> list[str]:
        """The keys of all that is stored."""
        with self._lock:
            self._refresh()
            return list(self._shard_of)

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def _refresh(self) -> None:
        """Bring the index up to date with the shards on disk, which other processes write too."""
        present = {path.name for path in self._shards()}
        self._forget(self._seen - present)
        fresh = sorted(present - self._seen)
        self._seen = present
        for name in fresh:
            if (loaded := self._load(name)) is not None:
                self._shard_of.update(dict.fromkeys(loaded[1], name))

    def _forget(self, names: Set[str]) -> None:
        """Take shards out of the index; equal content may come back under the same name."""
        if names:
            self._seen -= names
            self._shard_of = {key: name for key, name in self._shard_of.items() if name not in names}
            for name in names:
                self._tables.pop(name, None)

    def _load(self, name: str) -> tuple[pa.Table, dict[str, int]] | None:
        """A shard's table and the row of each key; None when it is gone, or damaged and hence dropped."""
        if name in self._tables:
            self._tables.move_to_end(name)
            return self._tables[name]
        path = self.folder / name
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != path.stem:
                raise ValueError("its bytes do not match its name")
            table = _decoded(content)
            rows = {key: row for row, key in enumerate(table["key"].to_pylist())}
        except FileNotFoundError:
            self._forget({name})
            return None
        except _UNREADABLE as error:
            self._pass_over(path, error)
            return None
        except _DAMAGE as error:
            self._drop(path, error)
            return None
        self._tables[name] = (table, rows)
        while len(self._tables) > _OPEN_SHARDS:
            self._tables.popitem(last=False)
        return self._tables[name]

    def _read(self, keys: Iterable[str]) -> dict[str, Units]:
        by_shard: dict[str, list[str]] = {}
        for key in keys:
            if key in self._shard_of:
                by_shard.setdefault(self._shard_of[key], []).append(key)
        found: dict[str, Units] = {}
        for name, members in by_shard.items():
            if (loaded := self._load(name)) is None:
                continue
            table, rows = loaded
            try:
                found |= {key: _units(table, rows[key]) for key in members}
            except _UNREADABLE as error:
                self._pass_over(self.folder / name, error)
            except _DAMAGE as error:
                self._drop(self.folder / name, error)
        return found

    def _pass_over(self, path: Path, error: Exception) -> None:
        """Do without a shard that cannot be read now; it stays."""
        self._forget({path.name})
        self._seen.add(path.name)
        self.notices.append(f"{path} cannot be read now ({_reason(error)}); its clips are encoded again")

    def _drop(self, path: Path, error: Exception) -> None:
        reason = _reason(error)
        self.notices.append(f"{path} is damaged and was removed; its clips are encoded again ({reason})")
        self._forget({path.name})
        try:
            path.unlink(missing_ok=True)
        except OSError:
            self.notices.append(f"{path} could not be removed; delete it by hand")

    def _write(self, table: pa.Table) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        description = {"tokenizer_fingerprint": self.tokenizer_fingerprint, "precision": self.precision}
        if not (self.folder / DESCRIPTION).exists():
            _replace(self.folder / DESCRIPTION, json.dumps(description).encode())
        content = pa.BufferOutputStream()
        pq.write_table(table, content)
        shard = content.getvalue().to_pybytes()
        # named by its hash: Parquet's own checksums leave the footer out, where one bit can hide a column
        name = f"{hashlib.sha256(shard).hexdigest()}.parquet"
        _replace(self.folder / name, shard)

    def _merge_small_shards(self) -> None:
        small = [path for path in self._shards() if _size(path) < _SMALL_BYTES]
        if len(small) <= _MOST_SMALL_SHARDS:
            return
        loaded = [(path, self._load(path.name)) for path in small]
        tables = {path: pair[0] for path, pair in loaded if pair is not None}
        if tables:
            self._write(pa.concat_tables(tables.values()))
        for path in tables:
            path.unlink(missing_ok=True)

    def _keep_within_limit(self) -> None:
        if self.size_limit_bytes is None:
            return
        aged = sorted((path.stat().st_mtime_ns, _size(path), path) for path in self._shards())
        total = sum(size for _, size, _ in aged)
        for _, size, path in aged:
            if total <= self.size_limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _table(units: Mapping[str, Units]) -> pa.Table:
    columns = {
        "key": list(units),
        "ids": [u.ids for u in units.values()],
        "durations": [u.durations for u in units.values()],
        "f0": [u.f0 for u in units.values()],
    }
    return pa.table(columns, schema=_SCHEMA)


def _decoded(content: bytes) -> pa.Table:
    """A shard's table, read on the calling thread.

    `pyarrow.parquet.read_table` leaves threads of Arrow's behind, and a process that exits soon after it may
    be aborted by them (https://github.com/apache/arrow/issues/39862).
    """
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        if not file.schema_arrow.equals(_SCHEMA):
            raise ValueError("its columns are not those of a unit store")
        return file.read(use_threads=False)


def _units(table: pa.Table, row: int) -> Units:
    def stream(name: str) -> Any:
        cell = table[name][row]
        return None if not cell.is_valid else cell.values.to_numpy(zero_copy_only=False)

    ids, durations, f0 = stream("ids"), stream("durations"), stream("f0")
    # copies: a caller may write into what it gets
    return Units(
        np.array(ids), None if durations is None else np.array(durations), f0 if f0 is None else f0.copy()
    )


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """One store on disk: whose units, how many utterances, how many bytes."""

    folder: Path
    tokenizer_fingerprint: str
    precision: str
    utterance_count: int
    size_bytes: int

    def clear(self) -> None:
        """Remove the store's shards."""
        _remove_files(self.folder)


def _remove_files(folder: Path) -> None:
    for pattern in ("*.parquet", ".*.tmp"):  # a killed process leaves temporary files
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def list_stores(folder: str | Path | None = None) -> list[StoreSummary]:
    """Every store below a folder (None: `default_folder()`), for `cache list` and `cache clear`."""
    return list(_summaries(Path(folder or default_folder())))


def _summaries(folder: Path) -> Iterator[StoreSummary]:
    for description in sorted(folder.glob(f"*/{DESCRIPTION}")):
        try:
            stated = json.loads(description.read_text(encoding="utf-8"))
            whose = str(stated["tokenizer_fingerprint"]), str(stated["precision"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        shards = sorted(description.parent.glob("*.parquet"))
        counts = [_row_count(path) for path in shards]
        yield StoreSummary(description.parent, *whose, sum(counts), sum(_size(path) for path in shards))


def _row_count(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0
