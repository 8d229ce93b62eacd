from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreign_files import Touch, kmeans, refusal, saved, tree, zip_of, zip_with
from speechprompt.checkpoints import (
    read_checkpoint,
    read_kmeans_centres,
    tensors_of,
)
from speechprompt.errors import CheckpointError

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_executed(tmp_path: Path, legacy: bool) -> None:
    target = tmp_path / "created"
    content = saved({"model": {"w": torch.ones(2)}, "trap": Touch(target)}, legacy)
    read = read_checkpoint(content)
    assert not target.exists()
    assert torch.equal(read["model"]["w"], torch.ones(2))
    torch.load(io.BytesIO(content), weights_only=False)  # the trap is real
    assert target.exists()


def test_nothing_is_executed_in_kmeans_files(tmp_path: Path) -> None:
    model = kmeans()
    model.trap = Touch(tmp_path / "created")
    joblib.dump(model, tmp_path / "km.bin")
    assert read_kmeans_centres(tmp_path / "km.bin").shape == (5, 4)
    assert not (tmp_path / "created").exists()


HOSTILE = {
    "unset memo": b"\x80\x02h\x05.",
    "long string": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0fabc.",
    "long number": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "endless decimal": b"L" + b"9" * 100_000 + b"L\n.",
    "deep lists": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "deep tuples": b"\x80\x02N" + b"\x85" * 100_000 + b".",
    "deep tuple as key": b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.",
    "list as key": b"\x80\x02}]Ns.",
    "empty stack": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "extension": b"\x80\x02\x82\x01.",
    "class attributes": b"\x80\x02cspeechprompt.errors\nCheckpointError\n}U\x01aK\x01sb.",
    "call of a number": b"\x80\x02K\x01)R.",
    "bytes of a size": b"\x80\x03cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "bytearray of a size": b"\x80\x03cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "text as persistent id": b"P0\n.",
    "strange persistent id": b"\x80\x02K\x01\x85Q.",
    "no stop": b"\x80\x02N",
}


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles(pickled: bytes) -> None:
    for content in (zip_with(pickled), pickled):
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(content)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        read_kmeans_centres(pickled)


def test_a_far_memo_index_costs_nothing() -> None:
    assert read_checkpoint(zip_with(b"\x80\x02]r\xff\xff\xff\x7f.")) == []


def test_shared_branches_do_not_explode() -> None:
    """Two references to the level below, sixty levels: 2**60 paths."""
    levels: list[Any] = [torch.ones(1)]
    for _ in range(60):
        levels = [levels, levels]
    assert len(tensors_of(read_checkpoint(saved({"model": levels})))) == 1


def pickled_tensor(storage: tuple[Any, ...], offset: int, size: Any, stride: Any) -> bytes:
    class Writer(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return storage if isinstance(thing, torch.UntypedStorage) else None

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            rebuild = torch._utils._rebuild_tensor_v2
            return rebuild, (torch.UntypedStorage(0), offset, size, stride, False, collections.OrderedDict())

    file = io.BytesIO()
    Writer(file, 2).dump({"w": Tensor()})
    return file.getvalue()


@pytest.mark.parametrize(
    ("count", "offset", "size", "stride"),
    [
        (2**50, 0, (2**50,), (1,)),
        (4, 0, (5,), (1,)),
        (4, 3, (2,), (1,)),
        (4, -1, (1,), (1,)),
        (4, 0, (2,), (-1,)),
        (4, 0, (2**40,), (0,)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (-1,), (1,)),
        (4, 0, (2.0,), (1,)),
        (4, "0", (2,), (1,)),
        (-4, 0, (2,), (1,)),
        (3, 0, (2,), (1,)),
        (5, 0, (2,), (1,)),
    ],
)
def test_tensors_outside_their_storage(count: Any, offset: Any, size: Any, stride: Any) -> None:
    storage = ("storage", torch.FloatStorage, "0", "cpu", count)
    content = zip_with(pickled_tensor(storage, offset, size, stride), **{"data/0": bytes(16)})
    with pytest.raises(CheckpointError):
        read_checkpoint(content)


def test_big_endian_is_refused() -> None:
    with pytest.raises(CheckpointError, match="big-endian"):
        read_checkpoint(zip_of({}, byteorder=b"big"))


def test_compressed_members_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bytes(10_000_000)))
    with pytest.raises(CheckpointError):
        read_checkpoint(file.getvalue())


def test_storages_that_share_their_bytes_in_the_file() -> None:
    """Overlapping members: a small file must not become many times its size."""
    storages = [torch.UntypedStorage(0) for _ in range(8)]

    class Writer(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            if isinstance(thing, torch.UntypedStorage):
                key = next(i for i, storage in enumerate(storages) if storage is thing)
                return ("storage", torch.ByteStorage, str(key), "cpu", 2000)
            return None

    file = io.BytesIO()
    Writer(file, 2).dump(storages)
    with pytest.raises(CheckpointError, match="16000 bytes of tensors are declared"):
        read_checkpoint(zip_with(file.getvalue(), **{"data/0": bytes(2000)}))


def test_absent_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path)
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match=r"page\.pt cannot be read as a torch checkpoint"):
        read_checkpoint(tmp_path / "page.pt")


def _joblib_bytes(**options: Any) -> bytes:
    file = io.BytesIO()
    joblib.dump(kmeans(), file, **options)
    return file.getvalue()


READERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "zip": (saved(tree()), read_checkpoint),
    "legacy": (saved(tree(), legacy=True), read_checkpoint),
    "joblib": (_joblib_bytes(), read_kmeans_centres),
    "compressed": (_joblib_bytes(compress=("gzip", 3)), read_kmeans_centres),
    "pickle": (zip_with(pickle.dumps({k: v for k, v in tree().items() if k != "model"}, 4)), read_checkpoint),
}


@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(st.data())
def test_flipped_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    content, read = READERS[kind]
    damaged = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        damaged[position] = data.draw(st.integers(0, 255))
    assert "\n" not in refusal(read, bytes(damaged))


@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(st.data())
def test_cut_files_are_refused(kind: str, data: st.DataObject) -> None:
    content, read = READERS[kind]
    length = data.draw(st.integers(0, len(content) - 1))
    if kind == "joblib" and length >= len(content) - 200:
        length -= 200
    with pytest.raises(CheckpointError):
        read(content[:length])


@FUZZ
@given(st.binary(max_size=200))
def test_any_opcodes_raise_nothing_else(tail: bytes) -> None:
    for read, content in ((read_checkpoint, zip_with(tail)), (read_kmeans_centres, tail)):
        assert "\n" not in refusal(read, content)
