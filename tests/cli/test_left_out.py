"""Clips that cannot be read, or are too long for the LM: named before any work, or left out and listed when asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli.material import QUICK, Run

COMMANDS = (
    "train",
    "train --folds 3",
    "sweep --try seed=0",
    "evaluate",
    "report",
    "baseline",
    "compare --steps 2",
)


def broken(path: Path) -> None:
    path.write_bytes(b"RIFF")


def long(path: Path) -> None:
    """12 s, a unit a frame: 600 of them, where the toy LM reads 512."""
    loudness = np.tile(np.repeat([0.5, 0.005], 160), 300)
    soundfile.write(path, loudness * np.tile([1, -1], len(loudness) // 2), 8000)


def arguments(command: str, source: Path, prompt: Path, out: Path) -> tuple[object, ...]:
    verb, *flags = command.split()
    artifact = [prompt] if verb in ("evaluate", "report") else []
    to = ["--out", out] if verb in ("train", "sweep", "report") else []
    quick = QUICK if verb in ("train", "sweep") else ()
    return (verb, *artifact, source, *to, *flags, *quick)


@pytest.mark.parametrize(
    ("spoil", "hint", "command"),
    [
        *((long, "odd.wav' has 600 units", command) for command in COMMANDS),
        *((broken, "odd.wav", command) for command in ("train", "evaluate")),
    ],
)
def test_a_clip_is_named_or_left_out(
    run: Run,
    toy: Path,
    toy_tokenizer: None,
    clips: Path,
    pitch: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    hint: str,
    command: str,
) -> None:
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    spoil(folder / "odd.wav")
    splits = ("train", "train", "valid", "test")
    rows = [f"{p},{p.parent.name},{splits[i % 4]}" for i, p in enumerate(sorted(folder.glob("*/*.wav")))]
    spoilt = [f"{folder / 'odd.wav'},low,test"] * (command in ("evaluate", "report", "baseline"))
    spoilt = spoilt or [f"{folder / 'odd.wav'},low,train"]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,split", *rows, *spoilt]) + "\n")
    call = (*arguments(command, tmp_path / "clips.csv", pitch, tmp_path / "out"), "--lm", toy)
    ran = run(*call, "--quiet")
    assert ran.code == 1
    assert hint in ran.error
    assert "step" not in ran.out
    ran = run(*call, "--skip-unreadable")
    assert ran.code == 0, ran.err
    assert "odd.wav' was left out" in ran.err
    if command in ("train", "sweep --try seed=0"):
        assert "clips.csv --skip-unreadable" in ran.out.replace("\n", "")
    if "--folds" in command:
        scored = run(
            "evaluate", tmp_path / "out" / "fold1", tmp_path / "clips.csv", "--lm", toy, "--skip-unreadable"
        )
        assert "split as in the prompt's training: cross-validation: fold 1 of 3" in scored.err


def test_units_may_be_of_any_length_until_an_lm_reads_them(
    run: Run, toy: Path, toy_tokenizer: None, tmp_path: Path
) -> None:
    (tmp_path / "clips" / "low").mkdir(parents=True)
    long(tmp_path / "clips" / "low" / "odd.wav")
    ran = run("encode", tmp_path / "clips", "--lm", toy, "--out", tmp_path / "u.jsonl", "--json", "--quiet")
    assert (ran.code, ran.document["units"]) == (0, 600)


def test_a_path_that_cannot_be_one_is_named_or_left_out(
    run: Run, toy: Path, toy_tokenizer: None, clips: Path, tmp_path: Path
) -> None:
    rows = [f"{p},{p.parent.name}" for p in sorted(clips.glob("*/*.wav"))]
    source = tmp_path / "clips.csv"
    source.write_text("\n".join(["path,label", *rows, "a\0b.wav,low"]) + "\n")
    call = ("encode", source, "--lm", toy, "--out", tmp_path / "units.jsonl")
    ran = run(*call, "--quiet")
    assert ran.code == 1
    assert "b.wav cannot be read (embedded null byte); check the path" in ran.error
    assert run(*call, "--skip-unreadable", "--json", "--quiet").document["utterances"] == 24


@pytest.mark.parametrize("command", ["train", "train --folds 3", "sweep --try seed=0", "baseline", "encode"])
def test_when_all_clips_are_left_out_the_reason_is_told(
    run: Run, toy: Path, toy_tokenizer: None, tmp_path: Path, command: str
) -> None:
    rows = [f"gone{i}.wav,{'ab'[i % 2]},{('train', 'valid', 'test')[i // 2 % 3]}" for i in range(12)]
    source = tmp_path / "clips.csv"
    source.write_text("\n".join(["path,label,split", *rows]) + "\n")
    out = ["--out", tmp_path / "units.jsonl"] if command == "encode" else []
    call = (*arguments(command, source, tmp_path, tmp_path / "out"), *out, "--lm", toy)
    ran = run(*call, "--skip-unreadable", "--quiet")
    assert ran.code == 1
    count = {"train": 8, "sweep --try seed=0": 8}.get(command, 12)  # of the splits that are needed
    assert f"clips: all {count} utterances were left out; first: " in ran.error
    assert "gone0.wav cannot be read (No such file or directory); check the path" in ran.error


@pytest.fixture
def odd_names(clips: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Label folders with two file names that are not UTF-8, and these as they are told."""
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    odd = [os.fsdecode(os.fsencode(folder / "low" / name) + b"\xff.wav") for name in ("a", "b")]
    for name in odd:
        shutil.copy(folder / "low" / "low_0.wav", name)
    return folder, [repr(name) for name in odd]


@pytest.mark.parametrize("command", ["train", "train --folds 3", "sweep --try seed=0", "compare --steps 2"])
def test_names_that_are_not_utf8_are_counted_or_left_out(
    run: Run,
    toy: Path,
    toy_tokenizer: None,
    odd_names: tuple[Path, list[str]],
    tmp_path: Path,
    command: str,
) -> None:
    folder, (first, second) = odd_names
    call = (*arguments(command, folder, tmp_path, tmp_path / "out"), "--lm", toy)
    ran = run(*call, "--quiet")
    assert ran.code == 1
    assert f"with --skip-unreadable: {first} (1 more files have such names)" in ran.error
    ran = run(*call, "--skip-unreadable")
    assert ran.code == 0, ran.err
    assert "2 files were left out: a file name that is not UTF-8" in " ".join(ran.err.split())
    assert second not in ran.err


def test_doctor_finds_names_that_are_not_utf8(run: Run, odd_names: tuple[Path, list[str]]) -> None:
    folder, odd = odd_names
    ran = run("doctor", folder, "--json", "--quiet")
    (finding,) = [one for one in ran.document["findings"] if one["kind"] == "left_out"]
    assert (ran.code, finding["severity"], finding["utterances"]) == (1, "error", odd)
    assert finding["text"].startswith(
        "2 files were left out: a file name that is not UTF-8 cannot be written"
    )
    assert ran.document["utterance_count"] == 24
    assert run("doctor", folder).code == 1  # as a table


def test_a_folder_of_nothing_but_odd_names_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "clips" / "a") + b"\xff.wav")).touch()
    ran = run("doctor", tmp_path / "clips", "--quiet")
    assert (ran.code, "rename the file" in ran.error) == (1, True)
