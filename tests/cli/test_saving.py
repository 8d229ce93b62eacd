"""What is trained is kept until it is saved, and what lies in the run folder ends nothing."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest

from cli.material import QUICK, Run
from speechprompt.prompting import joint, training
from speechprompt.prompting.artifact import Artifact


@pytest.mark.parametrize(
    "command", [("train",), ("train", "--seed", "0,1"), ("sweep", "--try", "seed=0,1", "--at-once", "2")]
)
def test_a_training_that_could_not_be_saved_is_not_lost(
    run: Run,
    toy: Path,
    units: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    verb, *flags = command
    call = (verb, units, "--lm", toy, "--slots", "word", *QUICK, *flags, "--out", tmp_path / "out")
    monkeypatch.setattr(joint, "train_runs", partial(training.train_runs, checkpoint_every=4))

    def full(artifact: Artifact, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "_write", full)
        ran = run(*call, "--quiet")
    assert ran.code == 1
    assert "No space left" in ran.error
    steps, step = [], training.train_step
    monkeypatch.setattr(training, "train_step", lambda lm, runs: steps.append(1) or step(lm, runs))
    assert run(*call).code == 0
    assert len(steps) == 2  # of 6: the checkpoint of step 4 was still there
    assert not list(tmp_path.rglob("checkpoint*"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("leftover", "stays"), [("checkpoint.pt.tmp", False), ("thesis.txt", True)])
def test_leftovers_in_the_run_folder_end_no_training(
    run: Run, toy: Path, units: Path, tmp_path: Path, leftover: str, stays: bool
) -> None:
    (tmp_path / "a.run").mkdir()
    (tmp_path / "a.run" / leftover).write_bytes(b"half of it")
    ran = run("train", units, "--lm", toy, "--slots", "word", *QUICK, "--out", tmp_path / "a", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["task"] == "word"
    assert (tmp_path / "a.run" / leftover).exists() is stays
    assert (tmp_path / "a.run").exists() is stays
