"""Rows for development: folds over the clips that a corpus's own split does not test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from speechprompt.errors import CorpusError, UsageError
from speechprompt.experiments.table_rounds import read_row, rounds_of
from speechprompt.experiments.table_rows import TableRow, read_declaration
from speechprompt.speech.manifest import write_manifest
from speechprompt.testing import toy_corpus

CORPUS = toy_corpus(120).with_slots(["word"])
RECIPES = Path(__file__).parents[2] / "recipes"


def test_no_fold_hears_or_tests_what_the_split_tests(tmp_path: Path) -> None:
    source = write_manifest(CORPUS, tmp_path / "toy.jsonl")
    row = TableRow(name="a", title="a", source="toy.jsonl", slots=("word",), folds=3, development=True)
    tested = {u.id for u in CORPUS.split("test")}
    assert tested
    rounds = rounds_of(row, read_row(row, source), 1)
    heard = [u.id for one in rounds for u in one.corpus.utterances]
    assert tested.isdisjoint(heard)
    asked = [u.id for one in rounds for u in one.rows("test")]
    assert sorted(asked) == sorted(u.id for u in CORPUS.utterances if u.id not in tested)
    whole = [u.id for one in rounds_of(row, read_row(row.model_copy(update={"development": False}), source), 1)
             for u in one.rows("test")]  # fmt: skip
    assert tested <= set(whole)


def test_what_cannot_be_for_development(tmp_path: Path) -> None:
    untested = replace(CORPUS, utterances=tuple(u for u in CORPUS.utterances if u.split != "test"))
    source = write_manifest(untested, tmp_path / "toy.jsonl")
    row = TableRow(name="a", title="a", source="toy.jsonl", slots=("word",), folds=3, development=True)
    with pytest.raises(CorpusError, match="has no test split"):
        read_row(row, source)
    declared = tmp_path / "table.toml"
    declared.write_text(
        '[[row]]\nname = "a"\ntitle = "a"\nsource = "toy.jsonl"\nslots = ["word"]\ndevelopment = true\n'
    )
    with pytest.raises(UsageError, match="needs 'folds'"):
        read_declaration(declared)


def test_the_declaration_of_the_repository_is_all_for_development() -> None:
    declared = read_declaration(RECIPES / "development.toml")
    assert all(row.development for row in declared.row)
