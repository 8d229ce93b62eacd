"""Constructors of what pickles hold besides plain values: collections, numpy dtypes, scalars and arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprompt.checkpoints.inert_pickle import Global, Opaque, keyed

_PLAIN_DTYPE = re.compile(r"[biufcSU]\d*")


class Dtype:
    """A numpy dtype while its pickle is read: a code, then a byte order as its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        name = code.name.removeprefix("numpy.") if isinstance(code, Global) else code
        if not isinstance(name, str):
            raise ValueError(f"a numpy type named by a {type(name).__name__}")
        self.code = name
        self.big_endian = False

    def set_state(self, state: Any) -> None:
        """Take over the byte order; a dtype with fields stays unknown to `numpy`."""
        self.big_endian = state[1] == ">"
        if len(state) > 4 and state[4] is not None:
            self.code = "V"

    @property
    def known(self) -> bool:
        """Whether its numbers are plain numbers or strings: no objects, fields or dates."""
        return bool(_PLAIN_DTYPE.fullmatch(self.code.lstrip("<>=|"))) or self.code in _NAMED

    def numpy(self) -> np.dtype[Any]:
        """The real dtype; ValueError for objects, records and dates."""
        if not self.known:
            raise ValueError(f"an array of numpy type {self.code!r}")
        return np.dtype(self.code).newbyteorder(">" if self.big_endian else "<")


class PendingArray:
    """A numpy array while its pickle is read; `resolved` gives the array."""

    def __init__(self, *_: Any) -> None:
        self._value: Any = None

    def set_state(self, state: Any) -> None:
        """Take over shape, dtype, order and bytes. An array of objects becomes an Opaque with its items."""
        _, shape, dtype, fortran, content = state
        if not dtype.known:
            self._value = Opaque("numpy.ndarray", (shape, dtype.code))
            self._value.items = content if isinstance(content, list) else None
        else:
            self._value = array_of(_bytes(content), dtype, shape, "F" if fortran else "C")

    def resolved(self) -> Any:
        """The array; ValueError when its state never came."""
        if self._value is None:
            raise ValueError("an array without content")
        return self._value


def array_of(content: bytes | bytearray, dtype: Dtype, shape: Any, order: str) -> NDArray[Any]:
    """An array of its own memory in native byte order. ValueError unless the bytes are exactly its content."""
    kind, lengths = dtype.numpy(), array_shape(shape)
    if len(content) != math.prod(lengths) * kind.itemsize or kind.itemsize == 0:
        raise ValueError(f"an array of shape {lengths} and type {kind} in {len(content)} bytes")
    flat = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
    return flat.reshape(lengths, order="F" if order == "F" else "C")


def array_shape(shape: Any) -> tuple[int, ...]:
    """A shape of whole, non-negative lengths; ValueError otherwise."""
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("a shape that is not one")
    return shape


def _bytes(content: Any) -> bytes | bytearray:
    """Raw bytes; Python 2 wrote them as text. ValueError for a length, which would be allocated."""
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, bytes | bytearray):
        raise ValueError(f"{type(content).__name__} where bytes belong")
    return content


def _scalar(dtype: Dtype, content: Any = b"") -> Any:
    if not dtype.known:
        return Opaque("numpy.scalar", (dtype.code, content))
    return array_of(_bytes(content), dtype, (), "C").item()


def _from_buffer(content: Any, dtype: Dtype, shape: Any, order: str) -> NDArray[Any]:
    return array_of(_bytes(content), dtype, shape, order)


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return keyed(pairs.items() if isinstance(pairs, dict) else _items(pairs))


def _default_dict(factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return _dict(pairs)


def _list(items: Any = (), *_: Any) -> list[Any]:
    return list(items) if isinstance(items, list | tuple) else []


def _set(items: Any = ()) -> set[Any]:
    return set(keyed((item, None) for item in _items(items)))


def _items(items: Any) -> Any:
    """What pickles list a collection's items in; ValueError for an array, whose length needs no content."""
    if not isinstance(items, list | tuple | set | frozenset):
        raise ValueError(f"{type(items).__name__} where items belong")
    return items


def _encode(text: str, encoding: str = "latin-1") -> bytes:
    """How protocol 2 spells bytes."""
    if encoding not in ("latin1", "latin-1"):  # compared, since the hash of a hostile tuple may never end
        raise ValueError("bytes spelled in another encoding than Latin-1")
    return text.encode("latin-1")


VALUES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": _default_dict,
    "collections.deque": _list,
    "builtins.dict": _dict,
    "builtins.list": _list,
    "builtins.set": _set,
    "builtins.frozenset": lambda items=(): frozenset(_set(items)),
    "builtins.tuple": lambda items=(): tuple(_list(items)),
    "builtins.bytearray": lambda content=b"", *_: bytearray(_bytes(content)),
    "builtins.bytes": lambda content=b"", *_: bytes(_bytes(content)),
    "builtins.complex": lambda real, imaginary: complex(float(real), float(imaginary)),
    "_codecs.encode": _encode,
    "numpy.dtype": Dtype,
    "numpy.core.multiarray._reconstruct": PendingArray,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}
"""Constructors by the name in the file; each makes plain values and calls nothing it was given.

What one makes takes no more than a small multiple of its arguments: `InertUnpickler` counts those.
"""

_NAMED = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
}
