"""Spoken LMs by name and in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechprompt import spoken_lm as room
from speechprompt.errors import CheckpointError, SpeechPromptError, UnknownName, UsageError
from speechprompt.spoken_lm import SpokenLM, known_names, load_tokenizer
from speechprompt.spoken_lm_folder import write_folder
from speechprompt.testing import ToyTokenizer, toy_lm

ABOUT: dict[str, Any] = {
    "schema": 1,
    "name": "toy",
    "version": 4,
    "license": "MIT",
    "tokenizer": "hubert-base-l6-km100",
    "lm": "lm",
}


def folder_of(path: Path, **changes: Any) -> Path:
    toy_lm().model.save_pretrained(path / "lm")
    (path / "spoken_lm.json").write_text(json.dumps({**ABOUT, **changes}))
    return path


def test_a_folder_is_a_spoken_lm(tmp_path: Path) -> None:
    spoken = SpokenLM.load(folder_of(tmp_path))
    found = (spoken.name, spoken.tokenizer_name, spoken.license, spoken.folder)
    assert found == ("toy@4", "hubert-base-l6-km100", "MIT", tmp_path)
    assert spoken.lm.fingerprint == toy_lm().fingerprint
    assert spoken.lm is spoken.lm
    half = SpokenLM.load(tmp_path, dtype="bfloat16")
    assert (half.lm.dtype, half.lm.fingerprint) == (torch.bfloat16, spoken.lm.fingerprint)


def test_a_replaced_folder_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_folder(tmp_path / "lm", toy_lm().model, "old", "toy")
    (tmp_path / "link").symlink_to(target, target_is_directory=True)
    real = Path.replace

    for error in (OSError(13, "Permission denied"), KeyboardInterrupt("Permission denied")):

        def fails(self: Path, to: Path, error: BaseException = error) -> Path:
            if Path(to) == target:
                raise error
            return real(self, to)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fails)
            with pytest.raises(type(error), match="Permission denied"):
                write_folder(target, toy_lm(seed=1).model, "new", "toy", force=True)
        assert SpokenLM.load(target).name == "old@1"
    write_folder(tmp_path / "link", toy_lm(seed=1).model, "new", "toy", force=True)
    assert (SpokenLM.load(target).name, SpokenLM.load(tmp_path / "link").name) == ("old@1", "new@1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "lm"]


def test_parts_have_one_fingerprint() -> None:
    ours, same = (SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm()) for _ in range(2))
    assert ours.fingerprint == same.fingerprint
    other = ToyTokenizer()
    other.fingerprint = "toy-tokenizer-2"
    assert SpokenLM.of_parts("toy@1", other, toy_lm()).fingerprint != ours.fingerprint
    assert SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm(seed=1)).fingerprint != ours.fingerprint


def test_mistyped_names_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean gslm-hubert100"):
        SpokenLM.load("gslm-hubert10")
    assert "gslm-hubert200" in known_names()
    with pytest.raises(UnknownName, match="did you mean hubert-base-l6-km100"):
        load_tokenizer("hubert-base-l6-km10")


def test_a_bundled_tokenizer_has_names_of_its_own() -> None:
    whole, content = load_tokenizer("tiny"), load_tokenizer("tiny-content")
    assert (whole.unit_count, content.unit_count) == (692, 500)
    assert load_tokenizer("tiny-content+f0-absolute").name == "tiny-content+f0-absolute"
    with pytest.raises(UnknownName, match="did you mean tiny-content"):
        load_tokenizer("tiny-contend")


def test_a_version_that_is_not_here_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BUNDLED", tmp_path)
    folder_of(tmp_path / "toy")
    assert SpokenLM.load("toy@4").name == SpokenLM.load("toy").name == "toy@4"
    assert known_names()[0] == "toy"
    for asked, here in (("toy@3", "toy@4"), ("gslm-hubert50@9", "gslm-hubert50@1")):
        with pytest.raises(UsageError) as error:
            SpokenLM.load(asked)
        assert asked in str(error.value)
        assert here in str(error.value)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "\x00", '{"schema": 2}', '{"schema": 1, "name": "x"}', "null", "[" * 100_000],
)
def test_a_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "spoken_lm.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"spoken_lm\.json"):
        SpokenLM.load(tmp_path)


def test_a_folder_without_parts_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no spoken_lm\.json"):
        SpokenLM.load(tmp_path)
    folder = folder_of(tmp_path, tokenizer="tokenizer")
    spoken = SpokenLM.load(folder)
    with pytest.raises(UnknownName, match="unknown tokenizer 'tokenizer'"):
        _ = spoken.tokenizer
    (folder / "tokenizer").mkdir()
    with pytest.raises(SpeechPromptError, match="tokenizer"):
        _ = SpokenLM.load(folder).tokenizer
    (folder / "tokenizer" / "tokenizer.json").write_text('{"kind": "mel-hubrt"}')
    with pytest.raises(UnknownName, match="mel-hubert"):
        _ = SpokenLM.load(folder).tokenizer
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        _ = SpokenLM.load(folder).tokenizer


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "lacking", "extra", "shape", "config", "no config"]
)
def test_damaged_weights_are_never_guessed(tmp_path: Path, damage: str) -> None:
    folder = folder_of(tmp_path)
    weights, config = folder / "lm" / "model.safetensors", folder / "lm" / "config.json"
    tensors = load_file(weights)
    name = "decoder.layers.1.fc2.bias"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "config":
        config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": "wide"}))
    elif damage == "no config":
        config.unlink()
    else:
        changed = {
            "lacking": {},
            "extra": {name: tensors[name], "x": torch.ones(1)},
            "shape": {name: torch.ones(3)},
        }
        del tensors[name]
        save_file({**tensors, **changed[damage]}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lm"):
        _ = SpokenLM.load(folder).lm
