"""Other centres on an encoder that is already taught, for both kinds of tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_hubert import tiny_tokenizer, waveform

from speechprompt.errors import TrainingError, UsageError
from speechprompt.pretraining.refitting import Refittable, RefittingOptions, refitted
from speechprompt.speech.manifest import Utterance
from speechprompt.speech.units import deduplicate
from speechprompt.testing import ToyTokenizer
from speechprompt.tokenizers.mel_encoder import MelEncoder, MelEncoderConfig
from speechprompt.tokenizers.mel_hubert import CHUNK_FRAMES, FRAME_SAMPLES, MelHubertTokenizer


@pytest.fixture
def clips(tmp_path: Path) -> list[Utterance]:
    """Six clips of half a second of noise, and one too short to hear."""
    found = []
    for i, samples in enumerate([8000] * 6 + [100]):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, waveform(samples, i), 16_000)
        found.append(Utterance(str(i), "train", {}, audio=path))
    return found


def mel_tokenizer() -> MelHubertTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = MelEncoder(MelEncoderConfig(mels=20, width=16, heads=2, inner=32, kernel=3, layers=1))
        return MelHubertTokenizer("mel", encoder, torch.randn(5, 16))


@pytest.mark.parametrize("kind", ["mel", "hubert"])
def test_new_centres_are_nearest_to_the_same_features(
    kind: str, clips: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = mel_tokenizer() if kind == "mel" else tiny_tokenizer(tmp_path)
    assert isinstance(old, Refittable)
    options, heard = RefittingOptions(unit_count=9, frames=200), list[object]()
    new = refitted(old, "finer", clips, tmp_path / "run", options, heard.append)
    assert (new.unit_count, new.name, new.fingerprint != old.fingerprint) == (9, "finer", True)
    assert heard
    sample = waveform(8000, 3)
    [features], [same] = old.features([sample]), new.features([sample])
    torch.testing.assert_close(features, same)
    new.save(tmp_path / "saved")
    again = type(old).load(tmp_path / "saved")
    centres = torch.from_numpy(np.load(tmp_path / "run" / "sample.npz")["frames"])
    assert centres.shape[1] == features.shape[1]
    assert again.encode(sample) == new.encode(sample)
    assert len(set(new.encode(sample).ids.tolist())) > 1
    monkeypatch.setattr("speechprompt.pretraining.refitting.read_waveform", None)
    # what was heard is kept, so no clip is decoded again
    assert refitted(old, "finer", clips, tmp_path / "run", options).fingerprint == new.fingerprint


@pytest.mark.parametrize("change", ["file", "content", "span"])
def test_other_audio_under_the_same_ids_is_heard(change: str, clips: list[Utterance], tmp_path: Path) -> None:
    old, options = mel_tokenizer(), RefittingOptions(unit_count=9, frames=200)
    first = refitted(old, "finer", clips, tmp_path / "run", options)
    others = [replace(clip, end_seconds=0.25) for clip in clips[:6]] + clips[6:]
    if change != "span":
        folder = tmp_path if change == "content" else tmp_path / "other"
        folder.mkdir(exist_ok=True)
        for i in range(len(clips)):
            soundfile.write(folder / f"{i}.wav", waveform(8000, i + 50), 16_000)
        others = [replace(clip, audio=folder / f"{clip.id}.wav") for clip in clips]
    resumed = refitted(old, "finer", others, tmp_path / "run", options)
    fresh = refitted(old, "finer", others, tmp_path / "fresh", options)
    assert resumed.fingerprint == fresh.fingerprint != first.fingerprint


def test_features_of_a_long_clip_are_those_of_its_units() -> None:
    tokenizer = mel_tokenizer()
    sample = waveform((CHUNK_FRAMES + 40) * FRAME_SAMPLES, 1)
    [features] = tokenizer.features([sample])
    nearest = torch.cdist(features, tokenizer._centres).argmin(1)
    assert deduplicate(nearest.numpy()) == tokenizer.encode(sample)


def test_what_cannot_be_refitted_is_refused(clips: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be exchanged"):
        refitted(ToyTokenizer(), "x", clips, tmp_path / "a", RefittingOptions())
    with pytest.raises(TrainingError, match="fewer"):
        refitted(mel_tokenizer(), "x", clips, tmp_path / "b", RefittingOptions(unit_count=10_000))
    with pytest.raises(TrainingError, match="other options"):
        refitted(mel_tokenizer(), "x", clips, tmp_path / "b", RefittingOptions(unit_count=3))
