"""train --ensemble: several prompts in one folder, which every command takes as one."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli.material import QUICK, Run, write_tone
from cli.test_train import same
from speechprompt.prompting import joint, recipes, training
from speechprompt.speech.manifest import write_manifest
from speechprompt.testing import toy_corpus


def test_it_is_a_prompt_folder_like_any_other(
    run: Run, toy: Path, clips: Path, toy_tokenizer: None, tmp_path: Path
) -> None:
    out = tmp_path / "both"
    flags = ("--ensemble", 2, "--rotate-validation", "--speed-copies", 2, *QUICK)
    ran = run("train", clips, "--lm", toy, "--out", out, *flags)
    assert ran.code == 0, ran.err
    assert " in 2 prompts that answer together" in ran.out
    names = {path.name for path in out.iterdir()}
    assert names == {"README.md", "events.jsonl", "metrics.json", "prompt.safetensors", "prompt_config.json"}
    assert "in 2 prompts that answer together" in (out / "README.md").read_text()
    shown = run("show", out)
    assert "2 that answer together" in shown.out
    config = run("show", out, "--json").document
    assert [member["seed"] for member in config["members"]] == [0, 1000]
    assert config["options"]["rotate_validation"] is True
    tone = write_tone(tmp_path / "new.wav", 1800.0, seed=99)
    found = run("predict", tone, "--prompt", out, "--lm", toy, "--json")
    assert found.code == 0, found.err
    scored = run("evaluate", out, clips, "--lm", toy, "--split", "valid", "--json")
    assert scored.code == 0, scored.err
    again = run("train", clips, "--lm", toy, "--out", out, "--ensemble", 2)
    assert "--force" in again.err


def test_seeds_make_ensembles_each(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    ran = run("train", units, "--lm", toy, "--out", tmp_path / "s", "--slots", "word", "--seed", "0,1",
              "--ensemble", 2, *QUICK)  # fmt: skip
    assert ran.code == 0, ran.err
    seeds = [
        [member["seed"] for member in json.loads(path.read_text())["members"]]
        for path in sorted((tmp_path / "s").glob("*/prompt_config.json"))
    ]
    assert seeds == [[0, 1000], [1, 1001]]


def test_an_interrupted_ensemble_goes_on_with_the_same_result(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--lm", toy, "--slots", "word", "--steps", 12, "--evaluations", 3, "--batch-size", 16,
             "--prompt-length", 1, "--ensemble", 2, "--rotate-validation")  # fmt: skip
    monkeypatch.setattr(joint, "train_runs", partial(training.train_runs, checkpoint_every=5))

    with monkeypatch.context() as patch:
        real = training.train_step
        count = iter(range(100))

        def stopped(*values: object) -> object:
            if next(count) == 8:
                raise KeyboardInterrupt
            return real(*values)  # type: ignore[arg-type]

        patch.setattr(training, "train_step", stopped)
        ran = run("train", units, "--out", tmp_path / "broken", *flags)
    assert ran.code == 130
    resumed = run("train", units, "--out", tmp_path / "broken", *flags)
    assert "resuming at step 5" in resumed.err
    run("train", units, "--out", tmp_path / "whole", *flags)
    assert same(tmp_path / "whole", tmp_path / "broken")


def test_few_clips_have_a_recipe_of_their_own(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    told, quick, names = "clips to train on are few", QUICK[:-2], iter("abcdefgh")

    def trained(*flags: object) -> tuple[dict[str, Any], bool]:
        out = tmp_path / next(names)
        ran = run("train", units, "--lm", toy, "--out", out, "--slots", "word", *flags)
        assert ran.code == 0, ran.err
        return run("show", out, "--json").document, told in ran.err

    config, notice = trained(*quick)
    assert (config["recipe"], len(config["members"]), config["options"]["steps"]) == ("few", 3, 6)
    assert "answer_copies" not in config  # there are units and no recordings
    assert notice
    for flags in (("--recipe", "default", *quick), ("--ensemble", 1, *quick), QUICK):
        config, notice = trained(*flags)
        assert ("members" in config, notice) == (False, False), flags
    config, notice = trained("--recipe", "few", *QUICK)
    assert (config["recipe"], len(config["members"]), notice) == ("few", 3, False)
    config, _ = trained("--recipe", "few", "--ensemble", 1, "--no-rotate-validation", *QUICK)
    assert "members" not in config


def test_many_clips_have_the_recipe_default(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = ("train", units, "--lm", toy, "--slots", "word", *QUICK[:-2])
    rounds = run(*training, "--out", tmp_path / "rounds", "--folds", 3)
    assert "18 clips to train on are few" in rounds.err
    assert run("show", tmp_path / "rounds" / "fold1", "--json").document["recipe"] == "few"
    monkeypatch.setattr(recipes, "FEW_CLIPS", 10)
    many = run(*training, "--out", tmp_path / "many")
    assert "are few" not in many.err
    assert run("show", tmp_path / "many", "--json").document["recipe"] == "default"


def test_prompts_of_one_run_have_the_recipe_that_each_corpus_asks_for(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipes_in(out: Path) -> dict[str, str]:
        folders = [path for path in out.iterdir() if path.is_dir()]
        return {path.name: run("show", path, "--json").document["recipe"] for path in folders}

    training = ("--lm", toy, "--slots", "word", *QUICK[:-2])
    assert run("train", units, *training, "--out", tmp_path / "seeds", "--seed", "0,1").code == 0
    assert recipes_in(tmp_path / "seeds") == {"word_seed-0": "few", "word_seed-1": "few"}
    small = tmp_path / "small.jsonl"
    write_manifest(replace(toy_corpus(30), name="small"), small)
    monkeypatch.setattr(recipes, "FEW_CLIPS", 30)
    ran = run("train", units, small, *training, "--out", tmp_path / "both")
    assert ran.code == 0, ran.err
    assert recipes_in(tmp_path / "both") == {"toy": "default", "small": "few"}


def test_prompts_that_would_be_very_short_are_told(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "PROMPT_BUDGET", 1_000)
    few = run(
        "train",
        units,
        "--lm",
        toy,
        "--out",
        tmp_path / "a",
        "--slots",
        "word",
        "--recipe",
        "few",
        *QUICK[:-2],
    )
    assert "each of 3 prompts over toy" in few.err
    plain = run("train", units, "--lm", toy, "--out", tmp_path / "b", "--slots", "word", *QUICK[:-2])
    assert "notice" not in plain.err


def test_validation_in_turn_needs_several(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    ran = run("train", units, "--lm", toy, "--out", tmp_path / "a", "--rotate-validation", "--quiet")
    assert ran.code == 2
    assert "ask for --ensemble 3" in ran.error


def test_a_start_from_several_prompts_is_told(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    training = ("train", units, "--lm", toy, "--slots", "word", *QUICK)
    both = tmp_path / "both"
    assert run(*training, "--ensemble", 2, "--out", both).code == 0
    told = f"{both} holds 2 prompts that answer together, and training starts from the first of them"
    starting = (*training, "--init-from", both)
    alone = run(*starting, "--out", tmp_path / "one")
    assert alone.code == 0, alone.err
    assert told in " ".join(alone.err.split())
    each = run(*starting, "--ensemble", 2, "--out", tmp_path / "two")
    assert each.code == 0, each.err
    assert told not in " ".join(each.err.split())
    folds = run(*starting, "--folds", 3, "--out", tmp_path / "cv")
    assert folds.code == 0, folds.err
    assert told in " ".join(folds.err.split())
