"""Answers in a file: folders and manifests in, three formats out, resumed after anything, one failure at a time."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.material import QUICK, Run, rewritten
from speechprompt.cli import answer_formats, prediction_file
from speechprompt.cli.prediction_file import PredictionFile
from speechprompt.errors import CorpusError
from speechprompt.prompting import bulk
from speechprompt.prompting.predictor import Predictor


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of any kind."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return pq.read_table(path).to_pylist()


def interrupted_at(call: int) -> Any:
    """`Predictor.answer`, stopped by the user at its nth call."""
    real, calls = Predictor.answer, []

    def answer(self: Predictor, questions: Any) -> Any:
        calls.append(len(questions))
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(self, questions)

    return answer


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_becomes_a_file_once(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, bad = tmp_path / f"answers.{kind}", tmp_path / "bad.wav"
    bad.write_text("not audio")
    command = ("predict", clips, bad, "--prompt", pitch, "--lm", toy, "--out", out, "--quiet", "--json")
    first = run(*command)
    assert first.code == 1
    assert first.document["answered"] == 24
    assert list(first.document["failed"]) == [str(bad)]
    rows = rows_in(out)
    assert [row["id"] for row in rows] == [*sorted(map(str, clips.rglob("*.wav"))), str(bad)]
    assert str(bad) in rows[-1]["error"]
    assert not list(tmp_path.glob("*.part*"))
    asked: list[str] = []
    real = bulk._hear
    monkeypatch.setattr(bulk, "_hear", lambda predictor, one: asked.append(one.id) or real(predictor, one))
    assert run(*command).document == first.document | {"answered": 0, "known": 24}
    assert asked == [str(bad)]  # what failed is tried again
    bad.write_bytes((clips / "low" / "low_0.wav").read_bytes())
    again = run(*command)
    assert (again.code, again.document["answered"], again.document["known"]) == (0, 1, 24)
    assert not any(row.get("error") for row in rows_in(out))
    assert len(rows_in(out)) == 25
    before = out.read_bytes()
    assert run(*command).document["known"] == 25
    assert out.read_bytes() == before


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_killed_run_goes_on_where_it_was(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict", clips, "--prompt", pitch, "--lm", toy, "--quiet", "--json", "--out")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    assert run(*command, whole).code == 0
    monkeypatch.setattr(bulk, "BATCH_CLIPS", 4)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "answer", interrupted_at(4))
        stopped = run(*command, out)
    assert stopped.code == 130
    assert "12 answered clips are kept" in stopped.err
    part = tmp_path / "answers.jsonl.part"
    part.write_bytes(part.read_bytes()[: -cut or None])  # a kill may cut the last line
    ended = run(*command, out)
    assert (ended.code, ended.document["known"]) == (0, 12 if not cut else 11)
    ours, theirs = (
        {row["id"]: (row["slots"]["label"]["label"], round(row["score"], 4)) for row in rows_in(path)}
        for path in (out, whole)
    )
    assert ours == theirs
    assert len(rows_in(out)) == 24


def test_answers_of_another_prompt_are_not_mixed_in(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "pitch"
    assert run("train", clips, "--lm", toy, "--out", other, "--quiet", "--seed", 1, *QUICK).code == 0
    out, strange = tmp_path / "a.csv", tmp_path / "b.csv"
    command = ("predict", clips / "low", "--lm", toy, "--quiet", "--json", "--out", out, "--prompt")
    assert run(*command, pitch).code == 0
    for prompts, hint in (([other], "another prompt 'pitch'"), ([pitch, "--prompt", pitch], "two artifacts")):
        ran = run(*command, *prompts)
        assert ran.code == 1
        assert hint in ran.error
    strange.write_text("colour,price\nred,3\n")
    assert "holds no answers" in run(*command[:-3], "--out", strange, "--prompt", pitch).error
    assert strange.read_text().startswith("colour")
    assert run(*command, other, "--force").document["answered"] == 12
    assert len(rows_in(out)) == 12
    assert run(*command[:-3], "--out", tmp_path / "a.txt", "--prompt", pitch).code == 2


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_answers_in_two_precisions_are_not_mixed(
    run: Run, toy: Path, units: Path, trained: Path, tmp_path: Path, kind: str
) -> None:
    out, few = tmp_path / f"answers.{kind}", tmp_path / "few.jsonl"
    few.write_text("".join(units.read_text().splitlines(keepends=True)[:31]))
    common = ("--prompt", trained, "--lm", toy, "--out", out, "--quiet", "--json", "--dtype")
    assert run("predict", few, *common, "bfloat16").code == 0
    before = out.read_bytes()
    refused = run("predict", units, *common, "float32")
    assert refused.code == 1
    assert "computed in bfloat16, and this run computes in float32; pass --dtype bfloat16" in refused.error
    assert (out.read_bytes(), list(tmp_path.glob("*.part"))) == (before, [])
    ran = run("predict", units, *common, "bfloat16")
    assert (ran.code, ran.document["answered"], ran.document["known"]) == (0, 30, 30)
    assert [row["dtype"] for row in rows_in(out)] == ["bfloat16"] * 60
    assert run("predict", few, *common, "float32", "--force").code == 0
    assert {row["dtype"] for row in rows_in(out)} == {"float32"}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_from_before_precisions_were_kept_counts_as_float32(
    run: Run,
    toy: Path,
    units: Path,
    trained: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, few = tmp_path / f"answers.{kind}", tmp_path / "few.jsonl"
    few.write_text("".join(units.read_text().splitlines(keepends=True)[:31]))
    common = ("--prompt", trained, "--lm", toy, "--out", out, "--quiet", "--json", "--dtype")
    with monkeypatch.context() as before:
        before.delitem(answer_formats.COLUMNS, "dtype")  # type: ignore[arg-type]
        before.setattr(
            prediction_file,
            "line_of",
            lambda row: answer_formats.line_of(
                {name: value for name, value in row.items() if name != "dtype"}
            ),
        )
        assert run("predict", few, *common, "float32").code == 0
    assert "dtype" not in rows_in(out)[0]
    assert (
        "computed in float32, and this run computes in bfloat16"
        in run("predict", units, *common, "bfloat16").error
    )
    assert run("predict", units, *common, "float32").document["known"] == 30
    assert [row.get("dtype") or "" for row in rows_in(out)] == [""] * 30 + ["float32"] * 30


def test_a_manifest_of_units_needs_no_audio(
    run: Run, toy: Path, units: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.parquet"
    ran = run("predict", units, "--prompt", trained, "--lm", toy, "--out", out, "--quiet", "--json")
    assert (ran.code, ran.document["answered"]) == (0, 60)
    rows = rows_in(out)
    assert rows[0]["id"] == "toy_0000"
    assert all(json.loads(row["scores"])[row["label"]] == row["score"] for row in rows)
    lines = run("predict", units, "--prompt", trained, "--lm", toy, "--quiet", "--json").out.splitlines()
    assert [json.loads(line)["source"] for line in lines] == [row["id"] for row in rows]


def test_a_name_that_is_not_utf8_is_its_clips_failure(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    folder, out = Path(shutil.copytree(clips, tmp_path / "clips")), tmp_path / "answers.jsonl"
    odd = os.fsdecode(os.fsencode(folder / "low" / "b") + b"\xff.wav")
    shutil.copy(folder / "low" / "low_0.wav", odd)
    ran = run("predict", folder, "--prompt", pitch, "--lm", toy, "--out", out, "--quiet", "--json")
    assert (ran.code, ran.document["answered"]) == (1, 24)
    assert list(ran.document["failed"]) == [repr(odd)]
    assert "rename the file" in ran.error
    assert not list(tmp_path.glob("*.part"))
    ran = run(
        "predict", odd, folder / "low" / "low_0.wav", "--prompt", pitch, "--lm", toy, "--json", "--quiet"
    )
    assert ran.code == 1
    assert ["error" in json.loads(line) for line in ran.out.splitlines()] == [True, False]
    for command in ("train", "encode"):
        ran = run(command, folder, "--lm", toy, "--out", tmp_path / "out", "--quiet")
        assert ran.code == 1
        assert repr(odd) in ran.error


def test_a_unit_that_no_lm_has_is_its_rows_failure(
    run: Run, toy: Path, units: Path, trained: Path, tmp_path: Path
) -> None:
    wrong = rewritten(
        units,
        tmp_path / "wrong.jsonl",
        lambda rows: [*rows[:2], rows[2] | {"units": [9999, *rows[2]["units"][1:]]}, *rows[3:]],
    )
    ran = run(
        "predict", wrong, "--prompt", trained, "--lm", toy, "--out", tmp_path / "a.jsonl", "--json", "--quiet"
    )
    assert (ran.code, ran.document["answered"], list(ran.document["failed"])) == (1, 59, ["toy_0001"])
    assert "unit 9999 is not among the 20 units" in ran.error


def test_half_a_clip_in_the_journal_is_answered_again(tmp_path: Path) -> None:
    out, digests = tmp_path / "a.jsonl", {"x": "1", "y": "2"}
    rows = [{"id": "a", "task": "x", "prompt": "1"}, {"id": "a", "task": "y", "prompt": "2"}]
    rows += [{"id": "b", "task": "x", "prompt": "1"}]
    part = tmp_path / "a.jsonl.part"
    part.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "b", "ta')
    with PredictionFile.open(out, digests, "float32") as file:
        assert set(file.done) == {"a"}
    assert [json.loads(line)["id"] for line in part.read_text().splitlines()] == ["a", "a"]


def test_another_file_under_an_answered_id_is_not_taken_for_it(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    """Relative ids of two folders are the same; the answers of one are not the other's."""
    for folder, name in (("a", "low"), ("b", "high")):
        (tmp_path / folder).mkdir()
        shutil.copy(clips / name / f"{name}_0.wav", tmp_path / folder / "0001.wav")
        (tmp_path / folder / "metadata.csv").write_text("file_name\n0001.wav\n")
    rest = ("--prompt", pitch, "--lm", toy, "--out", tmp_path / "a.jsonl", "--quiet", "--json")
    assert run("predict", tmp_path / "a", *rest).document["answered"] == 1
    before = (tmp_path / "a.jsonl").read_bytes()
    ran = run("predict", tmp_path / "b", *rest)
    assert ran.code == 1
    assert "under the id '0001.wav'" in ran.error
    assert run("predict", tmp_path / "a", *rest).document["known"] == 1
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_answers_over_copies_stand_in_a_file_of_their_own(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    folder = ("predict", clips, "--prompt", pitch, "--lm", toy, "--quiet", "--json")
    for kind in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"a.{kind}"
        assert run(*folder, "--out", out, "--copies", 2).document["answered"] == 24
        before = out.read_bytes()
        ran = run(*folder, "--out", out)
        assert ran.code == 1
        assert f"{out} holds answers over 2 copies of each clip, and this run's are over 0" in ran.error
        assert run(*folder, "--out", out, "--copies", 2).document["known"] == 24
        assert out.read_bytes() == before
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {row["copies"] for row in rows} == {2}
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({**row, "copies": "many"}) + "\n" for row in rows))
    assert "holds no answers of predict" in run(*folder, "--out", tmp_path / "b.jsonl").error


@pytest.mark.parametrize("copies", [2, "many"])
def test_a_stopped_run_goes_on_over_as_many_copies_only(tmp_path: Path, copies: object) -> None:
    part = tmp_path / "a.jsonl.part"
    part.write_text(json.dumps({"id": "a", "task": "x", "prompt": "1", "copies": copies}) + "\n")
    before = part.read_text()
    for asked in (0, 4):
        with pytest.raises(CorpusError, match=f"answers over {copies} copies of each clip"):
            PredictionFile.open(tmp_path / "a.jsonl", {"x": "1"}, "float32", copies={"x": asked})
    assert part.read_text() == before
    if copies == 2:
        with PredictionFile.open(tmp_path / "a.jsonl", {"x": "1"}, "float32", copies={"x": 2}) as file:
            assert set(file.done) == {"a"}


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_an_odd_number_of_copies_is_refused_before_anything_is_read(
    run: Run, tmp_path: Path, command: str
) -> None:
    prompts = ("--prompt", tmp_path) if command == "predict" else ()
    nowhere = tmp_path / "nowhere"
    ran = run(command, nowhere, nowhere, *prompts, "--copies", 3, "--quiet")
    assert ran.code == 2
    assert "even number of copies, not 3" in ran.error


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    out, digests = tmp_path / "a.jsonl", {"x": "1"}
    with PredictionFile.open(out, digests, "float32"):
        for force in (False, True):
            with pytest.raises(CorpusError, match="another run is writing"):
                PredictionFile.open(out, digests, "float32", force)
    with PredictionFile.open(out, digests, "float32") as file:
        file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_folder_that_takes_no_files_is_not_taken_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refused(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(tmp_path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", refused)  # as /proc does
    with pytest.raises(CorpusError, match=r"no file can be written in .* \(No such file or directory\)"):
        PredictionFile.open(tmp_path / "a.jsonl", {"x": "1"}, "float32")


def test_rows_of_fewer_prompts_are_not_thrown_away(tmp_path: Path) -> None:
    out, part = tmp_path / "a.jsonl", tmp_path / "a.jsonl.part"
    part.write_text("".join(json.dumps({"id": i, "task": "x", "prompt": "1"}) + "\n" for i in "abc"))
    before = part.read_text()
    with pytest.raises(CorpusError, match="lacks answers of some of these prompts"):
        PredictionFile.open(out, {"x": "1", "y": "2"}, "float32")
    assert part.read_text() == before


def test_a_stopped_run_that_starts_a_file_anew_goes_on(
    run: Run, toy: Path, units: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "answers.jsonl"
    command = ("predict", units, "--prompt", trained, "--lm", toy, "--out", out, "--quiet", "--json")
    assert run(*command).code == 0
    before = out.read_bytes()
    monkeypatch.setattr(bulk, "BATCH_CLIPS", 20)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "answer", interrupted_at(3))
        stopped = run(*command, "--force")
    part = tmp_path / "answers.jsonl.anew.part"
    assert (stopped.code, out.read_bytes()) == (130, before)
    assert f"40 answered clips are kept, and the same command goes on from {part}" in " ".join(
        stopped.err.split()
    )
    with part.open("a") as file:
        file.write(json.dumps({"id": "old", "task": "word", "prompt": "another"}) + "\n")
    ran = run(*command, "--force")
    assert (ran.document["known"], ran.document["answered"]) == (40, 20)
    assert (len(rows_in(out)), list(tmp_path.glob("*.part"))) == (60, [])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_the_user_added_are_not_lost(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / f"a.{kind}"
    command = ("predict", "--prompt", pitch, "--lm", toy, "--quiet", "--json", "--out", out)
    assert run(*command, clips / "low").code == 0
    rows = [{**row, "checked_by": "Ann"} for row in rows_in(out)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), out)
    else:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    before = out.read_bytes()
    ran = run(*command, clips)
    assert ran.code == 1
    assert "would lose: 'checked_by'; choose another --out, or pass --force" in ran.error
    assert (out.read_bytes(), list(tmp_path.glob("*.part"))) == (before, [])


def test_a_row_with_more_cells_than_columns_is_not_cut(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("id,source,task,prompt,error\na,a.wav,x,1,,checked\n")
    with pytest.raises(CorpusError, match="row of 'a' has more cells"):
        PredictionFile.open(out, {"x": "1"}, "float32")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.jsonl", '{"error": "disk full"}\n'),
        ("log.jsonl", '{"id": "a", "error": "disk full"}\n'),
        ("log.jsonl", '{"id": "a", "source": "a.wav", "error": "disk full", "host": "b"}\n'),
        ("log.jsonl", '{"id": "a", "source": "a.wav", "error": {"code": 5}}\n'),
        ("log.jsonl", "1\n2\n"),
        ("table.csv", "colour,price\n"),
        ("table.csv", "id,error\na,late\n"),
        ("table.csv", "id,source,error\na,b,late\n"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, name: str, content: str) -> None:
    out = tmp_path / name
    out.write_text(content)
    with pytest.raises(CorpusError, match="holds no answers of predict"):
        PredictionFile.open(out, {"x": "1"}, "float32")
    assert out.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_an_empty_file_is_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with PredictionFile.open(tmp_path / name, {"x": "1"}, "float32") as file:
        assert file.done == {}
        file.finish()
