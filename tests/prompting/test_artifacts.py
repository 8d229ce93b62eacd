"""Prompt folders: what is saved is what comes back, and nothing wrong comes back as right."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechprompt.errors import ArtifactError, OutputExists
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.heard import count_heard, heard_in
from speechprompt.prompting.reference import reference_prompt
from speechprompt.prompting.task import Task
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_lm
from toys import CORPUS, SPOKEN, TASK, artifact_of, entry_of, scores_alone, some_units

FILES = ["README.md", "metrics.json", "prompt.safetensors", "prompt_config.json"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@settings(max_examples=25, deadline=None)
@given(
    kind=st.fixed_dictionaries(
        {
            "recipe": st.sampled_from(["default", "paper"]),
            "method": st.sampled_from(["before_projection", "after_projection", "input"]),
            "prompt_length": st.integers(0, 4),
            "shifts_positions": st.booleans(),
            "decoding": st.sampled_from(["parallel", "autoregressive"]),
            "verbalizer": st.sampled_from(["random", "frequency", "learnable"]),
        }
    ),
    streams=st.sampled_from(["units", "state", "utterance"]),
    names=st.permutations(["word", "length"]),
    temperature=st.floats(0.1, 10),
)
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    kind: dict[str, Any],
    streams: str,
    names: list[str],
    temperature: float,
) -> None:
    if kind["verbalizer"] == "learnable" and kind["recipe"] == "default":
        kind = {**kind, "streams": streams}
    entry = entry_of(SPOKEN.lm, task=Task.of_corpus(CORPUS, names), **kind)
    saved = artifact_of(entry, temperatures={"word": temperature}, threshold=0.25)
    folder = saved.save(tmp_path_factory.mktemp("prompts") / "colour")
    assert sorted(tree(folder)) == FILES
    loaded = Artifact.load(folder, SPOKEN)
    assert loaded.config == saved.config
    assert loaded.metrics == saved.metrics
    assert loaded.name == "colour"
    assert list(loaded.entry.task.slots.items()) == list(entry.task.slots.items())
    units = some_units([8])[0]
    expected, found = (scores_alone(SPOKEN.lm, e, units) for e in (entry, loaded.entry))
    assert list(found) == names
    assert all(torch.equal(found[slot], expected[slot]) for slot in names)
    assert [p.name for p in folder.parent.iterdir()] == ["colour"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return artifact_of(entry_of(SPOKEN.lm)).save(tmp_path / "prompt")


def test_the_wrong_lm_or_tokenizer_is_named_on_both_sides(folder: Path) -> None:
    other = SpokenLM.of_parts("other@2", ToyTokenizer(), toy_lm(seed=1))
    with pytest.raises(ArtifactError) as error:
        Artifact.load(folder, other)
    for part in (str(folder), "toy@1", "other@2", SPOKEN.lm.fingerprint, other.lm.fingerprint):
        assert part in str(error.value)
    renamed = ToyTokenizer()
    renamed.name = "hubert-base-l6-km100"
    with pytest.raises(ArtifactError, match=r"units of toy.*hubert-base-l6-km100"):
        Artifact.load(folder, SpokenLM.of_parts("toy@1", renamed, SPOKEN.lm))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "prompt.safetensors")
    change(tensors)
    save_file(tensors, folder / "prompt.safetensors")


TENSOR_DAMAGE: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "missing": lambda t: t.pop("prompt.separator"),
    "missing prompt": lambda t: t.pop("prompt.vectors"),
    "missing weight": lambda t: t.pop("verbalizer.weight"),
    "extra": lambda t: t.update(extra=torch.zeros(1)),
    "shape": lambda t: t.update({"prompt.vectors": torch.zeros(2, 2, 3, 17)}),
    "scalar weight": lambda t: t.update({"verbalizer.weight": torch.tensor(1.0)}),
    "flat weight": lambda t: t.update({"verbalizer.weight": torch.zeros(5)}),
    "no rows": lambda t: t.update({"verbalizer.weight": torch.zeros(0, 24)}),
    "nan": lambda t: t["prompt.vectors"].view(-1)[3].fill_(float("nan")),
    "infinite": lambda t: t["verbalizer.weight"].view(-1)[0].fill_(float("inf")),
    "too large for float32": lambda t: t.update(
        {"prompt.separator": torch.full((16,), 1e300, dtype=torch.float64)}
    ),
    "column": lambda t: t["verbalizer.columns_0"].fill_(5),
    "negative column": lambda t: t["verbalizer.columns_1"].fill_(-1),
    "answer": lambda t: t["verbalizer.answers_0"].fill_(24),
    "fractional ids": lambda t: t.update({"verbalizer.columns_0": torch.full((3,), 0.5)}),
    "whole vectors": lambda t: t.update({"prompt.separator": torch.ones(16, dtype=torch.int64)}),
}


@pytest.mark.parametrize("damage", TENSOR_DAMAGE)
def test_damaged_tensors_are_named(folder: Path, damage: str) -> None:
    rewrite(folder, TENSOR_DAMAGE[damage])
    with pytest.raises(ArtifactError, match=r"prompt\.safetensors") as error:
        Artifact.load(folder, SPOKEN)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 2000])
def test_truncated_files_are_named(folder: Path, kept: int) -> None:
    for name in ("prompt.safetensors", "prompt_config.json", "metrics.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: min(kept, len(content) - 3)])
        with pytest.raises(ArtifactError, match=name):
            Artifact.load(folder, SPOKEN)
        (folder / name).write_bytes(content)
    assert Artifact.load(folder, SPOKEN).name == "prompt"


CONFIG_DAMAGE: list[dict[str, Any]] = [
    {"schema": 2},
    {"prompt_length": 10**30},
    {"prompt_length": 10**9},
    {"prompt_length": -1},
    {"prompt_length": 2},
    {"prompt_length": "three"},
    {"method": "sideways"},
    {"method": "input"},
    {"decoding": None},
    {"slots": {}},
    {"slots": {"word": ["alpha"]}},
    {"slots": {"word": ["alpha", "alpha", "beta"], "length": ["short", "long"]}},
    {"slots": {"word": ["alpha", "beta"], "length": ["short", "long"]}},
    {"slots": [["word"]]},
    {"verbalizer": "fixed"},
    {"temperatures": {"word": 0}},
    {"temperatures": {"word": -1}},
    {"temperatures": {"word": float("nan")}},
    {"threshold": float("inf")},
    {"unknown": 1},
    {"lm_fingerprint": 5},
    {"streams": []},
    {"streams": ["units"]},
    {"streams": ["f0"]},
    {"streams": ["units", "nothing"]},
]


@pytest.mark.parametrize("change", CONFIG_DAMAGE, ids=str)
def test_a_hostile_configuration_is_an_error_that_names_the_folder(
    folder: Path, change: dict[str, Any]
) -> None:
    path = folder / "prompt_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError) as error:
        Artifact.load(folder, SPOKEN)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaNN}'])
def test_garbage_in_a_json_file_is_named(folder: Path, content: bytes) -> None:
    for name in ("metrics.json", "prompt_config.json"):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            Artifact.load(folder, SPOKEN)
        (folder / name).write_bytes(good)


def test_a_missing_folder_and_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a prompt folder"):
        Artifact.load(tmp_path / "nowhere", SPOKEN)
    (folder / "metrics.json").unlink()
    assert Artifact.load(folder, SPOKEN).metrics == {}
    (folder / "prompt.safetensors").unlink()
    with pytest.raises(ArtifactError, match="missing or damaged"):
        Artifact.load(folder, SPOKEN)


def test_nothing_is_overwritten_without_force(folder: Path) -> None:
    before = tree(folder)
    other = artifact_of(entry_of(SPOKEN.lm, seed=1))
    with pytest.raises(OutputExists, match="--force"):
        other.save(folder)
    assert tree(folder) == before
    other.save(folder, force=True)
    assert tree(folder)["prompt.safetensors"] != before["prompt.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["prompt"]


def test_force_never_replaces_what_is_not_an_artifact(tmp_path: Path) -> None:
    artifact = artifact_of(entry_of(SPOKEN.lm))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("thesis", "file"):
        with pytest.raises(ArtifactError, match="not a prompt folder, so it is not replaced; move it away"):
            artifact.save(tmp_path / name, force=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert artifact.save(tmp_path / "empty", force=True).is_dir()


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_for_safetensors(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "failing", ["tensors", "safetensors", "text", "scratch", "first move", "second move"]
)
def test_a_full_disk_leaves_the_old_artifact(
    folder: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, replace, moves = tree(folder), Path.replace, []

    def failing_replace(self: Path, target: Path) -> Path:
        moves.append(self)
        if len(moves) == (1 if failing == "first move" else 2):
            full()
        return replace(self, target)

    places: dict[str, tuple[object, str, object]] = {
        "tensors": ("safetensors.torch", "save_file", full),
        "safetensors": ("safetensors.torch", "save_file", full_for_safetensors),
        "text": (Path, "write_text", full),
        "scratch": ("tempfile", "mkdtemp", full),
    }
    where, name, broken = places.get(failing, (Path, "replace", failing_replace))
    target = f"{where}.{name}" if isinstance(where, str) else None
    with monkeypatch.context() as patch:
        patch.setattr(target, broken) if target else patch.setattr(where, name, broken)
        with pytest.raises(ArtifactError, match=r"could not write .*No space left"):
            artifact_of(entry_of(SPOKEN.lm, seed=1)).save(folder, force=True)
    assert tree(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["prompt"]
    assert Artifact.load(folder, SPOKEN).name == "prompt"


def test_hashes_of_heard_clips_come_back_and_damaged_ones_are_named(folder: Path) -> None:
    assert Artifact.load(folder, SPOKEN).heard is None
    heard = heard_in(CORPUS.split("train"))
    replace(artifact_of(entry_of(SPOKEN.lm)), heard=heard).save(folder, force=True)
    found = Artifact.load(folder, SPOKEN).heard
    assert found is not None
    assert torch.equal(found, heard)
    train = [replace(u, id=f"another {u.id}") for u in CORPUS.split("train")]
    assert count_heard(found, train) == len(train)
    assert count_heard(None, train) == 0
    bare = [replace(u, units=None if u.units is None else Units(u.units.ids)) for u in train]
    assert (len(heard_in(bare)), count_heard(found, bare)) == (0, 0)
    path = folder / "prompt.safetensors"
    save_file({**load_file(path), "heard": torch.ones(3)}, path)
    with pytest.raises(ArtifactError, match="'heard' holds no hashes"):
        Artifact.load(folder, SPOKEN)


def test_a_card_says_what_the_prompt_is(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for part in ("word+length", "alpha, beta, gamma", "toy@1", "accuracy 0.500"):
        assert part in card


def test_reference_prompts_with_shared_units_are_read_as_they_are(tmp_path: Path) -> None:
    lm = SPOKEN.lm
    tensors = {"decoder.sep_embed.weight": torch.randn(1, 16)}
    for kind in ("key", "value"):
        for layer in range(2):
            tensors[f"decoder.deep_{kind}_embed_prompts.{layer}.weight"] = torch.randn(5, 16)
    tensors["decoder.prefix_embed_prompts.weight"] = torch.randn(5, 16)
    shared = {"alpha": "7", "beta": "7", "gamma": "3", "short": "3", "long": "11"}
    away = reference_prompt(tensors, toy_lm().to("meta"), TASK, shared)
    assert {x.device.type for x in away.state_dict().values()} == {"meta"}
    entry = reference_prompt(tensors, lm, TASK, shared)
    assert entry.verbalizer.columns("word").tolist() == [11, 11, 7]
    assert entry.verbalizer.columns("length").tolist() == [7, 15]
    loaded = Artifact.load(artifact_of(entry).save(tmp_path / "old"), SPOKEN)
    scores = scores_alone(lm, loaded.entry, some_units([6])[0])["word"]
    assert float(scores[0]) == float(scores[1])
    assert "prefix_embed" not in "".join(loaded.entry.state_dict())
