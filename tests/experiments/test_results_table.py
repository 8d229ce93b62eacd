"""The table of results: cells are measured once, and again only where what they depend on has changed."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.material import write_tone
from speechprompt.errors import CorpusError, UnknownName, UsageError, WorkError
from speechprompt.experiments.demo import Update
from speechprompt.experiments.mfcc_units import mfcc_features, mfcc_units
from speechprompt.experiments.results_lines import Line, kept
from speechprompt.experiments.results_table import Study, make_table
from speechprompt.experiments.table_cells import FeatureCache, Measure
from speechprompt.experiments.table_rounds import drawn_groups, find_source, read_row, rounds_of
from speechprompt.experiments.table_rows import Declaration, TableRow, read_declaration
from speechprompt.experiments.unit_cnn import CnnOptions, predict, train_cnn
from speechprompt.metrics import Interval
from speechprompt.speech.manifest import Corpus, Utterance, write_manifest
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm
from toys import SPOKEN, TASK, TRAIN, VALID, entry_of

DECLARATION = """
seeds = 2
[prompt]
steps = 4
evaluations = 2
prompt_length = 2
[cnn]
steps = 6
evaluations = 2
widths = [8]
embedding = 8
dropouts = [0.1]
[finetune]
steps = 2
evaluations = 1
[[row]]
name = "words"
title = "toy words"
source = "toy.jsonl"
slots = ["word"]
lms = ["toy"]
[[row]]
name = "both"
title = "toy words and lengths, 3 folds"
source = "toy.jsonl"
slots = ["word", "length"]
lms = ["toy"]
folds = 3
columns = ["majority", "n-gram", "prompt"]
[row.prompt]
ensemble = 2
"""


@contextmanager
def silent(title: str) -> Iterator[Update]:
    yield lambda done, total, text: None


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A declared table on the toy corpus and the toy LM."""
    (tmp_path / "data").mkdir()
    write_manifest(toy_corpus(60), tmp_path / "data" / "toy.jsonl")
    (tmp_path / "table.toml").write_text(DECLARATION)
    return another(tmp_path)


def another(folder: Path, **changes: Any) -> Study:
    """The study of a second call on the same folder."""
    declaration = read_declaration(folder / "table.toml")
    parts: dict[str, Any] = {"material": folder / "data", "unpacked": folder / "audio", "out": folder / "out"}
    parts |= {"lms": lambda name: SPOKEN, "stage": silent, "seeds": 2}
    return Study(declaration, **{**parts, **changes})


def table_of(study: Study, *names: str) -> list[Line]:
    rows = study.declaration.chosen(list(names) or None)
    return list(make_table(study, rows, study.out / ("tuning.md" if study.tuning else "table.md")).lines)


def test_every_method_answers_and_nothing_is_measured_twice(study: Study, tmp_path: Path) -> None:
    words, both = table_of(study)
    assert list(words.accuracy) == [
        "majority",
        "n-gram",
        "n-gram tuned",
        "probe",
        "prompt",
        "cnn",
        "finetune",
    ]
    assert (words.utterances, words.rounds, both.utterances, both.rounds) == (12, 2, 60, 3)
    assert study.measured == 4 + 3 * 2 + 3 * 3  # what draws nothing answers once for both seeds
    assert both.trained_parameters == 2 * entry_of(SPOKEN.lm, prompt_length=2).trained_parameters()
    assert both.differences["n-gram"].estimate == pytest.approx(
        both.accuracy["prompt"].estimate - both.accuracy["n-gram"].estimate
    )
    second = another(tmp_path)
    again = table_of(second)
    assert (second.measured, second.reused) == (0, study.measured)
    assert again == [words, both]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "toy words and lengths, 3 folds" in text
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert document["lines"][0]["accuracy"]["probe"]["estimate"] == words.accuracy["probe"].estimate
    assert document["lines"][0]["facts"]["lm_fingerprint"] == SPOKEN.lm.fingerprint


def test_a_page_keeps_lines_that_a_call_does_not_measure(study: Study, tmp_path: Path) -> None:
    [words] = table_of(study, "words")
    page = tmp_path / "out" / "table.json"
    assert [line.name for line in table_of(another(tmp_path), "both")] == ["words", "both"]
    stayed = json.loads(page.read_text())["lines"][0]
    assert stayed["accuracy"] == json.loads(json.dumps(words.to_json()))["accuracy"]

    elsewhere = another(tmp_path, material=tmp_path / "nowhere")
    absent, both = table_of(elsewhere, "words")
    assert (absent.accuracy["prompt"], absent.remark) == (words.accuracy["prompt"], "")
    assert both.accuracy
    hurried, _ = table_of(another(tmp_path, out=tmp_path / "out", seeds=3, deadline=0.0), "words")
    assert (hurried.accuracy["prompt"], hurried.rounds) == (words.accuracy["prompt"], 2)
    lean = replace(words, accuracy={"n-gram": words.accuracy["n-gram"]}, valid={})
    anew = replace(lean, rounds=3, remark="not measured yet: prompt")
    assert kept(anew, lean) == anew  # as many methods, measured now

    declared = tmp_path / "table.toml"
    declared.write_text(DECLARATION.replace('toy words"', 'words"').replace("steps = 6", "steps = 7"))
    old, _ = table_of(another(tmp_path), "both")
    assert (old.title, old.remark) == ("words", "measured with other options than are declared now")
    declared.write_text(DECLARATION)
    assert table_of(another(tmp_path), "both")[0].remark == ""

    tuning = another(tmp_path, tuning=True)
    with pytest.raises(UsageError, match="--write"):
        make_table(tuning, tuning.declaration.chosen(["both"]), page.with_suffix(".md"))
    page.write_text("{}")
    late = another(tmp_path)
    with pytest.raises(WorkError, match="delete it"):
        table_of(late, "both")
    assert (late.measured, late.reused, page.read_text()) == (0, 0, "{}")


def test_two_calls_write_one_page(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Study.lines

    def meanwhile(one: Study, row: TableRow) -> list[Line]:
        if one is study:
            table_of(another(tmp_path), "both")
        return lines(one, row)

    monkeypatch.setattr(Study, "lines", meanwhile)
    assert [line.name for line in table_of(study, "words")] == ["words", "both"]


def test_a_page_shows_tests_and_learning_curves(study: Study, tmp_path: Path) -> None:
    few = DECLARATION.replace("folds = 3\n", "shots = [2, 4]\n")
    (tmp_path / "table.toml").write_text(few)
    table_of(another(tmp_path, seeds=1, columns=["n-gram", "prompt"]))
    folder = tmp_path / "out"
    text = (folder / "table.md").read_text()
    for name in ("table.svg", "table-both-toy.svg"):
        assert f"]({name})" in text
        picture = (folder / name).read_text()
        assert picture.startswith("<svg") or picture.startswith("<?xml")
        assert "<script" not in picture
    assert "toy words (toy)" in (folder / "table.svg").read_text()
    assert "lengths" not in (folder / "table.svg").read_text()  # a point of a curve is no test of its own
    curve = (folder / "table-both-toy.svg").read_text()
    assert ">prompt<" in curve
    assert ">n-gram<" in curve


def test_differences_that_exclude_zero_are_bold_in_markdown_only() -> None:
    sure, open_ = Interval(0.1, 0.05, 0.2), Interval(0.1, -0.05, 0.2)
    line = Line("a", "a", "tiny", "", "", differences={"n-gram": sure, "cnn": open_})
    assert "**+10.0 [+5.0, +20.0]**" in line.cells(marked=True)
    assert "+10.0 [-5.0, +20.0]" in line.cells(marked=True)
    assert not any("*" in cell for cell in line.cells())


def test_columns_of_the_table_hold_where_a_row_names_none(study: Study, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(DECLARATION.replace("seeds = 2", 'seeds = 2\ncolumns = ["n-gram"]'))
    words, both = table_of(another(tmp_path))
    assert (list(words.accuracy), list(both.accuracy)) == (["n-gram"], ["majority", "n-gram", "prompt"])
    asked = another(tmp_path, columns=["majority", "probe"], out=tmp_path / "elsewhere")
    words, both = table_of(asked)
    assert (list(words.accuracy), list(both.accuracy)) == (["majority", "probe"], ["majority"])


def grown_by(folder: Path, *columns: str, **changes: Any) -> tuple[Line, Study]:
    """The line of `words` on the first page after another call, without the first one's cells, and that call."""
    study = another(folder, columns=columns, out=folder / "fresh", **changes)
    rows = study.declaration.chosen(["words"])
    return make_table(study, rows, folder / "out" / "table.md").lines[0], study


def test_a_line_grows_by_columns(study: Study, tmp_path: Path) -> None:
    whole = table_of(another(tmp_path, out=tmp_path / "whole"), "words")[0]
    table_of(another(tmp_path, columns=["n-gram", "prompt"]), "words")
    line, call = grown_by(tmp_path, "cnn")
    assert (list(line.accuracy), call.measured, line.remark) == (["n-gram", "prompt", "cnn"], 2, "")
    for method in ("n-gram", "cnn"):
        assert line.differences[method] == whole.differences[method]
    assert line.accuracy["prompt"] == whole.accuracy["prompt"]
    assert line.trained_parameters == whole.trained_parameters
    assert line.facts["lm_fingerprint"] == SPOKEN.lm.fingerprint
    assert line.facts["options"].keys() == {"prompt", "cnn"}
    rest, call = grown_by(tmp_path, "majority", "n-gram tuned", "probe", "finetune")
    assert (call.measured, call.notices) == (5, [])
    assert (rest.accuracy, rest.differences, rest.valid) == (whole.accuracy, whole.differences, whole.valid)


def test_methods_that_ask_no_lm_are_measured_without_one(study: Study, tmp_path: Path) -> None:
    def nowhere(name: str) -> SpokenLM:
        raise UnknownName("spoken LM", name, ["tiny"])

    whole = table_of(another(tmp_path, out=tmp_path / "whole"), "words")[0]
    table_of(another(tmp_path, columns=["probe", "prompt"]), "words")
    line, call = grown_by(tmp_path, "majority", "n-gram", "cnn", lms=nowhere)
    assert list(line.accuracy) == ["majority", "n-gram", "probe", "prompt", "cnn"]
    assert (call.measured, call.notices, call.loaded) == (4, [], {})
    for method, accuracy in line.accuracy.items():
        assert accuracy == whole.accuracy[method]
    assert line.differences == {m: whole.differences[m] for m in ("majority", "n-gram", "probe", "cnn")}
    for fact in ("lm_fingerprint", "lm_dtype", "tokenizer"):
        assert line.facts[fact] == whole.facts[fact]
    asked, call = grown_by(tmp_path, "probe", "cnn", lms=nowhere)
    assert (call.measured, call.reused, asked.accuracy) == (0, 0, line.accuracy)  # one needs it: all wait
    plain = toy_corpus(60)
    bare = replace(plain.utterances[0], units=None, audio=write_tone(tmp_path / "a.wav", 300))
    write_manifest(
        replace(plain, utterances=(bare, *plain.utterances[1:])), tmp_path / "data" / "toy.jsonl", force=True
    )
    heard = table_of(another(tmp_path, columns=["n-gram"], lms=nowhere, out=tmp_path / "bare"), "words")[0]
    assert heard.remark.startswith("absent: spoken LM toy")


def test_a_line_says_when_its_lm_computes_in_bfloat16(study: Study, tmp_path: Path) -> None:
    [line] = table_of(another(tmp_path, columns=["probe"]), "words")
    assert (line.facts["lm_dtype"], line.cells()[-1]) == ("torch.float32", "")
    coarse = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm().to(dtype=torch.bfloat16))
    [line] = table_of(another(tmp_path, columns=["probe"], lms=lambda name: coarse), "words")
    assert line.cells()[-1] == "in bfloat16"


def test_what_is_of_other_inputs_does_not_stay_in_a_line(study: Study, tmp_path: Path) -> None:
    few = another(tmp_path, columns=["n-gram", "probe", "prompt"])
    first = table_of(few, "words")[0]
    declared = tmp_path / "table.toml"
    declared.write_text(DECLARATION.replace("prompt_length = 2", "prompt_length = 3"))
    options, call = grown_by(tmp_path, "cnn")
    assert list(options.accuracy) == ["n-gram", "probe", "cnn"]
    assert call.notices == ["words, toy: prompt left the page, measured on other inputs than these"]
    assert not options.differences
    assert options.trained_parameters is None
    declared.write_text(DECLARATION)
    seeds, _ = grown_by(tmp_path, "prompt", seeds=3)
    assert list(seeds.accuracy) == ["n-gram", "probe", "prompt"]  # the network had two seeds
    other = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm(seed=1))
    unread, _ = grown_by(tmp_path, "majority", seeds=3, lms=lambda name: other)
    assert list(unread.accuracy) == ["majority", "n-gram", "probe", "prompt"]
    assert unread.facts["lm_fingerprint"] == first.facts["lm_fingerprint"]
    lm, _ = grown_by(tmp_path, "prompt", lms=lambda name: other)
    assert list(lm.accuracy) == ["majority", "n-gram", "prompt"]
    assert lm.facts["lm_fingerprint"] == other.lm.fingerprint
    write_manifest(toy_corpus(54), tmp_path / "data" / "toy.jsonl", force=True)
    rows, _ = grown_by(tmp_path, "majority")
    assert list(rows.accuracy) == ["majority"]


def test_a_page_of_before_keeps_what_it_can(study: Study, tmp_path: Path) -> None:
    table_of(another(tmp_path, columns=["n-gram", "prompt"]), "words")
    page = tmp_path / "out" / "table.json"
    document = json.loads(page.read_text())
    for cells in document["lines"][0]["facts"]["cells"].values():
        for cell in cells:
            del cell["right_on_test"]
    page.write_text(json.dumps(document))
    line, _ = grown_by(tmp_path, "cnn")
    assert list(line.accuracy) == ["n-gram", "prompt", "cnn"]
    # whether the network is right where the prompt is, nobody noted
    assert list(line.differences) == ["n-gram"]
    facts = document["lines"][0]["facts"]
    cell = facts["cells"]["n-gram"][0]
    for name, value in (
        ("cells", {"n-gram": [{**cell, "right_on_test": "AA=="}]}),
        ("cells", {"n-gram": [{**cell, "right_on_test": "no base64"}]}),
        ("cells", {"n-grams": [cell]}),
        ("cells", {"n-gram": [{**cell, "measured_by": "an abacus"}]}),
        ("cells", [cell]),
        ("options", ["steps"]),
        ("measured_by", "an abacus"),
    ):
        document["lines"][0]["facts"] = {**facts, name: value}
        page.write_text(json.dumps(document))
        with pytest.raises(WorkError, match="delete it"):
            grown_by(tmp_path, "cnn")
    for odd in ([], [{**cell, "utterances": 11}], [{**cell, "right_on_test": "AA==", "utterances": 8}]):
        document["lines"][0]["facts"] = {**facts, "cells": {"n-gram": odd}}
        page.write_text(json.dumps(document))
        assert list(grown_by(tmp_path, "cnn")[0].facts["cells"]) == ["cnn"]


def test_tuning_shows_validation_and_no_test(study: Study, tmp_path: Path) -> None:
    table_of(study)
    tuning = another(tmp_path, tuning=True)
    words, both = table_of(tuning)
    assert (tuning.measured, dict(words.accuracy), dict(both.differences)) == (0, {}, {})
    cells = words.facts["cells"]["prompt"]
    assert words.valid["prompt"] == pytest.approx(np.mean([cell["valid_accuracy"] for cell in cells]))
    text = (tmp_path / "out" / "tuning.md").read_text()
    assert f"valid {100 * both.valid['prompt']:.1f}" in text
    assert "no test is shown" in text
    assert "[" not in text


def test_a_changed_input_measures_only_what_depends_on_it(study: Study, tmp_path: Path) -> None:
    table_of(study, "words")
    declared = tmp_path / "table.toml"
    declared.write_text(DECLARATION.replace("[finetune]\nsteps = 2", "[finetune]\nsteps = 3"))
    options = another(tmp_path)
    table_of(options, "words")
    assert options.measured == 2  # fine-tuning, two seeds
    more = another(tmp_path, seeds=3)
    table_of(more, "words")
    assert more.measured == 3  # a third seed of prompt, cnn and fine-tuning
    corpus = toy_corpus(60)
    labels = {**corpus.utterances[0].labels, "word": "gamma"}
    changed = (replace(corpus.utterances[0], labels=labels), *corpus.utterances[1:])
    write_manifest(replace(corpus, utterances=changed), tmp_path / "data" / "toy.jsonl", force=True)
    rows = another(tmp_path)
    table_of(rows, "words")
    assert rows.reused == 0


def test_changed_durations_measure_only_prompts_that_read_them(tmp_path: Path) -> None:
    plain = TableRow(name="a", title="a", source="a", slots=("word",))
    corpus = toy_corpus(60)

    def keys(frames: int) -> dict[tuple[str, str | None], str]:
        rows = tuple(
            replace(u, units=Units(u.units.ids, np.full(len(u.units), frames)))
            for u in corpus.utterances
            if u.units is not None
        )
        [one] = rounds_of(plain, replace(corpus, utterances=rows), 1)
        return {
            (method, streams): Measure(
                method, one, SPOKEN, {} if streams is None else {"streams": streams}, tmp_path
            ).key
            for method in ("n-gram", "probe", "prompt")
            for streams in ((None, "utterance", "pace") if method == "prompt" else (None,))
        }

    one, two = keys(1), keys(2)
    assert {name for name in one if one[name] != two[name]} == {("prompt", "pace")}


def test_an_interrupted_study_goes_on(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from speechprompt.experiments import table_cells

    whole = table_of(another(tmp_path, out=tmp_path / "whole"), "words")
    train_runs = table_cells.train_runs

    def stopped(lm: Any, runs: Any, listener: Any, checkpoint: Path) -> None:
        def listen(event: Any) -> None:
            listener(event)
            if event["event"] == "step" and event["step"] == 3 and runs[0].options.seed == 1:
                raise KeyboardInterrupt

        train_runs(lm, runs, listen, checkpoint, checkpoint_every=1)

    with monkeypatch.context() as patch:
        patch.setattr(table_cells, "train_runs", stopped)
        with pytest.raises(KeyboardInterrupt):
            table_of(study, "words")
    assert len(list((tmp_path / "out" / "cells").glob("*.pt"))) == 1
    second = another(tmp_path)
    parts = table_of(second, "words")
    assert second.reused == 5
    assert [line.accuracy for line in parts] == [line.accuracy for line in whole]
    assert not list((tmp_path / "out" / "cells").glob("*.pt"))


def test_what_is_not_there_says_so(study: Study, tmp_path: Path) -> None:
    late = another(tmp_path, deadline=0.0)
    [line] = table_of(late, "words")
    assert line.remark == "not measured yet: majority, n-gram, n-gram tuned, probe, prompt, cnn, finetune"
    [absent] = table_of(another(tmp_path, material=tmp_path), "words")
    assert absent.remark.startswith("absent: toy.jsonl is not below")
    (tmp_path / "data" / "toy.jsonl").write_text("{}\n")
    [failed] = table_of(another(tmp_path), "words")
    assert failed.remark.startswith("failed: ")


@pytest.mark.parametrize(
    ("old", "new", "error", "match"),
    [
        ('slots = ["word"]', 'slot = ["word"]', UsageError, r"row\.0\."),
        ('name = "both"', 'name = "words"', UsageError, "one name"),
        ('"majority", "n-gram"', '"majority", "ngram"', UnknownName, "did you mean n-gram"),
        ("ensemble = 2", "ensemble = 0", UsageError, "ensemble"),
        ("widths = [8]", "width = [8]", UnknownName, "did you mean widths"),
        ("seeds = 2", "seeds = two", UsageError, "not TOML"),
        ('slots = ["word"]', 'slots = ["word"]\nwithout = {length = ["a"]}', UsageError, "none of its slots"),
    ],
)
def test_a_wrong_declaration_is_refused_before_any_work(
    study: Study, tmp_path: Path, old: str, new: str, error: type[Exception], match: str
) -> None:
    (tmp_path / "table.toml").write_text(DECLARATION.replace(old, new))
    with pytest.raises(error, match=match):
        table_of(another(tmp_path))
    assert not (tmp_path / "out").exists()


def test_no_rows_are_refused() -> None:
    declared = Declaration(row=(TableRow(name="a", title="a", source="a", slots=("word",)),))
    assert [row.name for row in declared.chosen(["a"])] == ["a"]
    with pytest.raises(UsageError, match="no rows named; there are a"):
        declared.chosen([])


def test_an_archive_that_cannot_be_unpacked_is_its_row_s_failure(tmp_path: Path) -> None:
    row = TableRow(name="t", title="t", source="tones.tar", slots=("pitch",))
    (tmp_path / "tones.tar").write_bytes(b"not an archive" * 100)
    with pytest.raises(CorpusError, match=r"tones\.tar cannot be unpacked"):
        find_source(row, tmp_path, tmp_path / "unpacked")
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "tones.tar", "w") as archive:
        archive.add(tmp_path / "other", "other")
    with pytest.raises(CorpusError, match="to a folder tones"):
        find_source(row, tmp_path, tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").iterdir())


def test_few_shots_cut_validation_too_and_are_nested() -> None:
    row = TableRow(name="a", title="a", source="a", slots=("word", "length"))
    corpus = toy_corpus(120)
    five, two = (rounds_of(row, corpus, 2, shot) for shot in (5, 2))
    for one in (*five, *two):
        assert len(one.rows("test")) == 24
    assert [len(one.rows("train")) for one in two] == [12, 12]
    assert [len(one.rows("valid")) for one in two] == [12, 12]
    assert {u.id for u in two[0].rows("train")} <= {u.id for u in five[0].rows("train")}
    assert {u.id for u in two[0].rows("train")} != {u.id for u in two[1].rows("train")}


def test_speakers_carry_the_interval_where_they_are_known() -> None:
    rows = [Utterance(str(i), "test", {}, speaker=speaker) for i, speaker in enumerate(["a", "b", "a", None])]
    assert drawn_groups(rows) == ["speaker a", "speaker b", "speaker a", "utterance 3"]
    assert drawn_groups(rows[:1]) is None


def test_a_cnn_learns_and_is_the_same_for_the_same_seed() -> None:
    sizes: dict[str, Any] = {"widths": (16,), "embedding": 8, "dropouts": (0.1,), "unit_dropouts": (0.0, 0.2)}
    options = CnnOptions(steps=40, evaluations=5, learning_rate=1e-2, **sizes)
    counts = [len(labels) for labels in TASK.slots.values()]
    told: list[str] = []
    one = train_cnn(TRAIN, VALID, counts, options, 1, lambda done, total, text: told.append(text))
    two = train_cnn(TRAIN, VALID, counts, options, 1, lambda done, total, text: None)
    assert one.valid_accuracy > 0.5
    assert (one.chosen, one.valid_accuracy) == (two.chosen, two.valid_accuracy)
    assert predict(one.model, VALID.units).equal(predict(two.model, VALID.units))
    alone = [predict(one.model, [row])[0].tolist() for row in VALID.units]
    assert predict(one.model, VALID.units).tolist() == alone
    assert told[-1] == "network 2 of 2"


def test_rows_from_an_archive_with_labels_left_out(tmp_path: Path) -> None:
    (tmp_path / "tones").mkdir()
    rows = []
    for i in range(24):
        label = ("high", "low", "odd")[i % 3]
        path = write_tone(
            tmp_path / "tones" / f"{i}.wav", {"high": 1800.0, "low": 200.0, "odd": 700.0}[label], i
        )
        split = "test" if i >= 18 else "train"
        rows.append(Utterance(str(i), split, {"pitch": label}, audio=path, speaker=f"s{i % 2}"))
    corpus = Corpus("tones", tuple(rows), {"pitch": ("high", "low", "odd")})
    write_manifest(corpus, tmp_path / "tones" / "manifest.jsonl")
    with tarfile.open(tmp_path / "tones.tar", "w") as archive:
        archive.add(tmp_path / "tones", "tones")
    row = TableRow(
        name="t",
        title="t",
        source="tones.tar",
        slots=("pitch",),
        valid="utterances",
        without={"pitch": ("odd",)},
    )
    source = find_source(row, tmp_path, tmp_path / "unpacked")
    assert find_source(row, tmp_path, tmp_path / "unpacked") == source
    read = read_row(row, source)
    with tarfile.open(tmp_path / "tones.tar", "w") as archive:
        archive.add(tmp_path / "tones" / "manifest.jsonl", "tones/manifest.jsonl")
    changed = find_source(row, tmp_path, tmp_path / "unpacked")
    assert sorted(path.name for path in changed.parent.iterdir()) == ["manifest.jsonl"]
    assert read.slots == {"pitch": ("high", "low")}
    assert (read.splits()["test"], read.splits()["valid"] >= 1, sum(read.splits().values())) == (4, True, 16)
    features = mfcc_features(read.utterances)
    assert features[0].shape == (24, 39)
    copied = [replace(u, id=f"copy of {u.id}") for u in Corpus.read(source).utterances]
    both = tmp_path / "both.jsonl"
    write_manifest(
        Corpus("tones", (*Corpus.read(source).utterances, *copied), Corpus.read(source).slots), both
    )
    once, twice = (read_row(row.model_copy(update={"without_copies": x}), both) for x in (True, False))
    assert 2 * len(once.utterances) == len(twice.utterances)
    cache = FeatureCache()
    cache.of(
        replace(read, utterances=tuple(replace(u, audio=read.utterances[0].audio) for u in read.utterances))
    )
    for cached, own in zip(cache.of(read), features, strict=True):
        np.testing.assert_array_equal(cached, own)
    forms = dict(mfcc_units(features, range(10)))
    assert [len(units[0]) == 24 for units in forms.values()] == [False, True, False, True]
    units = forms["as they are, merged"]
    high, low = (
        {u for x, row in zip(units, read.utterances, strict=True) if row.labels["pitch"] == y for u in x}
        for y in ("high", "low")
    )
    assert not high & low
    assert np.isfinite(np.concatenate(features)).all()
