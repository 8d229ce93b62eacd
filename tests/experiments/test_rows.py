"""The published table, the file of corpus folders, and numbers over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.corpora.registry import describe
from speechprompt.errors import UnknownName, UsageError, WorkError
from speechprompt.experiments.answers import (
    SavedAnswers,
    error_rate_over_seeds,
    load_value,
    save_value,
)
from speechprompt.experiments.paper_table import COLUMNS, PAPER_ROWS
from speechprompt.experiments.reproduce import row_names
from speechprompt.experiments.roots import read_roots
from speechprompt.experiments.tables import markdown_table
from speechprompt.metrics import equal_error_rate


@pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda row: row.name)
def test_rows_are_tasks_that_the_readers_know(row: object) -> None:
    name, _, task = row.name.partition(":")  # type: ignore[attr-defined]
    about = describe(name)
    slots = about.tasks[task]
    assert len(slots) == len(row.labels)  # type: ignore[attr-defined]
    for slot, count in zip(slots, row.labels, strict=True):  # type: ignore[attr-defined]
        assert len(about.slots.get(slot, ())) in (0, count)
    assert len(row.published) == len(COLUMNS)  # type: ignore[attr-defined]
    if row.positive is not None:  # type: ignore[attr-defined]
        assert row.positive in about.slots[slots[0]]  # type: ignore[attr-defined]


@pytest.mark.golden
def test_published_numbers_are_those_of_the_facts(shared: Path) -> None:
    lines = [line.split("|") for line in (shared / "facts" / "paper.md").read_text().splitlines()]
    table = [line for line in lines if len(line) == 12 and line[1].strip().isdigit()]
    assert len(table) == len(PAPER_ROWS)
    for row, line in zip(PAPER_ROWS, table, strict=True):
        prior, *ours = (cell.split()[0] for cell in line[6:11])
        told = [None if cell == "-" else float(cell) for cell in (*ours, prior)]
        assert list(row.published) == told
        assert row.utterances == int(line[5].replace(",", ""))
        assert sum(row.labels) == eval(line[4].replace(",", ""))


def test_rows_default_to_the_papers() -> None:
    assert len(row_names([])) == 17
    assert row_names(["fsdd:digit", "fsdd:digit"]) == ["fsdd:digit"]
    with pytest.raises(UnknownName, match="esc-50:sound"):
        row_names(["esc50:sound"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("esc-5 = 'x'", "did you mean esc-50"),
        ("esc-50 = 3", "must be a folder"),
        ("[esc-50]\nrot = 'x'", "did you mean root"),
        ("[esc-50]\nvariant = 'x'", "has no folder"),
        ("esc-50", "is not TOML"),
    ],
)
def test_hostile_roots_are_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "roots.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_roots(path)


def test_roots_start_at_their_file(tmp_path: Path) -> None:
    path = tmp_path / "roots.toml"
    path.write_text("grabo = 'g'\n[esc-50]\nroot = '/e'\nsplit_list = 'x.csv'\n")
    roots = read_roots(path)
    assert roots["grabo"].root == tmp_path / "g"
    assert (roots["esc-50"].root, roots["esc-50"].split_list) == (Path("/e"), tmp_path / "x.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_roots(tmp_path)


def saved(scores: list[float]) -> SavedAnswers:
    return SavedAnswers(tuple(score > 0.5 for score in scores), tuple(scores), 0.5, 10, 1.0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=20), st.booleans())
def test_error_rates_over_seeds_bracket_their_mean(scores: list[float], grouped: bool) -> None:
    truth = [i % 2 == 0 for i in range(len(scores))]
    groups = [str(i // 3) for i in range(len(scores))] if grouped else None
    turned = scores[::-1]
    found = error_rate_over_seeds([saved(scores), saved(turned)], truth, groups)
    rates = [equal_error_rate(np.array(row), np.array(truth)) for row in (scores, turned)]
    assert found.estimate == pytest.approx(float(np.mean(rates)))
    assert 0 <= found.low <= found.high <= 1


def test_a_perfect_score_has_no_error() -> None:
    truth = [True, False] * 10
    found = error_rate_over_seeds([saved([float(t) for t in truth])], truth, None)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_answers_survive_their_file_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    save_value(saved([0.25, 0.75]), path)
    assert load_value(SavedAnswers, path) == saved([0.25, 0.75])
    for damage in (path.read_text()[:-10], "[]", '{"right": [2]}'):
        path.write_text(damage)
        with pytest.raises(WorkError, match="delete it"):
            load_value(SavedAnswers, path)


@given(st.text(), st.text())
def test_markdown_cells_stay_cells(first: str, second: str) -> None:
    [_, _, line] = markdown_table(("a", "b"), [(first, second)]).split("\n")
    assert line.replace("\\|", "").count("|") == 3
