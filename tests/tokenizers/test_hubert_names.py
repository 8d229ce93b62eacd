"""HuBERT in bfloat16 by its name: another tokenizer for stores, manifests and prompts, from every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_hubert import BASE, centres, fairseq_checkpoint, tiny_model, waveform

from cli.material import QUICK, Ran, write_tone
from speechprompt import spoken_lm as room
from speechprompt.cli import main
from speechprompt.errors import UnknownName
from speechprompt.spoken_lm import SpokenLM, known_names, load_tokenizer
from speechprompt.testing import toy_lm
from speechprompt.tokenizers.protocol import precision_of

NAME, ROUNDED = "hubert-base-l6-km100", "hubert-base-l6-km100+bfloat16"


@pytest.fixture(autouse=True)
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small random HuBERT of six layers, 100 centres and a toy LM in the place of the published files."""
    torch.save(fairseq_checkpoint(tiny_model(layers=6), BASE, "cfg"), tmp_path / "hubert.pt")
    places = {"hubert-base-ls960": tmp_path / "hubert.pt", NAME: centres(100)}
    monkeypatch.setattr("speechprompt.downloads.fetch_published", places.__getitem__)
    monkeypatch.setattr(room, "_published_lm", lambda _: toy_lm(unit_count=100))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """A command line in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """High and low tones, eight clips each."""
    folder = tmp_path_factory.mktemp("tones")
    for label, hertz in (("high", 1800.0), ("low", 200.0)):
        (folder / label).mkdir()
        for i in range(8):
            write_tone(folder / label / f"{label}_{i}.wav", hertz + 10 * i, i)
    return folder


def test_the_name_is_another_tokenizer() -> None:
    exact, rounded, followed = (load_tokenizer(name) for name in (NAME, ROUNDED, f"{ROUNDED}+f0"))
    assert [t.name for t in (exact, rounded, followed)] == [NAME, ROUNDED, f"{ROUNDED}+f0"]
    assert [precision_of(t) for t in (exact, rounded, followed)] == ["float32", "bfloat16", "bfloat16"]
    assert len({exact.fingerprint, rounded.fingerprint, followed.fingerprint}) == 3
    clip = waveform(16_000)
    assert np.array_equal(followed.encode(clip).ids, rounded.encode(clip).ids)
    with pytest.raises(UnknownName, match="pitch tracker 'bfloat16'"):
        load_tokenizer("tiny+bfloat16")


def test_published_spoken_lms_take_it() -> None:
    spoken = SpokenLM.load("gslm-hubert100+bfloat16@1")
    assert (spoken.name, spoken.tokenizer_name) == ("gslm-hubert100+bfloat16@1", ROUNDED)
    assert spoken.tokenizer.name == ROUNDED
    assert SpokenLM.load("pgslm-discrete+bfloat16").tokenizer_name == f"{ROUNDED}+yaapt"
    assert "gslm-hubert100+bfloat16" not in known_names()  # one name, and how to change it
    for name in ("tiny+bfloat16", "gslm-hubert100+bfloat", "gslm-hubert100+bfloat16+bfloat16"):
        with pytest.raises(UnknownName):
            SpokenLM.load(name)


def test_every_command_keeps_both_apart(run: Callable[..., Ran], clips: Path, tmp_path: Path) -> None:
    rounded, exact = "gslm-hubert100+bfloat16", "gslm-hubert100"
    prompt, clip = tmp_path / "pitch", clips / "high" / "high_0.wav"
    ran = run("train", clips, "--lm", rounded, "--out", prompt, "--quiet", *QUICK)
    assert (ran.code, ran.err) == (0, "")
    about = json.loads((prompt / "prompt_config.json").read_text())
    assert (about["spoken_lm"], about["tokenizer"]) == (f"{rounded}@1", ROUNDED)
    assert about["tokenizer_fingerprint"] == load_tokenizer(ROUNDED).fingerprint
    assert run("predict", clip, "--prompt", prompt, "--json", "--quiet").document["task"] == "pitch"
    for command in (("predict", clip, "--prompt", prompt), ("evaluate", prompt, clips)):
        refused = run(*command, "--lm", exact, "--quiet")
        assert refused.code == 1
        assert f"was trained on units of {ROUNDED}, but {exact}@1 makes units with {NAME}" in refused.error

    manifest = tmp_path / "exact.jsonl"
    assert run("encode", clips, "--lm", exact, "--out", manifest, "--quiet").code == 0
    refused = run("train", manifest, "--lm", rounded, "--out", tmp_path / "mixed", "--quiet", *QUICK)
    assert (refused.code, f"holds units of {NAME}" in refused.error) == (1, True)
    stores = {s["precision"]: s["tokenizer_fingerprint"] for s in run("cache", "list", "--json").document}
    assert stores == {precision_of(t): t.fingerprint for t in map(load_tokenizer, (NAME, ROUNDED))}
    assert run("lms", "show", rounded, "--json").document["tokenizer"] == ROUNDED


def test_a_pretraining_takes_it(run: Callable[..., Ran], clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "lm"
    small = ("--held-out", 0.5, "--layers", 1, "--width", 16, "--heads", 2, "--steps", 2)
    command = ("pretrain", "lm", clips, "--tokenizer", ROUNDED, "--out", out, "--quiet", *small)
    refused = run(*command)  # this HuBERT hears the same in training and test tones
    assert "stand in validation or test rows as well" in refused.err
    ran = run(*command, "--untested", clips.name)
    assert (ran.code, ran.err) == (0, "")
    spoken = SpokenLM.load(out)
    assert (spoken.tokenizer_name, spoken.tokenizer.name) == (ROUNDED, ROUNDED)
