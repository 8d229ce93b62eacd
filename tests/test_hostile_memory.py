"""Tiny pickles that would need far more memory than their own size."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from foreign_files import refusal, saved, zip_with
from speechprompt.checkpoints import read_checkpoint, tensors_of
from speechprompt.errors import CheckpointError

MEGABYTE = 2**20


def peak_of(read: Callable[[bytes], Any], content: bytes) -> tuple[str, int]:
    """The refusal of some content and the most bytes that reading it held at once."""
    read(saved({})) if read is read_checkpoint else refusal(read, b"N.")
    tracemalloc.start()
    try:
        said = refusal(read, content)
        return said, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def shared_branches(kind: type[list[Any]] | type[tuple[Any, ...]], depth: int = 20) -> bytes:
    """Opcodes of a value that refers to the level below twice, as deep: 2**20 leaves when written out."""
    value = kind("a")
    for _ in range(depth):
        value = kind((value, value))
    return pickle.dumps(value, 2)[2:-1]


LISTS, TUPLES = shared_branches(list), shared_branches(tuple)
STORAGE = b"\x80\x02(U\x07storagectorch\nFloatStorage\n"
SPELLED_OUT = {
    "module": b"\x80\x04" + LISTS + b"\x8c\x01n\x93.",
    "class": b"\x80\x04\x8c\x01m" + LISTS + b"\x93.",
    "numpy type": b"\x80\x02cnumpy\ndtype\n" + LISTS + b"\x85R.",
    "encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00a" + TUPLES + b"\x86R.",
    "storage key": STORAGE + LISTS + b"U\x03cpuK\x00tQ.",
    "storage length": STORAGE + b"U\x010U\x03cpu" + LISTS + b"tQ.",
    "device": b"\x80\x02ctorch\ndevice\n" + LISTS + b"\x85R.",
    "device index": b"\x80\x02ctorch\ndevice\nU\x04cuda" + LISTS + b"\x86R.",
}


@pytest.mark.parametrize("pickled", SPELLED_OUT.values(), ids=SPELLED_OUT)
def test_shared_branches_are_never_spelled_out(pickled: bytes) -> None:
    said, peak = peak_of(read_checkpoint, zip_with(pickled))
    assert "cannot be read as a torch checkpoint" in said
    assert "\n" not in said
    assert peak < MEGABYTE


def test_keys_of_the_older_layout_are_never_spelled_out() -> None:
    content = saved({}, legacy=True)
    assert content.endswith(pickle.dumps([], 2))
    said, peak = peak_of(
        read_checkpoint, content[: -len(pickle.dumps([], 2))] + b"\x80\x02]" + TUPLES + b"a."
    )
    assert "under a tuple" in said
    assert peak < MEGABYTE


def again(function: bytes, arguments: bytes, call: bytes = b"h\x01h\x02R", count: int = 200) -> bytes:
    """A list of what `call` makes of memoised values, so many times."""
    return b"\x80\x04" + function + b"q\x010" + arguments + b"q\x020(" + call * count + b"l."


def blob(opcode: bytes, content: bytes = b"x" * MEGABYTE) -> bytes:
    return opcode + len(content).to_bytes(4, "little") + content


BYTES, TEXT = blob(b"B"), blob(b"X")
ITEMS = b"](" + b"N" * 2**17 + b"e"
KEYS = pickle.dumps(list(range(2**15)), 2)[2:-1]
PAIRS = pickle.dumps(dict.fromkeys(range(2**15)), 2)[2:-1]
SINGLE_BYTES, LONG_BYTES = (
    b"cnumpy\ndtype\nX" + bytes([len(t), 0, 0, 0]) + t + b"\x85R" for t in (b"u1", b"S1048576")
)
SHAPE = b"J" + MEGABYTE.to_bytes(4, "little") + b"\x85"
LETTER_C = b"X\x01\x00\x00\x00C"
COPIED = {
    "bytearray": again(b"cbuiltins\nbytearray\n", BYTES + b"\x85"),
    "encode": again(b"c_codecs\nencode\n", TEXT + b"X\x06\x00\x00\x00latin1\x86"),
    "list": again(b"cbuiltins\nlist\n", ITEMS + b"\x85"),
    "deque": again(b"ccollections\ndeque\n", ITEMS + b"\x85"),
    "tuple": again(b"cbuiltins\ntuple\n", ITEMS + b"\x85"),
    "set": again(b"cbuiltins\nset\n", KEYS + b"\x85"),
    "dict": again(b"ccollections\nOrderedDict\n", PAIRS + b"\x85"),
    "size": again(b"ctorch\nSize\n", ITEMS + b"\x85"),
    "buffer": again(
        b"cnumpy.core.numeric\n_frombuffer\n", b"(" + BYTES + SINGLE_BYTES + SHAPE + b"X\x01\x00\x00\x00Ct"
    ),
    "scalar": again(b"cnumpy.core.multiarray\nscalar\n", LONG_BYTES + BYTES + b"\x86"),
    "array": again(
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"(K\x01" + SHAPE + SINGLE_BYTES + b"\x89" + BYTES + b"t",
        b"h\x01)Rh\x02b",
    ),
    "subclass": again(
        b"ctorch._tensor\n_rebuild_from_type_v2\n", b"cbuiltins\nbytearray\nN" + BYTES + b"\x85\x87"
    ),
    "class": again(b"X\x01\x00\x00\x00m", TEXT, b"h\x02h\x01\x93"),
    "method": again(b"cm\n" + b"x" * MEGABYTE + b"\n)R", b")"),
    "arguments of a method": again(b"cm\nf\n)R", b"(" + b"N" * 2**17 + b"t"),
    "new object": again(b"ccopyreg\n__newobj__\n", b"(cm\nf\n" + b"N" * 2**17 + b"t"),
    "keywords": again(b"cm\nf\n", b"(" + b"N" * 2**17 + b"t", b"h\x01h\x02}\x92"),
    "configuration": again(
        b"comegaconf.listconfig\nListConfig\n",
        b"}X\x08\x00\x00\x00_content" + ITEMS + b"s",
        b"h\x01)Rh\x02b",
    ),
}


@pytest.mark.parametrize("pickled", COPIED.values(), ids=COPIED)
def test_one_value_is_not_copied_again_and_again(pickled: bytes) -> None:
    said, peak = peak_of(read_checkpoint, zip_with(pickled))
    assert "\n" not in said
    assert peak < 24 * MEGABYTE


def test_items_of_an_array_without_content_are_not_counted_out() -> None:
    """An array of shape (2**16, 0) takes no bytes of the file."""
    shape = b"J" + (2**16).to_bytes(4, "little") + b"K\x00\x86"
    array = b"cnumpy.core.numeric\n_frombuffer\n(C\x00" + SINGLE_BYTES + shape + LETTER_C + b"tR"
    said, peak = peak_of(read_checkpoint, zip_with(b"\x80\x04ctorch\nSize\n" + array + b"\x85R."))
    assert "a size in a ndarray" in said
    assert peak < MEGABYTE


def test_one_long_key_on_every_path_is_refused() -> None:
    tensors = {"x" * MEGABYTE: [torch.ones(1)] * 200}
    read = read_checkpoint(saved(tensors))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="fetch it again"):
            tensors_of(read)
        assert tracemalloc.get_traced_memory()[1] < 80 * MEGABYTE
    finally:
        tracemalloc.stop()
