"""The call itself: help, names, wrong arguments, and how a command ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from cli.material import Run
from speechprompt.cli import failures, materials
from speechprompt.cli.application import build
from speechprompt.cli.failures import described, end_of
from speechprompt.errors import AudioError, UnknownName

COMMANDS = [
    ("demo",), ("train",), ("evaluate",), ("predict",), ("show",), ("report",), ("doctor",), ("encode",), ("baseline",),
    ("compare",), ("reproduce",), ("serve",), ("sweep",), ("table",), ("bench",),
    ("pretrain", "tokenizer"), ("pretrain", "kmeans"), ("pretrain", "lm"),
    ("corpora", "list"), ("corpora", "check"), ("corpora", "prepare"),
    ("lms", "list"), ("lms", "show"), ("lms", "fetch"), ("lms", "convert"), ("lms", "verify"),
    ("cache", "list"), ("cache", "clear"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_ends_with_an_example_of_the_command(run: Run, command: tuple[str, ...]) -> None:
    ran = run(*command, "--help")
    assert ran.code == 0
    assert "--json" in ran.out
    example = ran.out[ran.out.index("Example:") :].split()
    assert example[1 : 2 + len(command)] == ["speechprompt", *command]


def test_commands_are_all_listed_above() -> None:
    found: list[tuple[str, ...]] = []
    for name, command in get_command(build()).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found += [(name, inner) for inner in below] if below else [(name,)]
    assert sorted(found) == sorted(COMMANDS)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_without_a_command(run: Run, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert ran.code == 0
    assert all(command[0] in ran.out for command in COMMANDS)


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("speechprompt ")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("trian",), "'train'"),
        (("lms", "verfy"), "'verify'"),
        (("train", "x", "--otu", "y"), "--out"),
        (("train", "x", "--out", "y", "--learning-rat", "1"), "--learning-rate"),
        (("train", "x", "--out", "y", "--seed", "-1"), "seed"),
        (("train", "x", "--out", "y", "--seed", "99999999999999999999"), "less than or equal to 4294967295"),
        (("evaluate", "x", "y", "--seed", "4294967296"), "--seed"),
        (("pretrain", "tokenizer", "x", "--out", "y", "--threads", "100000"), "--threads"),
        (("train", "x", "--out", "y", "--threads", "100000"), "--threads"),
        *((("serve", "x", option, value), option) for option, value in (
            ("--deadline", "nan"), ("--deadline", "inf"), ("--deadline", "-1"), ("--deadline", "0"),
            ("--max-bytes", "-5"), ("--max-held-bytes", "0"), ("--max-seconds", "nan"), ("--max-seconds", "0"),
            ("--drain", "-1"), ("--drain", "inf"),
        )),
        (("train", "x", "--out", "y", "--steps", "many"), "steps"),
        (("train", "x", "--out", "y", "--loss", "lables"), "'labels' or 'published'"),
        (("train", "x", "--out", "y", "--recipe", "papr"), "paper"),
        (("train", "x", "--out", "y", "--folds", "2"), "--folds"),
        (("train", "x"), "--out"),
        (("evaluate", "x"), "ARTIFACT SOURCE"),
        (("evaluate", "x", "y", "--baselines", "ngrams"), "ngram"),
        (("predict", "x.wav"), "--prompt"),
        (("encode", "x", "--out", "y", "--threads", "0"), "--threads"),
        (("predict", "-", "-", "--prompt", "x"), "once"),
        (("lms", "show", "tinny"), "unknown spoken LM"),
        (("lms", "fetch", "gslm-hubert10"), "gslm-hubert100"),
        (("corpora", "check", "fsd", "."), "fsdd"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], hint: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert hint in ran.error
    assert ran.out == ""


def test_training_flags_are_the_training_options(run: Run) -> None:
    from speechprompt.prompting.recipes import TrainingOptions

    text = run("train", "--help").out
    for name in TrainingOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_errors_keep_their_exit_codes_and_one_line() -> None:
    assert described(AudioError("a.wav\nis empty")) == ("error: a.wav is empty", 1)
    assert described(UnknownName("slot", "wrd", ["word"]))[1] == 2
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/file")
    line, code = described(full)
    assert code == 1
    assert "/disk/file: no space left" in line
    assert described(KeyboardInterrupt("interrupted; go on"))[1] == 130
    assert (
        described(RuntimeError("tensor\nsizes"))[0]
        == "error: RuntimeError: tensor sizes; --debug shows where"
    )


@pytest.mark.parametrize(
    ("cores", "asked", "variable", "expected"),
    [
        (3, None, None, 3),
        (64, None, None, materials.MOST_THREADS),
        (3, 2, None, 2),
        (3, 2, "1", 2),
        (3, None, "1", 1),
    ],
)
def test_threads_are_the_free_cores_unless_somebody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, cores: int, asked: int | None, variable: str | None, expected: int
) -> None:
    monkeypatch.setattr(materials, "free_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)  # torch has read it long ago
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert materials.chosen_device("cpu", asked) == "cpu"
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_debug_shows_the_traceback(run: Run) -> None:
    ran = run("show", "nowhere", "--debug")
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("error: ")


def test_a_reader_that_leaves_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(failures, "_close_stdout", lambda: failures.BROKEN_PIPE)
    assert end_of(BrokenPipeError()) == failures.BROKEN_PIPE
    assert capfd.readouterr().err == ""


def test_a_closed_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "speechprompt", "corpora", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == failures.BROKEN_PIPE
    assert error == b""


def test_listings_are_json(run: Run, toy: Path) -> None:
    assert {model["name"] for model in run("lms", "--json").document} >= {"gslm-hubert100@1"}
    assert run("lms", "list", "--json").document == run("lms", "--json").document
    assert run("lms", "show", toy, "--json").document["tokenizer"] == "toy"
    assert "esc-50" in {corpus["name"] for corpus in run("corpora", "--json").document}
    assert run("cache", "--json").document == []
