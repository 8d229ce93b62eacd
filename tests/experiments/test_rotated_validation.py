"""An ensemble whose prompts validate on different clips, so that every clip teaches most of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.test_results_table import another, table_of
from speechprompt.errors import UsageError
from speechprompt.experiments.methods import prompt_run
from speechprompt.experiments.results_table import Study
from speechprompt.experiments.table_cells import FeatureCache, Measure
from speechprompt.experiments.table_options import copied_splits, training_options
from speechprompt.experiments.table_rounds import Round
from speechprompt.metrics import accuracy
from speechprompt.prompting.answer_copies import answer_scores
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.members import MEMBER_SEEDS, combined, divisions
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_runs
from speechprompt.prompting.trust import temperatures_of
from speechprompt.speech.manifest import write_manifest
from speechprompt.testing import toy_corpus
from toys import SPOKEN

CORPUS = toy_corpus(120).with_slots(["word"])
WORDS = Task.of_corpus(CORPUS)
OPTIONS = {"steps": 6, "evaluations": 2, "prompt_length": 2, "ensemble": 3, "rotate_validation": True}


def test_each_division_validates_on_other_clips_and_none_on_test() -> None:
    one = Round(CORPUS, WORDS, 0, "seed0")
    found = divisions(one.corpus, 3)
    assert found[0] == (one.rows("train"), one.rows("valid"))
    learnt = {u.id for u in (*one.rows("train"), *one.rows("valid"))}
    held: list[str] = []
    for train, valid in found:
        ids = [u.id for u in (*train, *valid)]
        assert (len(ids), set(ids)) == (len(learnt), learnt)
        assert {u.speaker for u in train}.isdisjoint({u.speaker for u in valid})
        held += [u.id for u in valid]
    assert len(set(held)) == len(held)
    assert divisions(one.corpus, 1) == found[:1]
    many = divisions(one.corpus, 6)
    assert many[1] == many[4]  # three parts only: they are taken in turn


def test_speakers_are_mixed_where_the_test_of_validation_knows_them() -> None:
    known = replace(CORPUS, utterances=tuple(replace(u, speaker="s" + u.id[-2]) for u in CORPUS.utterances))
    mixed = divisions(known, 2)[1]
    assert not {u.speaker for u in mixed[0]}.isdisjoint({u.speaker for u in mixed[1]})


def test_the_cell_is_such_an_ensemble(tmp_path: Path) -> None:
    one = Round(CORPUS, WORDS, 0, "seed0")
    options, _ = training_options(OPTIONS, 0)
    assert (options.ensemble, options.rotate_validation) == (3, True)
    judged, asked = [], []
    for member, (train, valid) in enumerate(divisions(one.corpus, 3)):
        own = options.model_copy(update={"seed": MEMBER_SEEDS * member})
        examples = Examples.to_train(WORDS, train, own), Examples.of(WORDS, valid)
        lm, run = prompt_run(SPOKEN.lm, WORDS, own, *examples)
        train_runs(lm, [run])
        told = answer_scores(lm, run.entry, valid)
        answers = [WORDS.slots["word"][i] for i in told["word"].argmax(1).tolist()]
        judged.append(accuracy([u.labels["word"] for u in valid], answers))
        calibration = Calibration(temperatures_of(told, examples[1].targets))
        asked.append((calibration, answer_scores(lm, run.entry, one.rows("test"))))
    scores = combined(asked)["word"]
    cell = Measure("prompt", one, SPOKEN, OPTIONS, tmp_path).run(FeatureCache(), lambda *_: None)
    assert cell.predictions == tuple(WORDS.slots["word"][i] for i in scores.argmax(1).tolist())
    assert cell.valid_accuracy == pytest.approx(sum(judged) / 3)
    plain = {name: value for name, value in OPTIONS.items() if name != "rotate_validation"}
    assert (
        Measure("prompt", one, SPOKEN, plain, tmp_path).key
        != Measure("prompt", one, SPOKEN, OPTIONS, tmp_path).key
    )


def test_copies_are_heard_wherever_some_prompt_trains_or_validates() -> None:
    both = {"speed_copies": 2, "answer_copies": 2}
    assert copied_splits(training_options(both, 0)) == (["train"], ["valid", "test"])
    rotated = training_options({**both, "ensemble": 2, "rotate_validation": True}, 0)
    assert copied_splits(rotated) == (["train", "valid"], ["train", "valid", "test"])
    assert copied_splits(training_options({"ensemble": 2, "rotate_validation": True}, 0)) == ([], [])


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "data").mkdir()
    write_manifest(CORPUS, tmp_path / "data" / "toy.jsonl")
    (tmp_path / "table.toml").write_text(
        """seeds = 1
columns = ["prompt"]
[prompt]
steps = 4
evaluations = 2
prompt_length = 2
ensemble = 2
rotate_validation = true
[[row]]
name = "words"
title = "toy words"
source = "toy.jsonl"
slots = ["word"]
lms = ["toy"]
folds = 4
"""
    )
    return another(tmp_path)


def test_a_table_asks_for_it(study: Study, tmp_path: Path) -> None:
    [line] = table_of(study)
    assert (line.utterances, len(line.facts["cells"]["prompt"])) == (120, 4)
    declared = tmp_path / "table.toml"
    text = declared.read_text()
    for wrong, message in (
        (
            text.replace("rotate_validation = true", 'rotate_validation = "often"'),
            "'rotate_validation'.*boolean",
        ),
        (text.replace("ensemble = 2\n", ""), "ask for --ensemble"),
    ):
        declared.write_text(wrong)
        with pytest.raises(UsageError, match=message):
            table_of(another(tmp_path))
