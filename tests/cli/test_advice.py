"""What commands advise works: the next command as it is printed, and what a refusal says to do instead."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from cli.material import QUICK, Ran, Run, rewritten, write_tone
from speechprompt.cli.lms import published_files
from speechprompt.cli.terminal import next_command


def advised(ran: Ran) -> list[str]:
    [line] = [line for line in ran.out.splitlines() if line.startswith("next: speechprompt ")]
    return shlex.split(line)[2:]


def test_words_are_quoted_and_an_lm_in_a_folder_is_named(tmp_path: Path) -> None:
    assert next_command("train", "my units.jsonl") == "next: speechprompt train 'my units.jsonl'"
    assert next_command("evaluate", "a", lm="tiny") == "next: speechprompt evaluate a"
    assert next_command("evaluate", "a", lm=str(tmp_path)).endswith(f"a --lm {tmp_path}")


def test_the_next_command_runs_as_it_is_printed(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, units: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(units, tmp_path / "my units.jsonl"))
    common = ("--lm", toy, *QUICK)
    for command in (
        ("train", source, *common, "--out", tmp_path / "a prompt"),
        ("sweep", source, *common, "--try", "seed=0,1", "--out", tmp_path / "a sweep"),
        ("train", source, *common, "--seed", "0,1", "--out", tmp_path / "two prompts"),
    ):
        told = advised(run(*command, "--slots", "word"))
        ran = run(
            *(str(source) if word == "SOURCE" else word for word in told), "--baselines", "none", "--quiet"
        )
        assert ran.code == 0, ran.err
    told = advised(run("encode", clips, "--lm", toy, "--out", tmp_path / "my clips.jsonl"))
    assert told[:4] == ["train", str(tmp_path / "my clips.jsonl"), "--lm", str(toy)]


def table_of(units: Path, path: Path) -> Path:
    """The toy corpus as a table of two columns of labels, whose audio nobody looks for."""
    rows = [json.loads(line) for line in units.read_text().splitlines()[1:]]
    lines = [
        f"{row['id']}.wav,{row['labels']['word']},{row['labels']['length']},{row['split']}" for row in rows
    ]
    path.write_text("\n".join(["path,word,length,split", *lines]) + "\n")
    return path


def test_tasks_of_a_table_are_its_slots(
    run: Run, toy: Path, toy_tokenizer: None, units: Path, tmp_path: Path
) -> None:
    source = table_of(units, tmp_path / "two.csv")
    command = ("train", source, "--lm", toy, "--out", tmp_path / "out", "--quiet", *QUICK)
    ran = run(*command, "--task", "word", "--task", "length")
    assert "toy_0000.wav" in ran.error  # as far as the audio
    assert "did you mean word" in run(*command, "--task", "wrod").error


@pytest.mark.parametrize("key", ["tasks", "task"])
def test_a_file_names_several_tasks(run: Run, toy: Path, units: Path, tmp_path: Path, key: str) -> None:
    (tmp_path / "options.toml").write_text(f'{key} = ["word", "length,word"]\n')
    command = (
        "train",
        units,
        "--lm",
        toy,
        "--config",
        tmp_path / "options.toml",
        *QUICK,
        "--json",
        "--quiet",
    )
    ran = run(*command, "--out", tmp_path / "out")
    assert [row["prompt"] for row in ran.document["prompts"]] == ["word", "length+word"]


@pytest.mark.parametrize("folds", [(), ("--folds", 3)])
def test_a_row_without_a_label_is_named_before_encoding(
    run: Run, toy: Path, units: Path, tmp_path: Path, folds: tuple[object, ...]
) -> None:
    source = rewritten(
        units,
        tmp_path / "a.jsonl",
        lambda rows: [*rows[:2], rows[2] | {"labels": {"length": "long"}}, *rows[3:]],
    )
    ran = run("train", source, "--lm", tmp_path / "no-lm", "--out", tmp_path / "out", "--quiet", *folds)
    assert ran.code == 1
    assert "'toy_0001' has no label for word" in ran.error
    assert run("doctor", source, "--quiet").code == 1
    assert run("train", source, "--lm", toy, "--out", tmp_path / "out", "--slots", "length", *QUICK).code == 0


def test_two_folds_are_not_sent_to_an_option_that_refuses_them(
    run: Run, toy: Path, units: Path, tmp_path: Path
) -> None:
    source = rewritten(
        units, tmp_path / "a.jsonl",
        lambda rows: [rows[0], *(row | {"split": f"fold{1 + i % 2}"} for i, row in enumerate(rows[1:]))],
    )  # fmt: skip
    for flags in ((), ("--folds", 3)):
        ran = run(
            "train", source, "--lm", toy, "--out", tmp_path / "out", "--slots", "word", "--quiet", *flags
        )
        assert ran.code == 1
        assert "comes in 2 folds, which cannot train, validate and test" in ran.error


def test_help_shows_kinds_and_no_internals(run: Run) -> None:
    shown = run("train", "--help").out
    assert "NUMBER|find" in shown
    assert "NUMBER|none" in shown
    assert "ANNOTATION" not in shown.upper()


def test_a_prompt_is_not_a_folder_of_prompts(run: Run, pitch: Path) -> None:
    ran = run("serve", pitch, "--quiet")
    assert ran.code == 2
    assert f"speechprompt serve {pitch.parent}" in ran.error


def test_what_no_classifier_can_learn_is_told_before_training(
    run: Run, toy: Path, toy_tokenizer: None, tmp_path: Path
) -> None:
    for i in range(9):
        for name in ("flat", "one/a", "rare/a", *(("rare/b", "few/a", "few/b") if not i else ())):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            write_tone(tmp_path / name / f"{name[-1]}{i}.wav", 300.0 + 50 * i, i)
    rest = ("--lm", toy, "--out", tmp_path / "out", "--quiet", *QUICK)
    for folder, finding, says in (
        ("flat", "no_labels", "put the clips of each label into a folder"),
        ("one", "one_label", "a classifier needs two"),
        ("few", "missing_split", "needs three clips a label"),
    ):
        report = run("doctor", tmp_path / folder, "--json")
        assert report.code == 1
        assert finding in {one["kind"] for one in report.document["findings"] if one["severity"] == "error"}
        refused = run("train", tmp_path / folder, *rest)
        assert refused.code != 0
        assert says in refused.error
    told = run("train", tmp_path / "rare", "--lm", toy, "--out", tmp_path / "out", *QUICK)
    assert told.code == 0
    assert "valid has no label 'b'" in " ".join(told.err.split())


def test_a_published_lm_is_found_by_the_name_that_is_listed() -> None:
    assert published_files("gslm-hubert100@1") == published_files("gslm-hubert100")


def test_a_clip_that_holds_no_frame_is_told_with_the_way_out(
    run: Run, toy: Path, toy_tokenizer: None, tmp_path: Path
) -> None:
    for i in range(4):
        for name in ("a", "b"):
            (tmp_path / "clips" / name).mkdir(parents=True, exist_ok=True)
            write_tone(tmp_path / "clips" / name / f"{i}.wav", 300.0 + 50 * i, i)
    short = write_tone(tmp_path / "clips" / "a" / "short.wav", 300.0, seconds=0.01)
    refused = run("encode", tmp_path / "clips", "--lm", toy, "--out", tmp_path / "u.jsonl", "--quiet")
    assert refused.code == 1
    assert f"{short}" in refused.error
    assert "--skip-unreadable leaves such clips out" in refused.error
