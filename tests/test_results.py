"""The page of results and the cards that quote it say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import speechprompt
from speechprompt.evaluation.summary import read_json
from speechprompt.experiments.results_lines import Line
from speechprompt.experiments.table_rows import read_declaration
from speechprompt.experiments.tables import interval_cell

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs" / "results.json"
CARD = Path(speechprompt.__file__).parent / "bundled" / "tiny" / "README.md"
CARD_ROWS = {
    "arabic": "| Arabic Speech Commands, paper's split",
    "arabic-distinct": "| Arabic Speech Commands, each recording once",
    "lithuanian": "| Lithuanian Speech Commands, paper's split",
    "lithuanian-folds": "| Lithuanian Speech Commands, 28 speakers",
    "digits": "| FSDD digits, official test",
    "digits-speakers": "| FSDD digits, one speaker out",
    "esc10": "| ESC-10",
    "ravdess": "| RAVDESS",
    "barista": "| barista",
}
LINES = [read_json(Line, line) for line in json.loads(PAGE.read_text(encoding="utf-8"))["lines"]]


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.name}-{line.spoken_lm}-{line.shots}")
def test_the_page_is_of_the_declared_rows(line: Line) -> None:
    declaration = read_declaration(REPOSITORY / "recipes" / "table.toml")
    [row] = declaration.chosen([line.name])
    assert line.spoken_lm in row.lms
    measured = line.facts["options"]
    declared = {method: declaration.options(row, method) for method in measured}
    assert json.loads(json.dumps(declared)) == measured
    assert line.trained_parameters is not None
    assert line.trained_parameters < 150_000


@pytest.mark.parametrize("line", [one for one in LINES if one.spoken_lm == "tiny" and one.shots is None])
def test_the_card_of_tiny_quotes_the_page(line: Line) -> None:
    [row] = [
        row for row in CARD.read_text(encoding="utf-8").splitlines() if row.startswith(CARD_ROWS[line.name])
    ]
    assert f"{line.utterances:,}" in row.split("|")[1]
    for method in ("n-gram", "mfcc n-gram", "probe", "prompt"):
        assert interval_cell(line.accuracy[method]) in row, method
    assert f"{line.trained_parameters:,}" in row
