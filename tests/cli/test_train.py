"""train: what it writes, what it refuses before any work, and that an interruption costs nothing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli.material import QUICK, Run, rewritten, without_slots
from speechprompt import Artifact, Corpus, SpokenLM, evaluate
from speechprompt.prompting import joint, training
from speechprompt.speech.splits import shots
from speechprompt.testing import toy_lm


def tensors(artifact: Path) -> dict[str, torch.Tensor]:
    return load_file(artifact / "prompt.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = tensors(first), tensors(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def steps_of(artifact: Path) -> list[int]:
    events = [json.loads(line) for line in (artifact / "events.jsonl").read_text().splitlines()]
    return [event["step"] for event in events if event["event"] == "step"]


def test_train_writes_an_artifact_and_says_what_is_next(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    out = tmp_path / "prompts" / "word"
    ran = run("train", units, "--lm", toy, "--out", out, "--slots", "word", *QUICK)
    assert ran.code == 0
    assert f"next: speechprompt evaluate {out} {units} --lm {toy}" in ran.out
    assert "training 6/6" in ran.err
    names = {path.name for path in out.iterdir()}
    assert names == {"README.md", "events.jsonl", "metrics.json", "prompt.safetensors", "prompt_config.json"}
    assert [path.name for path in out.parent.iterdir()] == ["word"]
    assert steps_of(out) == [1, 2, 3, 4, 5, 6]


def test_train_prints_json_alone(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    ran = run("train", units, "--lm", toy, "--out", tmp_path / "a", "--json", "--quiet", *QUICK)
    assert ran.err == ""
    document = ran.document
    assert document["slots"] == {"word": ["alpha", "beta", "gamma"], "length": ["short", "long"]}
    assert 0 <= document["valid"]["accuracy"] <= 1
    assert document["trained_parameters"] > 0


def test_defaults_give_way_to_the_file_and_the_file_to_flags(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    config = tmp_path / "options.toml"
    config.write_text(
        f'lm = "{toy}"\nslots = ["word"]\nsteps = 4\nbatch-size = 16\nlearning_rate = 0.01\nbalanced = true\n'
        'clip_norm = "none"\nevaluations = 1\nprompt_length = 2\n'
    )
    ran = run("train", units, "--out", tmp_path / "a", "--config", config, "--steps", 3, "--json", "--quiet")
    assert ran.code == 0
    options = run("show", tmp_path / "a", "--json").document["options"]
    assert (options["steps"], options["batch_size"], options["learning_rate"]) == (3, 16, 0.01)
    assert options["balanced"] is True
    assert options["clip_norm"] is None
    assert options["seed"] == 0
    assert list(ran.document["slots"]) == ["word"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [("stepz = 3\n", "steps"), ("[train]\nsteps = 3\n", "unknown option"), ("steps = \n", "not TOML"),
     ("[steps]\na = 3\n", "steps_a")],
)  # fmt: skip
def test_a_wrong_file_is_a_usage_error(run: Run, units: Path, tmp_path: Path, text: str, hint: str) -> None:
    config = tmp_path / "options.toml"
    config.write_text(text)
    ran = run("train", units, "--out", tmp_path / "a", "--config", config, "--quiet")
    assert ran.code == 2
    assert hint in ran.error


def only_one_label(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [without_slots(rows[0])] + [row | {"labels": {"word": "alpha"}} for row in rows[1:]]


def test_bad_material_is_one_line_and_leaves_nothing(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    cases: list[tuple[object, tuple[str, ...], int, str]] = [
        (tmp_path / "nowhere", (), 1, "does not exist"),
        (units, ("--slots", "wrd"), 2, "did you mean word"),
        (units, ("--lm", "tinny"), 2, "spoken LM"),
        (units, ("--device", "abacus"), 2, "--device cpu"),
        (units, ("--init-from", str(tmp_path)), 1, "not a prompt folder"),
        (rewritten(units, tmp_path / "one.jsonl", only_one_label), (), 1, "one label"),
        (rewritten(units, tmp_path / "twice.jsonl", lambda rows: [*rows, rows[1]]), (), 1, "toy_0000"),
        (
            rewritten(units, tmp_path / "foreign.jsonl", lambda rows: [rows[0] | {"tokenizer": "other"}, *rows[1:]]),
            (), 1, "units of other",
        ),
        (
            rewritten(
                units, tmp_path / "unseen.jsonl",
                lambda rows: [
                    row | {"split": "test"} if row.get("labels", {}).get("word") == "gamma" else row for row in rows
                ],
            ),
            (), 1, "gamma",
        ),
    ]  # fmt: skip
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty").mkdir()
    cases += [(tmp_path / "empty.jsonl", (), 1, "empty"), (tmp_path / "empty", (), 1, "empty")]
    before = sorted(tmp_path.iterdir())
    for source, flags, code, hint in cases:
        lm = () if "--lm" in flags else ("--lm", toy)
        ran = run("train", source, *lm, "--out", tmp_path / "out", *flags, "--quiet", *QUICK)
        assert (ran.code, ran.out) == (code, ""), (source, flags, ran.err)
        assert hint in ran.error
        assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten_without_force(run: Run, toy: Path, units: Path, trained: Path) -> None:
    before = tensors(trained)
    again = ("train", units, "--lm", toy, "--out", trained, "--slots", "length", "--quiet", *QUICK)
    ran = run(*again)
    assert ran.code == 1
    assert "--force" in ran.error
    assert all(torch.equal(before[name], tensors(trained)[name]) for name in before)
    assert run(*again, "--force").code == 0
    assert run("show", trained, "--json").document["task"] == "length"


def test_force_does_not_replace_what_is_no_prompt(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    ran = run("train", units, "--lm", toy, "--out", tmp_path, "--force", "--quiet", *QUICK)
    assert ran.code == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_broken_run_goes_on_with_the_same_result(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--lm", toy, "--slots", "word", "--steps", 15, "--evaluations", 3, "--batch-size", 16,
             "--prompt-length", 1, "--prompt-dropout", 0.1, "--patience", 9)  # fmt: skip
    monkeypatch.setattr(joint, "train_runs", partial(training.train_runs, checkpoint_every=10))
    assert run("train", units, "--out", tmp_path / "whole", *flags).code == 0
    step = training.train_step

    def interrupted(lm: Any, runs: Any) -> Any:
        if runs[0].progress.step == 13:
            raise KeyboardInterrupt
        return step(lm, runs)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", interrupted)
        ran = run("train", units, "--out", tmp_path / "broken", *flags)
    assert ran.code == 130
    assert "the same command goes on" in ran.err.splitlines()[-1]
    assert not (tmp_path / "broken").exists()
    ran = run("train", units, "--out", tmp_path / "broken", *flags)
    assert "resuming at step 10" in ran.err
    assert same(tmp_path / "whole", tmp_path / "broken")
    assert steps_of(tmp_path / "broken") == list(range(1, 16))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


def test_a_killed_process_goes_on_with_the_same_result(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    flags = [str(flag) for flag in ("--lm", toy, "--slots", "word", "--steps", 130, "--evaluations", 2,
             "--batch-size", 16, "--prompt-length", 1, "--patience", 9)]  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "speechprompt",
        "train",
        str(units),
        "--out",
        str(tmp_path / "killed"),
        *flags,
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    checkpoint = tmp_path / "killed.run" / "checkpoint.pt"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    # going on takes as many threads as the run began with, whatever is asked for
    ran = run("train", units, "--out", tmp_path / "killed", *flags, "--threads", 2)
    assert ran.code == 0
    assert "resuming at step 100" in ran.err
    assert run("train", units, "--out", tmp_path / "whole", *flags, "--threads", 1).code == 0
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_another_run_does_not_go_on_from_a_checkpoint(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a.run"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    ran = run("train", units, "--lm", toy, "--out", tmp_path / "a", "--quiet", *QUICK)
    assert ran.code == 1
    assert "delete it" in ran.error


def test_folds_test_every_utterance_once(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    out = tmp_path / "folds"
    command = (
        "train",
        units,
        "--lm",
        toy,
        "--out",
        out,
        "--slots",
        "word",
        "--folds",
        3,
        *QUICK,
        "--quiet",
        "--json",
    )
    ran = run(*command)
    assert ran.code == 0, ran.err
    document = ran.document
    assert sum(fold["utterances"] for fold in document["folds"]) == 60
    mean = sum(fold["utterances"] * fold["accuracy"]["estimate"] for fold in document["folds"]) / 60
    assert document["pooled"]["accuracy"]["estimate"] == pytest.approx(mean)
    assert json.loads((out / "folds.json").read_text()) == document
    assert sorted(path.name for path in out.iterdir()) == ["fold1", "fold2", "fold3", "folds.json"]
    assert run(*command).code == 1
    assert run(*command, "--force").document == document


def test_finished_folds_are_kept(
    run: Run, toy: Path, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", units, "--lm", toy, "--slots", "word", "--folds", 3, *QUICK)
    assert run(*command, "--out", tmp_path / "whole").code == 0
    from speechprompt.cli import folds

    real, calls = folds.train_resumably, []

    def stopping(*arguments: Any, **others: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt("interrupted")
        return real(*arguments, **others)

    monkeypatch.setattr(folds, "train_resumably", stopping)
    assert run(*command, "--out", tmp_path / "broken").code == 130
    ran = run(*command, "--out", tmp_path / "broken")
    assert ran.code == 0
    assert "fold 1 of 3" not in ran.err
    for fold in ("fold1", "fold2", "fold3"):
        assert same(tmp_path / "whole" / fold, tmp_path / "broken" / fold)


def renamed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"id": f"x{row['id']}"}


def relabelled(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"labels": row["labels"] | {"word": "alpha"}}


def heard_otherwise(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"units": [(unit + 1) % 20 for unit in row["units"]]}


def of_one_speaker(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"speaker": "train_0"}


@pytest.mark.parametrize("change", [renamed, relabelled, heard_otherwise, of_one_speaker, "slots", "initial"])
def test_finished_folds_of_something_else_are_not_kept(
    run: Run,
    toy: Path,
    units: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
) -> None:
    from speechprompt.cli import folds

    source = Path(shutil.copy(units, tmp_path / "source.jsonl"))
    command = ("train", source, "--lm", toy, "--folds", 3, *QUICK, "--out", tmp_path / "cv", "--quiet")

    def stopping(_: object, folder: Any, *rest: Any, **others: Any) -> Any:
        if folder.out.name == "fold2":
            raise KeyboardInterrupt("interrupted")
        return train_resumably(_, folder, *rest, **others)

    train_resumably = folds.train_resumably
    monkeypatch.setattr(folds, "train_resumably", stopping)
    more: tuple[object, ...] = ("--slots", "word")
    assert run(*command, *more).code == 130
    if change == "slots":
        more = ()
    elif change == "initial":
        more += ("--init-from", trained)
    else:
        rewritten(source, source, lambda rows: [*rows[:5], change(rows[5]), *rows[6:]])
    ran = run(*command, *more)
    assert (ran.code, "other options or data; delete it" in ran.error) == (1, True), ran.err


def test_a_fold_is_scored_on_what_it_did_not_train_on(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    flags = ("--lm", toy, "--slots", "word", "--shots", 4, "--folds", 3, "--seed", 2, *QUICK, "--quiet")
    assert run("train", units, *flags, "--out", out).code == 0
    for fold in json.loads((out / "folds.json").read_text())["folds"]:
        folder = out / f"fold{fold['fold']}"
        assert f"fold {fold['fold']} of 3 tests" in (folder / "README.md").read_text()
        ran = run("evaluate", folder, units, "--lm", toy, "--baselines", "n-gram", "--json")
        [found] = ran.document["evaluations"]
        assert found["accuracy"] == fold["accuracy"]
        assert found["baselines"][0]["accuracy"] == fold["ngram"]
        assert f"split as in the prompt's training: cross-validation: fold {fold['fold']} of 3" in ran.err
    both = (
        "evaluate",
        out / "fold1",
        out / "fold2",
        units,
        "--lm",
        toy,
        "--baselines",
        "none",
        "--json",
        "--quiet",
    )
    document = run(*both).document
    assert (len(document["evaluations"]), document["comparisons"]) == (2, [])
    assert "different folds" in run(*both, "--ensemble").error
    fewer = rewritten(units, tmp_path / "fewer.jsonl", lambda rows: rows[:-1])
    ran = run(
        "report", out / "fold1", fewer, "--lm", toy, "--baselines", "none", "--out", tmp_path / "r.html"
    )
    assert ran.code == 0
    assert "fold 1 of 3 over other utterances than toy has now, and may have trained" in ran.err


def test_shots_and_init_from(run: Run, toy: Path, units: Path, trained: Path, tmp_path: Path) -> None:
    ran = run("train", units, "--lm", toy, "--out", tmp_path / "few", "--slots", "word", "--shots", 2,
              "--init-from", trained, "--json", "--quiet", *QUICK)  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.document["corpus"]["utterances"]["train"] == 6


@pytest.mark.parametrize("splits", [("train",), ("train", "valid")])
def test_baselines_learn_from_the_shots_of_the_prompt(
    run: Run, toy: Path, units: Path, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    out = tmp_path / "few"
    recipe = "few" if "valid" in splits else "default"
    flags = ("--slots", "word", "--shots", 2, "--seed", 3, "--recipe", recipe, "--quiet", *QUICK)
    assert run("train", units, "--lm", toy, "--out", out, *flags).code == 0
    ran = run("evaluate", out, units, "--lm", toy, "--json", "--quiet")
    [found] = ran.document["evaluations"]
    lm = SpokenLM.load(toy)
    few = shots(Corpus.read(units, ["word"]), None, 2, 3, splits)
    assert len(few.split("valid")) < len(Corpus.read(units, ["word"]).split("valid")) or recipe == "default"
    expected = evaluate(lm, Artifact.load(out, lm), few)
    assert [b["accuracy"] for b in found["baselines"]] == [asdict(b.accuracy) for b in expected.baselines]
    assert found["baselines"][0]["trained_parameters"] == expected.baselines[0].trained_parameters
    also = ", as many to validate on" if recipe == "few" else ""
    assert f"Shots: 2 training utterances a label{also}, seed 3" in (out / "README.md").read_text()
    assert "2 a label, seed 3" in run("show", out).out


def test_every_seed_and_task_draws_its_own_shots(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    flags = ("--lm", toy, "--shots", 2, "--quiet", *QUICK, "--out")
    command = ("train", units, "--task", "word", "--task", "word,length", "--seed", "0,1", *flags)
    assert run(*command, tmp_path / "many").code == 0
    for task, seed in itertools.product(("word", "word,length"), (0, 1)):
        alone, together = tmp_path / f"{task}-{seed}", f"{task.replace(',', '+')}_seed-{seed}"
        assert run("train", units, "--slots", task, "--seed", seed, *flags, alone).code == 0
        pair = [
            json.loads((one / "metrics.json").read_text()) for one in (alone, tmp_path / "many" / together)
        ]
        assert pair[0]["valid"]["loss"] == pytest.approx(pair[1]["valid"]["loss"], abs=1e-4)
        pair = [
            json.loads((one / "prompt_config.json").read_text())
            for one in (alone, tmp_path / "many" / together)
        ]
        assert pair[0]["corpus"] == pair[1]["corpus"]
        assert pair[0]["corpus"]["shots"] == {
            "count": 2,
            "seed": seed,
            "slots": task.split(","),
            "splits": ["train"],
        }


def test_an_artifact_of_another_lm_is_refused(run: Run, units: Path, trained: Path, tmp_path: Path) -> None:
    from speechprompt.spoken_lm_folder import write_folder

    other = write_folder(tmp_path / "other", toy_lm(seed=1).model, "other", "toy")
    for command in (("evaluate", trained, units), ("report", trained, units, "--out", tmp_path / "r.html")):
        ran = run(*command, "--lm", other, "--quiet")
        assert ran.code == 1
        assert "was trained on toy@1" in ran.error


def test_seeds_rates_and_tasks_train_in_one_run(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    out = tmp_path / "many"
    flags = ("--lm", toy, "--quiet", *QUICK, "--out")
    command = ("train", units, "--task", "word", "--task", "length,word", "--seed", "0,1", *flags, out)
    ran = run(*command, "--json")
    assert ran.code == 0
    names = [f"{task}_seed-{seed}" for task in ("word", "length+word") for seed in (0, 1)]
    assert [row["prompt"] for row in ran.document["prompts"]] == names
    assert [row["options"] for row in ran.document["prompts"]] == [{"seed": seed} for seed in (0, 1)] * 2
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "runs.json", "events.jsonl"])
    alone = tmp_path / "alone"
    assert run("train", units, "--slots", "word", "--seed", 1, *flags, alone).code == 0
    pair = [json.loads((folder / "metrics.json").read_text()) for folder in (alone, out / names[1])]
    assert pair[0]["valid"]["accuracy"] == pair[1]["valid"]["accuracy"]
    assert pair[0]["valid"]["loss"] == pytest.approx(pair[1]["valid"]["loss"], abs=1e-4)
    assert run(*command).code == 1
    assert run(*command, "--force").code == 0
    assert not (tmp_path / "many.run").exists()


def test_sources_train_in_one_run(run: Run, toy: Path, units: Path, tmp_path: Path) -> None:
    other = rewritten(units, tmp_path / "other.jsonl", lambda rows: [rows[0] | {"name": "other"}, *rows[1:]])
    command = ("train", units, other, "--slots", "word", "--lm", toy, "--quiet", *QUICK, "--json", "--out")
    assert [row["prompt"] for row in run(*command, tmp_path / "a").document["prompts"]] == ["toy", "other"]
    for more, code, hint in (
        (("--task", "word"), 2, "either --slots or --task"),
        (("--folds", 3), 2, "no --folds"),
        (("--seed", "1,1"), 2, "names a value twice"),
        (("--seed", "1,x"), 2, "seed"),
        (("--seed", "0,4294967296"), 2, "less than or equal to 4294967295"),
    ):
        ran = run(*command, tmp_path / "b", *more)
        assert (ran.code, hint in ran.error) == (code, True), ran.err
    ran = run("train", units, "--task", "wrod", "--lm", toy, "--quiet", *QUICK, "--out", tmp_path / "b")
    assert ran.code == 2
    assert "did you mean word" in ran.error
