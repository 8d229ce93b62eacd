"""A row whose prompts have n-grams beside them says what either reaches alone, and never on a page of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.test_results_table import another, table_of
from speechprompt.experiments.results_lines import Line
from speechprompt.experiments.results_table import Study
from speechprompt.experiments.table_rows import Declaration, TableRow
from speechprompt.experiments.tables import share_cell
from speechprompt.prompting.recipes import RECIPES
from speechprompt.prompting.task import Task
from speechprompt.speech.manifest import write_manifest
from speechprompt.testing import toy_corpus
from toys import SPOKEN, entry_of

DECLARATION = """
seeds = 1
columns = ["n-gram", "prompt"]
[prompt]
steps = 2
evaluations = 1
prompt_length = 2
ngrams = 256
[[row]]
name = "folds"
title = "toy words, 3 folds"
source = "toy.jsonl"
slots = ["word"]
lms = ["toy"]
folds = 3
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "data").mkdir()
    write_manifest(toy_corpus(61), tmp_path / "data" / "toy.jsonl")
    (tmp_path / "table.toml").write_text(DECLARATION)
    return another(tmp_path)


WORDS = Task.of_corpus(toy_corpus(61).with_slots(["word"]))


def prompts_of(line: Line) -> list[dict[str, Any]]:
    return list(line.facts["cells"]["prompt"])


def test_a_line_says_what_prompts_and_ngrams_reach_alone(study: Study, tmp_path: Path) -> None:
    [line] = table_of(study)
    cells = prompts_of(line)
    assert sum(cell["utterances"] for cell in cells) == line.utterances == 61
    plain = entry_of(SPOKEN.lm, task=WORDS, prompt_length=2).trained_parameters()
    assert line.trained_parameters == plain + 256 * len(WORDS.slots["word"])
    told = {
        part: np.dot(
            [cell[f"{part}_alone_on_test"] for cell in cells], [cell["utterances"] for cell in cells]
        )
        / 61
        for part in ("prompt", "ngrams")
    }
    assert told["prompt"] != told["ngrams"]
    remark = line.cells()[-1]
    assert remark == (
        f"with n-grams: prompts alone {share_cell(told['prompt'])}, n-grams alone {share_cell(told['ngrams'])}"
    )
    assert remark in (tmp_path / "out" / "table.md").read_text()

    (tmp_path / "table.toml").write_text(DECLARATION.replace("ngrams = 256\n", ""))
    bare = another(tmp_path)
    [alone] = table_of(bare)
    assert (bare.measured, alone.cells()[-1]) == (3, "")
    # the prompt trains as if there were no n-grams
    assert alone.accuracy["prompt"].estimate == pytest.approx(told["prompt"])


def test_validation_shows_nothing_of_the_test(study: Study, tmp_path: Path) -> None:
    table_of(study)
    [line] = table_of(another(tmp_path, tuning=True))
    assert "prompt" in line.valid
    assert line.cells()[-1] == ""
    [cell, *_] = prompts_of(line)
    assert "valid_accuracy" in cell
    assert not [name for name in cell if "test" in name]


def test_ngrams_hear_the_copies_of_a_recipe() -> None:
    row = TableRow(name="a", title="a", source="a.tar", slots=("word",), prompt={"recipe": "few"})
    told = Declaration(row=(row,)).options(row, "n-gram tuned")
    assert told == {"answer_copies": RECIPES["few"]["answer_copies"]}
    plain = row.model_copy(update={"prompt": {"recipe": "few", "answer_copies": 0}})
    assert Declaration(row=(plain,)).options(plain, "n-gram tuned") == {}
