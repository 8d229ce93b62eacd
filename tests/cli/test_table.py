"""`table`: what a user types, sees and is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cli.material import Run

DECLARATION = """
seeds = 1
[[row]]
name = "words"
title = "toy words"
source = "toy.jsonl"
slots = ["word"]
lms = ["toy-lm"]
columns = ["majority", "n-gram", "prompt"]
[row.prompt]
steps = 3
prompt_length = 1
"""


def test_a_table_from_the_command_line(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    declaration = tmp_path / "table.toml"
    declaration.write_text(DECLARATION)
    shutil.copy(units, tmp_path / "toy.jsonl")
    command = ("table", declaration, "--material", tmp_path, "--out", tmp_path / "out", "--quiet")
    absent = run(*command, "--columns", "majority,prompt")
    assert (absent.code, "absent: spoken LM toy-lm" in absent.out) == (0, True)
    unasked = run(*command, "--columns", "majority,n-gram")
    assert (unasked.code, "2 cells measured" in unasked.out) == (0, True)
    named = (*command, "--lm", f"toy-lm={toy}", "--write", tmp_path / "docs" / "results.md")
    first = run(*named)
    assert (first.code, "1 cells measured, 2 reused" in first.out) == (0, True)
    document = run(*named, "--json").document
    assert (document["cells_measured"], document["cells_reused"]) == (0, 3)
    assert document == json.loads((tmp_path / "docs" / "results.json").read_text())
    assert "| toy words |" in (tmp_path / "docs" / "results.md").read_text()
    for wrong, message in (
        (("--rows", "wrods"), "did you mean words"),
        (("--columns", "ngram"), "did you mean n-gram"),
        (("--lm", str(toy)), "NAME=FOLDER"),
        (("--write", tmp_path / "a.txt"), "must end in .md"),
    ):
        ran = run(*command, *wrong)
        assert (ran.code, message in ran.error) == (2, True)
