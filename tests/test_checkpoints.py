from __future__ import annotations

import argparse
import collections
import enum
import io
import pickle
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import MiniBatchKMeans

from speechprompt.checkpoints import (
    Opaque,
    open_archive_members,
    read_checkpoint,
    read_dictionary,
    read_kmeans_centres,
    tensors_of,
    without_prefix,
)
from speechprompt.errors import CheckpointError

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


class Colour(enum.Enum):
    RED = "red"


class Touch:
    """Unpickled by anyone else, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def saved(tree: Any, legacy: bool = False, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file, _use_new_zipfile_serialization=not legacy, **options)
    return file.getvalue()


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    return {
        "module.weight": base,
        "module.tied": base,
        "module.transposed": base.T,
        "module.row": base[2],
        "module.half": torch.randn(3).half(),
        "module.bfloat16": torch.randn(3).bfloat16(),
        "module.steps": torch.arange(7),
        "module.mask": torch.tensor([True, False]),
        "module.scalar": torch.tensor(3.5),
        "module.empty": torch.zeros(0, 4),
        "module.parameter": torch.nn.Parameter(torch.randn(2)),
    }


def tree() -> dict[str, Any]:
    return {
        "model": collections.OrderedDict(state()),
        "args": argparse.Namespace(decoder_attention_heads=16, name="gslm", seeds=[1, 2]),
        "colour": Colour.RED,
        "numbers": {
            "scalar": np.float64(2.5),
            "array": np.arange(6, dtype=np.int32).reshape(2, 3),
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "big_endian": np.arange(3, dtype=">i4"),
            "text": np.array(["a", "bc"]),
            "objects": np.array([{"a": 1}, None], dtype=object),
        },
        "counter": collections.Counter(a=2),
        "default": collections.defaultdict(list, {"x": [1]}),
        "queue": collections.deque([1, 2], maxlen=4),
        "sets": [{1, 2}, frozenset({"a"}), (1, "b"), b"bytes", bytearray(b"c"), 2**80, -1, 1.5, None, 1j],
        "last_optimizer_state": {"state": torch.zeros(4)},
    }


LAYOUTS = [
    {},
    {"legacy": True},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5},
    {"legacy": True, "pickle_protocol": 4},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_reads_as_it_was(layout: dict[str, Any]) -> None:
    original = tree()
    read = read_checkpoint(saved(original, **layout))
    for name, tensor in original["model"].items():
        assert read["model"][name].dtype == tensor.dtype
        assert torch.equal(read["model"][name], tensor), name
    tied, weight = read["model"]["module.tied"], read["model"]["module.weight"]
    assert tied.data_ptr() == weight.data_ptr()
    assert isinstance(read["args"], Opaque)
    assert (read["args"].decoder_attention_heads, read["args"]["name"]) == (16, "gslm")
    assert read["args"].get("absent") is None
    assert not hasattr(read["args"], "absent")
    assert read["colour"].args == ("red",)
    numbers = read["numbers"]
    assert numbers["scalar"] == 2.5
    for name in ("array", "fortran", "big_endian", "text"):
        assert np.array_equal(numbers[name], original["numbers"][name]), name
        assert numbers[name].dtype.isnative
    assert numbers["objects"].items == [{"a": 1}, None]
    assert read["counter"] == {"a": 2}
    assert read["default"] == {"x": [1]}
    assert read["queue"] == [1, 2]
    assert read["sets"] == original["sets"]
    assert "last_optimizer_state" not in read


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol(protocol: int) -> None:
    original = {k: v for k, v in tree().items() if k in ("args", "numbers", "sets", "counter", "colour")}
    read = read_checkpoint(
        saved(original, pickle_protocol=protocol) if protocol >= 2 else _zip_of(original, protocol)
    )
    assert read["sets"] == original["sets"]
    assert read["args"].decoder_attention_heads == 16
    assert np.array_equal(read["numbers"]["fortran"], original["numbers"]["fortran"])


def _zip_of(tree: Any, protocol: int = 2, **members: bytes) -> bytes:
    return zip_with(pickle.dumps(tree, protocol), **members)


def zip_with(pickled: bytes, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def test_names_of_tensors_and_prefixes() -> None:
    read = read_checkpoint(saved({"model": state(), "list": [torch.ones(1)]}))
    names = tensors_of(read)
    assert "model.module.weight" in names
    assert "list.0" in names
    assert "weight" in without_prefix(tensors_of(read["model"]))
    assert list(without_prefix({"module.a": torch.ones(1), "b": torch.ones(1)})) == ["module.a", "b"]


@pytest.fixture
def omegaconf(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Classes under the names and with the attributes of OmegaConf's, whose modules vanish after pickling."""
    made: dict[str, Any] = {}
    for module, names in {
        **{parent: [] for parent in ("omegaconf", "fairseq", "fairseq.data")},
        "omegaconf.dictconfig": ["DictConfig"],
        "omegaconf.listconfig": ["ListConfig"],
        "omegaconf.nodes": ["AnyNode"],
        "fairseq.data.dictionary": ["Dictionary"],
    }.items():
        fake = types.ModuleType(module)
        for name in names:
            made[name] = type(name, (), {"__module__": module})
            setattr(fake, name, made[name])
        monkeypatch.setitem(sys.modules, module, fake)
    return made


def test_omegaconf_becomes_plain_and_dictionary_opaque(omegaconf: dict[str, Any]) -> None:
    def node(kind: str, **attributes: Any) -> Any:
        thing = omegaconf[kind]()
        vars(thing).update(attributes)
        return thing

    root = node("DictConfig", _metadata=argparse.Namespace(), _parent=None)
    layers = node("ListConfig", _parent=root, _content=[node("AnyNode", _parent=root, _val=6)])
    model = node("DictConfig", _parent=root, _content={"heads": node("AnyNode", _parent=root, _val=16)})
    root._content = {"model": model, "layers": layers}
    dictionary = node("Dictionary", symbols=["<s>", "1"], indices={"<s>": 0, "1": 1})
    content = saved({"cfg": root, "task_state": {"dictionaries": [dictionary]}})
    for module in [name for name in sys.modules if name.startswith(("omegaconf", "fairseq"))]:
        del sys.modules[module]
    read = read_checkpoint(content)
    assert read["cfg"] == {"model": {"heads": 16}, "layers": [6]}
    [dictionary] = read["task_state"]["dictionaries"]
    assert dictionary.name == "fairseq.data.dictionary.Dictionary"
    assert dictionary.symbols == ["<s>", "1"]


def test_unknown_containers_keep_their_items() -> None:
    class Ordered(dict):  # type: ignore[type-arg]
        pass

    class Row(list):  # type: ignore[type-arg]
        pass

    Ordered.__qualname__, Row.__qualname__ = "Ordered", "Row"
    globals().update(Ordered=Ordered, Row=Row)
    read = read_checkpoint(saved({"d": Ordered(a=1), "l": Row([1, 2])}))
    assert read["d"]["a"] == 1
    assert read["l"].items == [1, 2]


def test_a_list_that_contains_itself() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    read = read_checkpoint(saved(endless))
    assert read[1] is read
    assert tensors_of(read) == {}


# --- k-means files


def kmeans() -> MiniBatchKMeans:
    frames = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    return MiniBatchKMeans(5, random_state=0, n_init=1, batch_size=64).fit(frames)


COMPRESSIONS = [0, True, ("zlib", 9), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)]


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_kmeans_written_by_joblib(tmp_path: Path, compress: Any, protocol: int) -> None:
    model = kmeans()
    joblib.dump(model, tmp_path / "km.bin", compress=compress, protocol=protocol)
    assert np.array_equal(read_kmeans_centres(tmp_path / "km.bin").numpy(), model.cluster_centers_)


def test_kmeans_without_alignment_as_old_joblib_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joblib import numpy_pickle

    made = numpy_pickle.NumpyArrayWrapper.__init__

    def old(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        del self.numpy_array_alignment_bytes

    monkeypatch.setattr(numpy_pickle.NumpyArrayWrapper, "__init__", old)
    model = kmeans()
    model.cluster_centers_ = np.asfortranarray(model.cluster_centers_.astype(np.float64))
    joblib.dump(model, tmp_path / "km.bin")
    assert np.allclose(read_kmeans_centres(tmp_path / "km.bin").numpy(), model.cluster_centers_)


def test_kmeans_of_a_class_that_no_longer_exists(tmp_path: Path) -> None:
    content = pickle.dumps(kmeans(), 4).replace(b"sklearn.cluster._kmeans", b"sklearn.cluster.k_means")
    assert read_kmeans_centres(content).shape == (5, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04N.",
        pickle.dumps(MiniBatchKMeans(5)),
        pickle.dumps({"cluster_centers_": 3}),
        b"\x1f\x8b\x08\x00",
        b"\x04\x22\x4d\x18abc",
    ],
    ids=["empty", "none", "unfitted", "dict", "cut gzip", "lz4"],
)
def test_what_is_no_kmeans_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="k-means"):
        read_kmeans_centres(content)


def test_centres_that_are_not_numbers_are_refused() -> None:
    model = kmeans()
    model.cluster_centers_[1, 1] = np.nan
    with pytest.raises(CheckpointError, match="finite"):
        read_kmeans_centres(pickle.dumps(model))


# --- hostile material


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
        read_checkpoint(_zip_of({}, byteorder=b"big"))


def test_compressed_members_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bytes(10_000_000)))
    with pytest.raises(CheckpointError):
        read_checkpoint(file.getvalue())


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


def refusal(read: Callable[[bytes], Any], content: bytes) -> str:
    """The refusal of some content, empty when it was read; any other error is the test's failure."""
    try:
        read(content)
    except CheckpointError as error:
        return str(error)
    return ""


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


# --- archives and dictionaries


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_of_an_archive(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "lm.tgz"
    path.write_bytes(
        tar_of({"lm/checkpoint_best.pt": saved(tree()), "lm/dict.txt": b"0 1\n1 1\n", "x": b""}, mode)
    )
    members = open_archive_members(path, ["checkpoint_best.pt", "dict.txt"])
    assert read_dictionary(members["dict.txt"]) == ["0", "1"]
    assert "module.weight" in read_checkpoint(members["checkpoint_best.pt"])["model"]


def test_archives_that_are_not_right(tmp_path: Path) -> None:
    path = tmp_path / "lm.tgz"
    whole = tar_of({"../../dict.txt": b"0 1\n", "filler": np.random.default_rng(0).bytes(30_000)})
    path.write_bytes(whole)
    assert open_archive_members(path, ["dict.txt"]) == {"dict.txt": b"0 1\n"}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CheckpointError, match=r"checkpoint_best\.pt"):
        open_archive_members(path, ["checkpoint_best.pt"])
    for content in (whole[:15_000], b"", b"no tar", tar_of({"a/dict.txt": b"0 1\n", "b/dict.txt": b"1 1\n"})):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            open_archive_members(path, ["dict.txt"])


def test_links_and_bombs_in_archives(tmp_path: Path) -> None:
    path = tmp_path / "lm.tgz"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        link = tarfile.TarInfo("dict.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    path.write_bytes(file.getvalue())
    with pytest.raises(CheckpointError, match=r"dict\.txt"):
        open_archive_members(path, ["dict.txt"])
    path.write_bytes(tar_of({"dict.txt": bytes(80 * 2**20)}))
    with pytest.raises(CheckpointError):
        open_archive_members(path, ["dict.txt"])


def test_dictionaries(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("71 4839\n12 <pad> 3\n63 1 #fairseq:overwrite\n", encoding="utf-8")
    assert read_dictionary(path) == ["71", "12 <pad>", "63"]
    for content in (b"", b"71\n", b"71 x\n", b"71 1\n71 2\n", b"\xff 1\n", b" 1\n", b"71 1\n\n72 1\n"):
        with pytest.raises(CheckpointError):
            read_dictionary(content)


@FUZZ
@given(st.binary(max_size=60))
def test_any_dictionary_raises_nothing_else(content: bytes) -> None:
    assert "\n" not in refusal(read_dictionary, content)


# --- the reference's own files


@pytest.mark.golden
def test_golden_checkpoints(shared: Path) -> None:
    paths = sorted((shared / "golden").glob("*/*.pt"))
    assert paths
    for path in paths:
        read = tensors_of(read_checkpoint(path)["model"])
        if path.name != "hubert_checkpoint.pt":  # its dictionary class is not installed
            expected = tensors_of(torch.load(path, weights_only=True)["model"])
            assert read.keys() == expected.keys()
            assert all(torch.equal(read[name], expected[name]) for name in read), path


@pytest.mark.golden
def test_golden_kmeans(shared: Path) -> None:
    case = shared / "golden" / "k_hubert_base"
    with np.load(case / "golden.npz") as golden:
        assert np.array_equal(read_kmeans_centres(case / "km.bin").numpy(), golden["km/centers"])
