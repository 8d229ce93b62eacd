"""Files and folders without read permission: each one line, and the others go on where a command goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.material import Run


@pytest.mark.parametrize("closed", ["high", "."])
def test_predict_lists_a_folder_that_cannot_be_listed(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path, closed: str, close: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    close(folder / closed)
    command = ("predict", folder, clips / "low", "--prompt", pitch, "--lm", toy, "--quiet", "--json")
    ran = run(*command)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 1
    assert f"the folder {folder / closed} cannot be listed (Permission denied)" in ran.error
    assert [row["source"] for row in rows if "error" in row] == [str(folder / closed)]
    assert sum("error" not in row for row in rows) == (12 if closed == "." else 24)
    ran = run(*command, "--out", tmp_path / "answers.jsonl")
    assert (ran.code, list(ran.document["failed"])) == (1, [str(folder / closed)])


def test_doctor_and_train_name_a_folder_that_cannot_be_listed(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path, close: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    shutil.copytree(folder / "low", folder / "middle")
    close(folder / "middle")
    for command in (("doctor", folder), ("train", folder, "--lm", toy, "--out", tmp_path / "out")):
        ran = run(*command, "--quiet")
        assert ran.code == 1
        assert f"the folder {folder / 'middle'} cannot be listed" in ran.error
