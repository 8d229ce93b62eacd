"""evaluate, predict, show and report: the same answers as the library's, and one line for whatever is wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cli.material import QUICK, Run, rewritten, without_slots, write_tone
from speechprompt import Artifact, Corpus, Predictor, SpokenLM, train
from speechprompt import evaluate as evaluate_in_python
from speechprompt.speech.manifest import write_manifest
from speechprompt.spoken_lm_folder import write_folder
from speechprompt.testing import ToyTokenizer, toy_lm


def test_evaluate_gives_the_numbers_of_the_library(run: Run, toy: Path, units: Path, trained: Path) -> None:
    ran = run("evaluate", trained, units, "--lm", toy, "--json", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    [found] = ran.document["evaluations"]
    lm = SpokenLM.load(toy)
    expected = evaluate_in_python(lm, Artifact.load(trained, lm), Corpus.read(units, ["word"]))
    timeless = json.loads(json.dumps(expected.to_json()))
    for baselines in (found["baselines"], timeless["baselines"]):
        for baseline in baselines:
            baseline.pop("seconds")
    assert found == timeless
    assert [baseline["name"] for baseline in found["baselines"]] == ["majority", "n-gram", "probe"]


def test_evaluate_and_predict_give_the_same_answers_over_copies(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, pitch: Path
) -> None:
    corpus = Corpus.read(clips)
    files = [u.audio for u in corpus.split("test")]
    answered = run("predict", *files, "--prompt", pitch, "--lm", toy, "--copies", 4, "--json", "--quiet")
    said = [json.loads(line)["slots"] for line in answered.out.splitlines()]
    scoring = ("evaluate", pitch, clips, "--lm", toy, "--baselines", "none", "--json", "--quiet")
    right = run(*scoring, "--copies", 4).document["evaluations"][0]["accuracy"]["estimate"]
    labels = [u.labels[next(iter(corpus.slots))] for u in corpus.split("test")]
    slots = [next(iter(slots.values()))["label"] for slots in said]
    assert right == pytest.approx(sum(a == b for a, b in zip(slots, labels, strict=True)) / len(labels))


def test_copies_of_training_clips_are_counted(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    recorded = Corpus.read(clips)
    copied = [replace(u, id=f"copy of {u.id}", split="test") for u in recorded.split("train")[:2]]
    kept = [u for u in recorded.utterances if u.split != "test"]
    corpus = replace(recorded, utterances=(*kept, *copied))
    manifest = write_manifest(corpus, tmp_path / "copied.jsonl")
    for command in (
        ("evaluate", pitch, manifest),
        ("report", pitch, manifest, "--out", tmp_path / "page.html"),
    ):
        assert "2 of 2 test utterances sound exactly like one in train" in run(*command, "--lm", toy).err


def test_two_prompts_are_compared(run: Run, toy: Path, units: Path, trained: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    flags = ("--slots", "word", "--seed", 3, "--quiet", *QUICK)
    assert run("train", units, "--lm", toy, "--out", second, *flags).code == 0
    scoring = ("evaluate", trained, second, units, "--lm", toy, "--baselines", "none")
    [comparison] = run(*scoring, "--json").document["comparisons"]
    assert (comparison["first"], comparison["second"]) == ("word", "second")
    assert 0 <= comparison["test"]["p_value"] <= 1
    assert "McNemar p = " in run(*scoring).out
    both = run(*scoring, "--ensemble", "--json").document
    assert [one["name"] for one in both["evaluations"]] == ["word", "second", "ensemble of 2"]
    alone = run("evaluate", trained, units, "--lm", toy, "--ensemble", "--quiet")
    assert (alone.code, "two prompt folders" in alone.error) == (2, True)


def test_saved_numbers_are_shown(run: Run, toy: Path, units: Path, trained: Path) -> None:
    before = (trained / "prompt.safetensors").read_bytes()
    scoring = (
        "evaluate",
        trained,
        units,
        "--lm",
        toy,
        "--split",
        "valid",
        "--baselines",
        "majority",
        "--save",
    )
    assert run(*scoring).code == 0
    document = run("show", trained, "--json").document
    low, estimate, high = (
        document["metrics"]["valid"]["accuracy"][key] for key in ("low", "estimate", "high")
    )
    assert low <= estimate <= high
    assert f"{100 * estimate:.1f} %" in run("show", trained).out
    assert "95 % interval" in (trained / "README.md").read_text()
    assert (trained / "prompt.safetensors").read_bytes() == before
    assert "alpha, beta, gamma" in run("show", trained).out


def test_evaluate_refuses_in_one_line(
    run: Run, toy: Path, units: Path, trained: Path, tmp_path: Path
) -> None:
    def unknown_label(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [without_slots(rows[0])] + [row | {"labels": {"word": "delta"}} for row in rows[1:]]

    strange = rewritten(units, tmp_path / "strange.jsonl", unknown_label)
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((tmp_path / "nothing", units, "--lm", toy), 1, "not a prompt folder"),
        ((trained, tmp_path / "nothing", "--lm", toy), 1, "does not exist"),
        ((trained, units, "--lm", toy, "--split", "tst"), 1, "it has train, valid, test"),
        ((trained, units), 2, "pass --lm with its folder"),
        ((trained, strange, "--lm", toy, "--baselines", "none"), 1, "delta"),
    ]
    for arguments, code, hint in cases:
        ran = run("evaluate", *arguments, "--quiet")
        assert (ran.code, ran.out) == (code, ""), (arguments, ran.err)
        assert hint in ran.error


@pytest.mark.parametrize("name", ["prompt_config.json", "prompt.safetensors", "metrics.json"])
def test_a_damaged_artifact_is_one_line(run: Run, toy: Path, units: Path, trained: Path, name: str) -> None:
    (trained / name).write_bytes((trained / name).read_bytes()[:-20])
    ran = run("evaluate", trained, units, "--lm", toy, "--quiet")
    assert ran.code == 1
    assert name in ran.error


def test_predict_answers_as_the_library_does(run: Run, toy: Path, clips: Path, pitch: Path) -> None:
    files = sorted(str(path) for path in clips.rglob("*.wav"))[:3]
    ran = run("predict", *files, "--prompt", pitch, "--lm", toy, "--json", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    predictor = Predictor(SpokenLM.load(toy), [pitch])
    expected = [json.loads(json.dumps(predictor.predict(file)[0].to_json())) for file in files]
    found = [json.loads(line) for line in ran.out.splitlines()]
    for ours, theirs in zip(found, expected, strict=True):
        scores = [one["slots"]["label"].pop("scores") for one in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        for one in (ours, theirs):
            one["score"] = one["slots"]["label"]["score"] = pytest.approx(one["score"], abs=1e-5)
        assert ours == theirs


def test_predict_shows_the_best_labels(run: Run, toy: Path, clips: Path, pitch: Path) -> None:
    file = clips / "low" / "low_1.wav"
    ran = run("predict", file, "--prompt", pitch, "--lm", toy, "--top-k", 2, "--quiet")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 3
    assert "high" in ran.out
    assert "low" in ran.out


def test_predict_reads_stdin(
    run: Run, toy: Path, clips: Path, pitch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = clips / "high" / "high_2.wav"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file.read_bytes())))
    piped = run("predict", "-", "--prompt", pitch, "--lm", toy, "--json").document
    named = run("predict", file, "--prompt", pitch, "--lm", toy, "--json").document
    assert piped["source"] == "-"
    assert piped["slots"] == named["slots"]


def test_a_file_that_cannot_be_read_does_not_stop_the_rest(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio")
    good = clips / "high" / "high_0.wav"
    files = (tmp_path / "empty.wav", good, tmp_path / "text.wav", tmp_path / "none.wav")
    ran = run("predict", *files, "--prompt", pitch, "--lm", toy, "--json", "--quiet")
    assert ran.code == 1
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [("error" in line) for line in lines] == [True, False, True, True]
    errors = ran.err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)
    assert str(tmp_path / "none.wav") in errors[2]


def test_predict_tells_two_prompts_of_one_name_apart(
    run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path
) -> None:
    ran = run(
        "predict", clips / "low" / "low_0.wav", "--prompt", pitch, "--prompt", pitch, "--lm", toy, "--quiet"
    )
    assert ran.code == 1
    assert "two artifacts are called 'pitch'" in ran.error


def test_report_is_one_file_with_clips(run: Run, toy: Path, clips: Path, pitch: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    command = ("report", pitch, clips, "--lm", toy, "--out", out, "--baselines", "majority,n-gram", "--quiet")
    ran = run(*command, "--json")
    assert (ran.code, ran.err) == (0, "")
    page = out.read_text()
    assert ran.document["report"] == str(out)
    assert "data:audio/flac" in page
    assert "Learning" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert run(*command).code == 1
    assert run(*command, "--force").code == 0


def test_the_page_of_the_package_holds(toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path) -> None:
    from speechprompt import TrainingOptions

    lm = SpokenLM.load(toy)
    options = TrainingOptions(steps=3, evaluations=1, batch_size=8, prompt_length=1)
    artifact = train(Corpus.from_folder(clips), lm, options=options)
    saved = artifact.save(tmp_path / "colour")
    tone = write_tone(tmp_path / "a.wav", 500)
    [prediction] = Predictor(lm, [saved]).predict(tone)
    assert prediction.task == "colour"
    assert torch.tensor(list(prediction.slots["label"].scores.values())).sum().item() == pytest.approx(1)


def test_another_tokenizer_of_the_same_name_is_refused(
    run: Run, toy: Path, clips: Path, pitch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyTokenizer, "fingerprint", "toy-tokenizer-2")
    for command in (("evaluate", pitch, clips), ("predict", clips / "low" / "low_0.wav", "--prompt", pitch)):
        ran = run(*command, "--lm", toy, "--quiet")
        assert ran.code == 1
        assert "toy-tokenizer-1" in ran.error
        assert "toy-tokenizer-2" in ran.error


def test_names_are_printed_as_they_are(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "[odd]"
    folder.mkdir()
    (folder / "[red]").symlink_to(clips / "high")
    (folder / "日本").symlink_to(clips / "low")
    out = tmp_path / "odd"
    assert run("train", folder, "--lm", toy, "--out", out, "--quiet", *QUICK).code == 0
    file = folder / "[red]" / "high_0.wav"
    ran = run("predict", file, "--prompt", out, "--lm", toy, "--top-k", 2, "--quiet")
    for text in (str(file), "[red]", "日本"):
        assert text in ran.out


def test_a_file_name_that_is_no_utf8_is_one_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "speechprompt", "baseline", b"\xff"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith(b"error: \\udcff does not exist")


@pytest.mark.parametrize("in_hardware", [True, False])
def test_answers_take_bfloat16_where_it_pays_and_numbers_do_not(
    run: Run, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_hardware: bool
) -> None:
    monkeypatch.setattr("speechprompt.spoken_lm.multiplies_bfloat16", lambda: in_hardware)
    wide = write_folder(tmp_path / "wide", toy_lm(width=128).model, "toy", "toy", "CC0-1.0")
    prompt = tmp_path / "word"
    assert run("train", units, "--lm", wide, "--out", prompt, "--slots", "word", "--quiet", *QUICK).code == 0

    def scores(*flags: str) -> list[float]:
        ran = run("predict", units, "--prompt", prompt, "--lm", wide, "--json", "--quiet", *flags)
        answers = [json.loads(line) for line in ran.out.splitlines()]
        return [score for answer in answers for score in answer["slots"]["word"]["scores"].values()]

    exact, rounded = scores("--dtype", "float32"), scores("--dtype", "bfloat16")
    assert exact != rounded
    assert exact == pytest.approx(rounded, abs=0.05)
    assert scores() == (rounded if in_hardware else exact)

    used: list[SpokenLM] = []
    monkeypatch.setattr("speechprompt.server.running.run_server", lambda lm, *_, **__: used.append(lm))
    monkeypatch.setattr("speechprompt.cli.evaluate.scored", lambda _, lm, *rest: used.append(lm))
    monkeypatch.setattr("speechprompt.cli.evaluate.compared", lambda *_: [])
    monkeypatch.setattr("speechprompt.cli.evaluate.parts_of", lambda _: [])
    run("evaluate", prompt, units, "--lm", wide, "--baselines", "none", "--quiet")
    assert run("serve", tmp_path, "--lm", wide).code == 0
    assert [lm.lm.dtype for lm in used] == [
        torch.float32,
        torch.bfloat16 if in_hardware else torch.float32,
    ]
