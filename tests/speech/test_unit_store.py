"""The unit store: what goes in comes out, and damage costs no more than encoding again."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import AudioError
from speechprompt.speech import unit_store
from speechprompt.speech.unit_store import UnitStore, default_folder, file_key, list_stores
from speechprompt.speech.units import Units, deduplicate


@st.composite
def any_units(draw: st.DrawFn) -> Units:
    ids = draw(st.lists(st.integers(0, 5_000), max_size=30))
    durations = draw(st.none() | st.lists(st.integers(1, 900), min_size=len(ids), max_size=len(ids)))
    f0 = draw(st.none() | st.lists(st.floats(-5, 5, width=32), min_size=len(ids), max_size=len(ids)))
    return Units(ids, durations, f0)


def some(count: int, prefix: str = "k") -> dict[str, Units]:
    return {f"{prefix}{i}": deduplicate([i % 90, i % 90, 7]) for i in range(count)}


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), any_units(), max_size=8))
def test_what_went_in_comes_out_in_this_process_and_the_next(
    tmp_path_factory: pytest.TempPathFactory, units: dict[str, Units]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = UnitStore(folder, "fingerprint", "fp32")
    store.put_many(units)
    assert store.get_many([*units, "absent"]) == units
    assert UnitStore(folder, "fingerprint", "fp32").get_many(units) == units
    assert store.get("absent") is None
    assert store.notices == []


def test_fingerprint_and_precision_are_part_of_the_address(tmp_path: Path) -> None:
    UnitStore(tmp_path, "a", "fp32").put_many(some(3))
    for fingerprint, precision in (("a", "bf16"), ("b", "fp32")):
        assert UnitStore(tmp_path, fingerprint, precision).get_many(some(3)) == {}


def test_what_a_caller_does_to_units_does_not_reach_the_store(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, "a", "fp32")
    store.put_many(some(1))
    found = store.get("k0")
    assert found is not None
    found.ids[:] = 99
    assert store.get("k0") == some(1)["k0"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "other_schema"])
def test_a_damaged_shard_is_dropped_with_a_notice(damage: str, tmp_path: Path) -> None:
    store = UnitStore(tmp_path, "a", "fp32")
    store.put_many(some(50, "bad"))
    (shard,) = store.folder.glob("*.parquet")
    store.put_many(some(50, "good"))
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[300] ^= 0xFF
    elif damage == "empty":
        content = bytearray()
    elif damage == "foreign":
        content = bytearray(b"not parquet at all" * 20)
    if damage == "other_schema":
        unit_store.pq.write_table(unit_store.pa.table({"key": ["bad0"], "ids": [["x"]]}), shard)
    else:
        shard.write_bytes(content)
    again = UnitStore(tmp_path, "a", "fp32")
    assert again.get_many(some(50, "bad")) == {}
    assert again.get_many(some(50, "good")) == some(50, "good")
    assert len(again.notices) == 1
    assert str(shard) in again.notices[0]
    assert "\n" not in again.notices[0]
    assert not shard.exists()


@pytest.mark.parametrize("error", [OSError("too many open files"), MemoryError()])
def test_a_shard_that_cannot_be_read_now_stays(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    UnitStore(tmp_path, "a", "fp32").put_many(some(5))
    store = UnitStore(tmp_path, "a", "fp32")

    def fail(self: Path) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        assert store.get_many(some(5)) == store.get_many(some(5)) == {}
    assert len(store.notices) == 1
    assert "cannot be read now" in store.notices[0]
    assert UnitStore(tmp_path, "a", "fp32").get_many(some(5)) == some(5)


def test_a_shard_that_another_process_removed_is_a_miss(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, "a", "fp32")
    store.put_many(some(5))
    store.get("k1")
    UnitStore(tmp_path, "a", "fp32").clear()
    store._tables.clear()  # as if memory had been needed for other shards
    assert store.get_many(some(5)) == {}
    assert len(store) == 0


def test_units_that_were_lost_can_be_stored_again(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, "a", "fp32")
    for lose in (lambda path: path.unlink(), lambda path: path.write_bytes(b"damaged")):
        store.put_many(some(5))
        assert store.get_many(some(5)) == some(5)
        (shard,) = store.folder.glob("*.parquet")
        lose(shard)
        store._tables.clear()
        assert store.get_many(some(5)) == {}
        store.put_many(some(5))
        assert store.get_many(some(5)) == some(5)


def test_many_small_shards_are_merged_and_nothing_is_lost(tmp_path: Path) -> None:
    store, reader = UnitStore(tmp_path, "a", "fp32"), UnitStore(tmp_path, "a", "fp32")
    everything = some(100)
    for number, (key, units) in enumerate(everything.items()):
        store.put_many({key: units})
        if number == 60:
            assert len(reader.get_many(everything)) == 61
    reader._tables.clear()
    assert len(list(store.folder.glob("*.parquet"))) < 70
    assert store.get_many(everything) == reader.get_many(everything) == everything


def test_a_reader_follows_a_merge_by_another_process(tmp_path: Path) -> None:
    store, reader = UnitStore(tmp_path, "a", "fp32"), UnitStore(tmp_path, "a", "fp32")
    everything = some(64)
    for key, units in everything.items():
        store.put_many({key: units})
    assert reader.get_many(everything) == everything
    reader._tables.clear()  # as if memory had been needed for other shards
    store.put_many(some(1, "last"))
    assert len(list(store.folder.glob("*.parquet"))) == 1
    assert reader.get_many(everything) == everything


def test_no_flipped_bit_ever_changes_units(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, "a", "fp32")
    expected = some(40)
    store.put_many(expected)
    (shard,) = store.folder.glob("*.parquet")
    content = shard.read_bytes()
    for position in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        shard.write_bytes(damaged)
        for key, units in UnitStore(tmp_path, "a", "fp32").get_many(expected).items():
            assert units == expected[key], position


def test_a_size_limit_drops_the_oldest(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, "a", "fp32", size_limit_bytes=12_000)
    for number in range(8):
        store.put_many(some(60, f"{number}-"))
        for age, path in enumerate(
            sorted(store.folder.glob("*.parquet"), key=lambda p: p.stat().st_mtime_ns)
        ):
            os.utime(path, ns=(age + 1, age + 1))
    (summary,) = list_stores(tmp_path)
    assert 0 < summary.size_bytes <= 12_000
    assert store.get("0-1") is None
    assert store.get("7-1") is not None


def test_a_folder_that_cannot_be_written_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = UnitStore(tmp_path / "file", "a", "fp32")
    store.put_many(some(1))
    assert store.get("k0") is None
    assert len(store.notices) == 1


def test_stores_are_listed_and_cleared(tmp_path: Path, fresh_home: Path) -> None:
    assert list_stores() == []
    store = UnitStore(None, "hubert", "bf16")
    store.put_many(some(7))
    assert default_folder() == fresh_home / "units"
    (summary,) = list_stores()
    assert (summary.tokenizer_fingerprint, summary.precision, summary.utterance_count) == (
        "hubert",
        "bf16",
        7,
    )
    assert summary.size_bytes > 0
    summary.clear()
    assert len(store) == 0
    assert list_stores()[0].utterance_count == 0


def _write(folder: str, prefix: str) -> None:
    store = UnitStore(folder, "a", "fp32")
    for number in range(80):
        store.put_many(some(2, f"{prefix}{number}-"))
        store.get_many(some(2, f"0{number}-"))


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tmp_path), str(n))) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = UnitStore(tmp_path, "a", "fp32")
    expected = {key: u for n in range(2) for i in range(80) for key, u in some(2, f"{n}{i}-").items()}
    assert store.get_many(expected) == expected
    assert store.notices == []


_COUNT_THREADS = """
import os, sys
from speechprompt.speech.unit_store import UnitStore
before = len(os.listdir("/proc/self/task"))
assert UnitStore(sys.argv[1], "a", "fp32").get_many(["k0", "k1"]).keys() == {"k0", "k1"}
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of Linux")
def test_reading_leaves_no_threads_that_could_abort_the_process_at_its_end(tmp_path: Path) -> None:
    UnitStore(tmp_path, "a", "fp32").put_many(some(2))
    command = [sys.executable, "-c", _COUNT_THREADS, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "0"


def test_a_shard_with_other_columns_is_damage(tmp_path: Path) -> None:
    store = UnitStore(tmp_path, "a", "fp32")
    content = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": ["k0"], "ids": [["one"]]}), content)
    shard = content.getvalue().to_pybytes()
    store.folder.mkdir(parents=True)
    (store.folder / f"{hashlib.sha256(shard).hexdigest()}.parquet").write_bytes(shard)
    assert store.get_many(["k0"]) == {}
    (notice,) = store.notices
    assert "columns are not those of a unit store" in notice
    assert list(store.folder.glob("*.parquet")) == []


def test_file_keys_follow_bytes_and_spans_not_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one.wav", tmp_path / "two.wav"
    one.write_bytes(b"sound")
    two.write_bytes(b"sound")
    assert file_key(one) == file_key(two)
    keys = {file_key(one), file_key(one, 0.0), file_key(one, 0.0, 1.0), file_key(one, None, 1.0)}
    assert len(keys) == 4
    before = file_key(two)
    two.write_bytes(b"noise")
    os.utime(two, ns=(1, 1))
    assert file_key(two) != before
    with pytest.raises(AudioError, match="cannot be read"):
        file_key(tmp_path / "absent.wav")
    with pytest.raises(AudioError, match=r"cannot be read \(embedded null byte\); check the path"):
        file_key("a\0b.wav")


def test_twenty_thousand_rows_go_in_and_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ids = random.integers(0, 100, (20_000, 30))
    units = {f"key{i}": Units(row) for i, row in enumerate(ids)}
    store = UnitStore(tmp_path, "a", "fp32")
    store.put_many(units)
    found = UnitStore(tmp_path, "a", "fp32").get_many(units)
    assert len(found) == 20_000
    assert found["key777"] == units["key777"]
