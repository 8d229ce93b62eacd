"""The command `sweep`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli.material import QUICK, Run, rewritten


def test_a_sweep_leaves_a_table_and_the_best_prompt(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweeps" / "a"
    command = ("sweep", units, "--slots", "word", "--try", "learning-rate=1e-3,2e-2", "--try", "seed=0,1")
    command += ("--lm", toy, "--out", out, "--at-once", 3, *QUICK)
    ran = run(*command, "--json", "--quiet")
    assert ran.code == 0
    document = json.loads((out / "sweep.json").read_text())
    assert ran.document == document
    assert len(document["trials"]) == 4
    assert document["corpus"]["utterances"]["test"] == 0
    assert sorted(p.name for p in out.iterdir()) == ["best", "sweep.json"]
    assert run("evaluate", out / "best", units, "--lm", toy, "--quiet", "--baselines", "none").code == 0
    assert run(*command, "--quiet").code == 1
    shown = run(*command, "--force")
    assert shown.code == 0
    assert "4 trials on 12 validation utterances" in shown.out
    assert "too good by selection" in shown.out


def test_a_sweep_of_other_labels_is_not_continued(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copy(units, tmp_path / "source.jsonl"))
    command = (
        "sweep",
        source,
        "--slots",
        "word",
        "--try",
        "seed=0,1",
        "--lm",
        toy,
        "--out",
        tmp_path / "a",
        *QUICK,
    )

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt("interrupted")

    monkeypatch.setattr("speechprompt.experiments.sweep.finish", interrupted)
    assert run(*command, "--quiet").code == 130
    assert run(*command, "--quiet").code == 130  # the same sweep goes on
    other = {"labels": {"word": "alpha", "length": "short"}}
    rewritten(source, source, lambda rows: [*rows[:3], rows[3] | other, *rows[4:]])
    ran = run(*command, "--quiet")
    assert (ran.code, "left from another sweep" in ran.error) == (1, True)


def test_a_wrong_sweep_is_one_line(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    command = ("sweep", units, "--lm", toy, "--out", tmp_path / "a", "--quiet", *QUICK)
    for more, hint in (
        (("--try", "learning-rat=1,2"), "did you mean learning_rate"),
        (("--try", "learning-rate=1:2"), "--trials"),
        (("--try", "method=output,input"), "method"),
        (("--try", "seed=1,2", "--search", "random"), "--trials"),
    ):
        ran = run(*command, *more)
        assert (ran.code, hint in ran.error) == (2, True), ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        ("--ensemble", 2, "--try", "rotate-validation=false,true"),
        ("--ensemble", 2, "--rotate-validation", "--try", "ensemble=2,3"),
        ("--recipe", "few", "--try", "ensemble=2:4", "--search", "random", "--trials", 2),
    ],
)
def test_a_sweep_ranks_by_the_same_clips_only(
    run: Run, toy: Path, units: Path, tmp_path: Path, flags: tuple[object, ...]
) -> None:
    ran = run("sweep", units, "--lm", toy, "--out", tmp_path / "a", "--quiet", *flags)
    assert (ran.code, "these trials cannot be ranked" in ran.error) == (2, True), ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        ("--ensemble", 2, "--rotate-validation", "--try", "seed=0,1"),
        ("--try", "ensemble=1,2"),
        ("--try", "answer-copies=0,2"),
    ],
)
def test_a_sweep_of_trials_that_share_their_clips_goes_on(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path, flags: tuple[object, ...]
) -> None:
    ran = run("sweep", clips, "--lm", toy, "--out", tmp_path / "a", "--quiet", "--json", *flags, *QUICK)
    assert ran.code == 0, ran.err
    assert len(ran.document["trials"]) == 2


def test_a_range_of_copies_is_no_space(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    flags = ("--try", "answer-copies=0:4", "--search", "random", "--trials", 2, "--quiet")
    ran = run("sweep", units, "--lm", toy, "--out", tmp_path / "a", *flags)
    assert (ran.code, "list even ones: answer-copies=0,2,4" in ran.error) == (2, True)
