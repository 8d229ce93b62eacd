"""Files as others write them, for the tests of their readers."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from speechprompt.errors import CheckpointError


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


def zip_of(tree: Any, protocol: int = 2, **members: bytes) -> bytes:
    return zip_with(pickle.dumps(tree, protocol), **members)


def zip_with(pickled: bytes, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def kmeans() -> MiniBatchKMeans:
    frames = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    return MiniBatchKMeans(5, random_state=0, n_init=1, batch_size=64).fit(frames)


def refusal(read: Callable[[bytes], Any], content: bytes) -> str:
    """The refusal of some content, empty when it was read; any other error is the test's failure."""
    try:
        read(content)
    except CheckpointError as error:
        return str(error)
    return ""
