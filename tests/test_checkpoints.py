from __future__ import annotations

import argparse
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from foreign_files import kmeans, saved, state, tree, zip_of
from speechprompt.checkpoints import (
    Opaque,
    read_checkpoint,
    read_kmeans_centres,
    tensors_of,
    without_prefix,
)
from speechprompt.errors import CheckpointError

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
        saved(original, pickle_protocol=protocol) if protocol >= 2 else zip_of(original, protocol)
    )
    assert read["sets"] == original["sets"]
    assert read["args"].decoder_attention_heads == 16
    assert np.array_equal(read["numbers"]["fortran"], original["numbers"]["fortran"])


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
