"""train --ngrams: what the terminal says of them, and an interruption while they are fitted."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli.material import Run
from cli.test_train import same
from speechprompt.prompting import joint, training


def test_an_interrupted_fit_of_ngrams_goes_on_with_the_same_result(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--lm", toy, "--slots", "word", "--steps", 15, "--evaluations", 3, "--batch-size", 16,
             "--prompt-length", 1, "--ngrams", 64)  # fmt: skip
    monkeypatch.setattr(joint, "train_runs", partial(training.train_runs, checkpoint_every=10))

    def interrupted(lm: Any, run: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "add_ngrams", interrupted)
        ran = run("train", units, "--out", tmp_path / "broken", *flags)
    assert ran.code == 130
    assert "the same command goes on" in ran.err.splitlines()[-1]
    resumed = run("train", units, "--out", tmp_path / "broken", *flags)
    assert "resuming at step 10" in resumed.err
    whole = run("train", units, "--out", tmp_path / "whole", *flags)
    assert same(tmp_path / "whole", tmp_path / "broken")

    found = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    ngrams, reached = found["ngrams"], found["valid"]["accuracy"]
    assert "fitting weights of n-grams beside the prompt" in whole.err
    told = f"valid {100 * ngrams['prompt_alone']:.1f} % -> {100 * reached:.1f} %"
    assert f"n-grams count {ngrams['share']:g} times beside the prompt: {told}" in whole.err
