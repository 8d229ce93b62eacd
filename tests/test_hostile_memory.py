"""Tiny pickles that would need far more memory than their own size."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from foreign_files import refusal, saved, zip_with
from speechprompt.checkpoints import read_checkpoint

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
