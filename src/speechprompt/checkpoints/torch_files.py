"""torch.save's two layouts, read without torch.load: the zip archive and, before torch 1.6, five pickles in a row."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from speechprompt.checkpoints.inert_pickle import BoundedStream, Constructors, Global, InertUnpickler
from speechprompt.checkpoints.tree import Finisher
from speechprompt.checkpoints.values import VALUES, array_shape

MAX_PICKLE_BYTES = 256 * 2**20
SKIPPED = ("last_optimizer_state", "optimizer_history")
"""Top-level parts of a fairseq checkpoint that only its own training reads; two thirds of its bytes."""

MAX_DEVICES = 2**16

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    **{"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8},
    **{"BoolStorage": torch.bool, "UntypedStorage": torch.uint8},
    **{"ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128},
}
_NAMED_DTYPES = {str(dtype): dtype for dtype in _DTYPES.values()}


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that tensors share: `count` of one type from `start` under a key of the file."""

    key: str
    dtype: torch.dtype
    count: int
    start: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PendingTensor:
    """A tensor while its pickle is read: where it lies in its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def read_torch_file(file: BinaryIO, size: int) -> Any:
    """The tree in a torch file of `size` bytes. Any Exception means that it is not one or is damaged."""
    if file.read(4) == b"PK\x03\x04":
        return _read_zip(file, size)
    file.seek(0)
    return _read_legacy(file, size)


def _read_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"a zip file with {len(names)} data.pkl")
        root = names[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and _member(archive, f"{root}byteorder", 16) != b"little":
            raise ValueError("numbers in big-endian order")
        pickled = _member(archive, names[0], min(size, MAX_PICKLE_BYTES))
        storages = StorageTable()
        tree = storages.unpickle(_stream(pickled))
        storages.check_total(size)
        return storages.finish(tree, lambda key, count: _member(archive, f"{root}data/{key}", count))


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """An uncompressed member of at most `limit` bytes; torch never compresses, a bomb does."""
    about = archive.getinfo(name)
    if about.compress_type != zipfile.ZIP_STORED or about.file_size > limit:
        raise ValueError(f"{name} has {about.file_size} bytes where {limit} belong")
    return archive.read(about)


def _stream(content: bytes) -> BoundedStream:
    return BoundedStream(io.BytesIO(content), len(content))


def _read_legacy(file: BinaryIO, size: int) -> Any:
    stream = BoundedStream(file, size)
    storages = StorageTable()
    magic, protocol, machine = (InertUnpickler(stream, VALUES).load() for _ in range(3))
    if magic != _MAGIC or protocol != 1001:
        raise ValueError("neither a zip archive nor torch's older layout")
    if not machine.get("little_endian", False):
        raise ValueError("numbers in big-endian order")
    tree = storages.unpickle(stream)
    storages.check_total(size)
    keys = InertUnpickler(stream, VALUES).load()
    places = _legacy_places(file, stream.tell(), size, keys, storages)

    def content(key: str, count: int) -> bytes:
        start, length = places[key]
        if length != count:
            raise ValueError(f"storage {key} has {length} bytes where {count} belong")
        file.seek(start)
        return file.read(count)

    return storages.finish(tree, content)


def _legacy_places(
    file: BinaryIO, position: int, size: int, keys: list[str], storages: StorageTable
) -> dict[str, tuple[int, int]]:
    """Where each storage's bytes lie: they follow in the order of `keys`, each behind its count."""
    places = {}
    for key in keys:
        if not isinstance(key, str):
            raise ValueError(f"the place of a storage under a {type(key).__name__}")
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        length = count * storages.item_size(key)
        position += 8 + length
        if count < 0 or position > size:
            raise ValueError(f"storage {key} is cut off")
        places[key] = (position - length, length)
    return places


class StorageTable:
    """The storages that one pickle refers to, by key, and the tensors made of them."""

    def __init__(self) -> None:
        self._storages: dict[str, Storage] = {}
        self._loaded: dict[str, Tensor] = {}

    def unpickle(self, stream: BoundedStream) -> Any:
        """The tree of one pickle, its tensors still pending, without `SKIPPED` parts."""
        tree = InertUnpickler(stream, _CONSTRUCTORS, persistent=self._refer).load()
        if isinstance(tree, dict):
            for part in SKIPPED:
                tree.pop(part, None)
        return tree

    def item_size(self, key: str) -> int:
        """Bytes of one number of a storage."""
        return self._storages[key].dtype.itemsize

    def check_total(self, size: int) -> None:
        """ValueError when the storages declare more than the whole file of `size` bytes holds."""
        declared = sum(storage.count * storage.dtype.itemsize for storage in self._storages.values())
        if declared > size:
            raise ValueError(f"{declared} bytes of tensors are declared in a file of {size}")

    def finish(self, tree: Any, content: Callable[[str, int], bytes]) -> Any:
        """The tree with real tensors; `content(key, count)` gives exactly a storage's bytes."""

        def make(leaf: Any) -> Any:
            return self._tensor(leaf, content) if isinstance(leaf, PendingTensor) else leaf

        return Finisher(make).finish(tree)

    def _refer(self, identifier: Any) -> Any:
        if not isinstance(identifier, tuple):
            raise ValueError("a storage reference that is text")
        if identifier[0] == "module":  # legacy files of whole modules: class, source file, source
            return identifier[1]
        _, kind, key, _, count, *view = identifier
        family, _, name = kind.name.rpartition(".")
        if family.partition(".")[0] != "torch" or type(count) is not int or count < 0:
            raise ValueError(f"a storage of {kind.name} whose length is none")
        if not isinstance(key, str):
            raise ValueError(f"a storage under a {type(key).__name__}")
        whole = Storage(key, _DTYPES[name], count)
        if self._storages.setdefault(whole.key, whole) != whole:
            raise ValueError(f"storage {key} is declared twice, differently")
        if view and view[0] is not None:
            _, start, length = view[0]
            return Storage(whole.key, whole.dtype, length, start)
        return whole

    def _tensor(self, plan: PendingTensor, content: Callable[[str, int], bytes]) -> Tensor:
        storage = plan.storage
        if storage.key not in self._loaded:
            self._loaded[storage.key] = self._load(self._storages[storage.key], content)
        flat = self._loaded[storage.key]
        flat = flat.narrow(0, storage.start, storage.count).view(plan.dtype)
        _check_bounds(plan, len(flat))
        return torch.as_strided(flat, plan.size, plan.stride, flat.storage_offset() + plan.offset)

    def _load(self, storage: Storage, content: Callable[[str, int], bytes]) -> Tensor:
        count = storage.count * storage.dtype.itemsize
        raw = bytearray(content(storage.key, count))
        if len(raw) != count:
            raise ValueError(f"storage {storage.key} has {len(raw)} bytes where {count} belong")
        return torch.frombuffer(raw, dtype=storage.dtype) if count else torch.empty(0, dtype=storage.dtype)


def _check_bounds(plan: PendingTensor, available: int) -> None:
    """ValueError when a tensor reaches outside its storage or is larger than it."""
    size, stride = array_shape(plan.size), array_shape(plan.stride)
    count = math.prod(size)
    reach = plan.offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if plan.offset < 0 or count > available or (count and reach > available):
        raise ValueError(f"a tensor of shape {size} outside its storage of {available}")


def _pending(
    storage: Storage, offset: int, size: Any, stride: Any, *rest: Any, dtype: torch.dtype | None = None
) -> PendingTensor:
    return PendingTensor(storage, offset, size, stride, dtype or storage.dtype)


def _pending_typed(storage: Storage, offset: int, size: Any, stride: Any, *rest: Any) -> PendingTensor:
    """Version 3: requires_grad, hooks, then the dtype of an untyped storage."""
    return _pending(storage, offset, size, stride, dtype=_NAMED_DTYPES[rest[2].name])


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or (type(index) is int and 0 <= index < MAX_DEVICES)):
        raise ValueError("a device that is not one")
    return kind if index is None else f"{kind}:{index}"


def _rebuild_subclass(function: Global, _: Any, arguments: Any, *state: Any) -> Any:
    return _TENSORS[function.name](*arguments)


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    if not isinstance(lengths, list | tuple):
        raise ValueError(f"a size in a {type(lengths).__name__}")
    return tuple(lengths)


_TENSORS: Constructors = {
    "torch._utils._rebuild_tensor": _pending,
    "torch._utils._rebuild_tensor_v2": _pending,
    "torch._utils._rebuild_tensor_v3": _pending_typed,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
}
_CONSTRUCTORS: Constructors = {
    **VALUES,
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch.Size": _size,
    "torch.device": _device,
}
