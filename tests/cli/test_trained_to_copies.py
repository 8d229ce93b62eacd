"""`train --answer-copies`: what every command makes of it, and what overrides it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.material import QUICK, Run


@pytest.fixture
def heard_twice(run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path) -> Path:
    """A prompt trained to answer over two copies."""
    out = tmp_path / "steady"
    ran = run("train", clips, "--lm", toy, "--out", out, "--answer-copies", 2, *QUICK)
    assert ran.code == 0, ran.err
    assert " over 2 copies" in ran.out
    return out


def test_a_prompt_tells_how_it_hears(
    run: Run, toy: Path, clips: Path, heard_twice: Path, pitch: Path, tmp_path: Path
) -> None:
    shown = run("show", heard_twice)
    assert "the mean over a clip and 2 copies of it at other speeds" in shown.out
    assert " over 2 copies" in shown.out
    document = run("show", heard_twice, "--json").document
    assert (document["answer_copies"], document["metrics"]["valid"]["copies"]) == (2, 2)
    plain = run("show", pitch, "--json").document
    assert "answer_copies" not in plain
    assert "copies" not in run("show", pitch).out
    page = tmp_path / "page.html"
    ran = run("report", heard_twice, clips, "--lm", toy, "--out", page, "--baselines", "none")
    assert ran.code == 0, ran.err
    assert "heard at 2 other speeds too" in page.read_text()
    asked = ("report", heard_twice, clips, "--lm", toy, "--out", page, "--baselines", "none", "--force")
    assert run(*asked, "--copies", 0).code == 0
    assert "heard at" not in page.read_text()
    assert run(*asked, "--copies", 3).code == 2


def test_commands_hear_as_the_prompt_was_trained_and_as_they_are_told(
    run: Run, toy: Path, clips: Path, heard_twice: Path, pitch: Path, tmp_path: Path
) -> None:
    files = sorted(clips.glob("*/*_1.wav"))

    def answers(*flags: object) -> list[float]:
        ran = run("predict", *files, *flags, "--lm", toy, "--json", "--quiet")
        assert ran.code == 0, ran.err
        return [json.loads(line)["slots"]["label"]["scores"]["high"] for line in ran.out.splitlines()]

    own, once = answers("--prompt", heard_twice), answers("--prompt", heard_twice, "--copies", 0)
    assert own == answers("--prompt", heard_twice, "--copies", 2)
    assert own != pytest.approx(once, abs=1e-4)
    both = answers("--prompt", heard_twice, "--prompt", pitch)
    assert both[::2] == pytest.approx(own, abs=1e-5)
    assert both[1::2] == pytest.approx(answers("--prompt", pitch, "--copies", 0), abs=1e-5)
    scoring = (
        "evaluate",
        heard_twice,
        pitch,
        clips,
        "--lm",
        toy,
        "--split",
        "valid",
        "--baselines",
        "none",
    )
    told = run(*scoring, "--ensemble", "--json", "--quiet").document["evaluations"]
    assert [one["copies"] for one in told] == [2, 0, 2]
    told = run(*scoring, "--copies", 0, "--json", "--quiet").document["evaluations"]
    assert [one["copies"] for one in told] == [0, 0]
    shown = run(*scoring).out
    assert shown.count("each heard at 2 other speeds too") == 1
    saved = run("evaluate", heard_twice, clips, "--lm", toy, "--baselines", "none", "--save", "--quiet")
    assert saved.code == 0, saved.err
    assert " over 2 copies" in (heard_twice / "README.md").read_text().partition("- test:")[2]


def test_a_file_of_answers_keeps_each_tasks_number(
    run: Run, toy: Path, clips: Path, heard_twice: Path, pitch: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    asking = ("predict", clips / "low", "--prompt", heard_twice, "--prompt", pitch, "--lm", toy)
    asking += ("--out", out, "--json", "--quiet")
    assert run(*asking).document["answered"] == 12
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["task"]: row["copies"] for row in rows} == {"steady": 2, "pitch": 0}
    assert run(*asking).document == {"out": str(out), "answered": 0, "known": 12, "failed": {}}
    for copies, other in ((0, "over 2 copies of each clip, and this run's are over 0"), (2, "over 2")):
        ran = run(*asking, "--copies", copies)
        assert ran.code == 1
        assert other in ran.err


def test_folds_hear_their_tests_so_too(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    ran = run(
        "train", clips, "--lm", toy, "--folds", 3, "--out", out, "--answer-copies", 2, "--quiet", *QUICK
    )
    assert ran.code == 0, ran.err
    assert run("show", out / "fold2", "--json").document["answer_copies"] == 2


def test_units_have_no_copies_and_odd_numbers_are_refused(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    training = ("train", units, "--lm", toy, "--slots", "word", "--out", tmp_path / "a", *QUICK)
    ran = run(*training, "--answer-copies", 3, "--quiet")
    assert (ran.code, "even number of copies, not 3; take 0 to 20" in ran.error) == (2, True)
    told = run(*training, "--answer-copies", 2)
    assert told.code == 0, told.err
    assert "have units and no audio; they stay without speed copies" in told.err
    assert "over 2 copies" not in told.out
