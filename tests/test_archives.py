from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreign_files import refusal, saved, tree
from speechprompt.checkpoints import (
    open_archive_members,
    read_checkpoint,
    read_dictionary,
)
from speechprompt.errors import CheckpointError

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


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
