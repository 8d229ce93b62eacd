from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hubert import (
    BASE,
    LARGE,
    centres,
    distance,
    tiny_model,
    tiny_tokenizer,
    waveform,
)
from transformers import HubertModel

from speechprompt.errors import AudioError
from speechprompt.speech.units import expand
from speechprompt.tokenizers import UnitTokenizer, hubert_encoder
from speechprompt.tokenizers.hubert import HubertTokenizer
from speechprompt.tokenizers.hubert_convolutions import full_precision


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HubertTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("hubert"))


@torch.no_grad()
def plain_features(model: HubertModel, samples: np.ndarray, layer: int) -> torch.Tensor:
    """As transformers computes them, one clip at a time, all layers."""
    return model(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states[layer][0]


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("layer", [1, 2])
def test_features_are_the_hidden_states_of_the_layer(
    kind: dict[str, Any], layer: int, tmp_path: Path
) -> None:
    model = tiny_model(kind, layers=3)
    model.save_pretrained(tmp_path)
    tokenizer = HubertTokenizer.from_pretrained(tmp_path, layer, centres(), normalize=False)
    for samples in (400, 719, 720, 9000):
        clip = waveform(samples)
        [features] = tokenizer.features([clip])
        assert distance(features, plain_features(model, clip, layer)) < 1e-5
    assert len(tokenizer.encoder.model.encoder.layers) == layer
    assert isinstance(tokenizer, UnitTokenizer)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(400, 9000) | st.sampled_from([400, 401, 719, 720]), min_size=1, max_size=7))
def test_a_clip_in_a_batch_is_the_clip_alone(tokenizer: HubertTokenizer, lengths: list[int]) -> None:
    clips = [waveform(length, seed) for seed, length in enumerate(lengths)]
    for clip, units, features in zip(
        clips, tokenizer.encode_batch(clips), tokenizer.features(clips), strict=True
    ):
        alone = tokenizer.encode(clip)
        assert units == alone
        assert distance(features, tokenizer.features([clip])[0]) < 1e-5
        assert expand(units).shape == (tokenizer.encoder.frame_count(len(clip)),)


def test_one_batch_holds_several_clips_or_the_test_above_says_nothing(
    tokenizer: HubertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    transformer = tokenizer.encoder._transformer
    monkeypatch.setitem(
        tokenizer.encoder.__dict__,
        "_transformer",
        lambda clips: seen.append([len(clip) for clip in clips]) or transformer(clips),
    )
    tokenizer.encode_batch([waveform(8000), waveform(7000), waveform(400), waveform(7000, 1)])
    assert seen == [[1, 21, 21, 24]]
    monkeypatch.setattr(hubert_encoder, "_BATCH_FRAMES", 45)
    tokenizer.encode_batch([waveform(8000), waveform(7000), waveform(400), waveform(7000, 1)])
    assert seen[1:] == [[1, 21, 21], [24]]


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
def test_bfloat16_is_nearer_to_fp32_than_the_plain_model_in_bfloat16(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    clips = [waveform(samples) for samples in (400, 9000, 25_000)]
    model, layer = tiny_model(kind), 2
    tokenizer = tiny_tokenizer(tmp_path, kind, precision="bfloat16", normalize=False)
    assert tokenizer.fingerprint != tiny_tokenizer(tmp_path, kind, normalize=False).fingerprint
    exact = torch.cat([plain_features(model, clip, layer) for clip in clips])
    model.bfloat16()
    with torch.no_grad():
        states = [
            model(torch.from_numpy(clip)[None].bfloat16(), output_hidden_states=True).hidden_states[layer][0]
            for clip in clips
        ]
    found = torch.cat(tokenizer.features(clips))
    assert found.dtype == torch.float32
    error = (found - exact).abs().mean()
    assert error < (torch.cat(states).float() - exact).abs().mean()
    assert error < 0.02 * exact.abs().mean()


def test_the_first_norm_stands_a_constant_in_the_waveform(tmp_path: Path) -> None:
    clip = waveform(8000) + 20
    for precision, most in (("float32", 1e-4), ("bfloat16", 0.05)):
        tokenizer = tiny_tokenizer(tmp_path, precision=precision)
        [features] = tokenizer.features([clip])
        assert distance(features, plain_features(tiny_model().double(), clip.astype(float), 2).float()) < most


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
def test_blocks_of_convolutions_leave_no_seam(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer(tmp_path, kind)
    clip = waveform(21_000)
    [whole] = tokenizer.features([clip])
    for frames in (1, 7, 64, 65):
        monkeypatch.setattr(hubert_encoder, "_BLOCK_FRAMES", frames)
        assert distance(tokenizer.features([clip])[0], whole) < 1e-5


def test_published_chunks_do_not_hear_each_other(
    tokenizer: HubertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubert_encoder, "CHUNK_SAMPLES", 4000)
    for samples in (4000, 4001, 4399, 4400, 8000, 13_000):
        clip = waveform(samples)
        pieces = [clip[start : start + 4000] for start in range(0, samples, 4000)]
        apart = torch.cat([tokenizer.features([piece])[0] for piece in pieces if len(piece) >= 400])
        assert distance(tokenizer.features([clip])[0], apart) < 1e-5


def test_overlapping_windows_keep_every_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer(tmp_path, chunking="overlap")
    clip = waveform(40_000)
    [whole] = tokenizer.features([clip])
    monkeypatch.setattr(hubert_encoder, "CHUNK_SAMPLES", 8000)
    assert len(tokenizer.features([clip])[0]) == tokenizer.encoder.frame_count(len(clip)) == len(whole)
    monkeypatch.setattr(hubert_encoder, "OVERLAP_FRAMES", 200)  # every window hears everything
    assert distance(tokenizer.features([clip])[0], whole) < 1e-5
    monkeypatch.setattr(hubert_encoder, "OVERLAP_FRAMES", 40)
    wide = (tokenizer.features([clip])[0] - whole).abs().mean()
    monkeypatch.setattr(hubert_encoder, "OVERLAP_FRAMES", 0)
    none = (tokenizer.features([clip])[0] - whole).abs().mean()
    assert wide < none


def test_normalisation_hears_the_whole_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer(tmp_path, LARGE)
    assert tokenizer.encoder.normalize
    clip = waveform(6000)
    scaled = torch.nn.functional.layer_norm(torch.from_numpy(clip), (6000,)).numpy()
    plain = tiny_tokenizer(tmp_path, LARGE, normalize=False)
    assert distance(tokenizer.features([3 * clip + 1])[0], plain.features([scaled])[0]) < 1e-4
    assert tokenizer.fingerprint != plain.fingerprint


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_a_clip_that_is_too_short(tokenizer: HubertTokenizer, samples: int) -> None:
    with pytest.raises(AudioError, match=f"clip 1 lasts {samples / 16:.0f} ms; a clip needs at least 25 ms"):
        tokenizer.encode_batch([waveform(400), waveform(samples)])


@pytest.mark.parametrize(
    "clip", [np.zeros((2, 800), np.float32), np.full(800, np.nan, np.float32), np.float32(1)]
)
def test_what_is_no_waveform(tokenizer: HubertTokenizer, clip: np.ndarray) -> None:
    with pytest.raises(AudioError, match="not one row of finite samples"):
        tokenizer.encode(clip)


def test_silence_and_nothing(tokenizer: HubertTokenizer) -> None:
    assert tokenizer.encode_batch([]) == []
    assert len(expand(tokenizer.encode(np.zeros(16_000, np.float32)))) == 49


# --- the reference's numbers


@pytest.mark.golden
def test_golden_features_and_units(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = shared / "golden" / "k_hubert_base"
    about = json.loads((case / "info.json").read_text())
    with np.load(case / "golden.npz") as file:
        golden = {name: file[name] for name in file}

    def load(layer: int) -> HubertTokenizer:
        return HubertTokenizer.from_fairseq(case / "hubert_checkpoint.pt", layer, case / "km.bin")

    def close(features: torch.Tensor, name: str) -> None:
        expected = golden[name]
        assert features.shape == expected.shape
        error = np.abs(features.numpy() - expected).max()
        assert error <= max(1e-5 * np.abs(expected).max(), 1e-7), name

    for layer in (1, 2, 3, 4):
        close(load(layer).features([golden["wave"]])[0], f"features/layer{layer}")
    tokenizer = load(about["km_layer"])
    assert tokenizer.encoder.normalize is about["normalize"]
    units = tokenizer.encode(golden["wave"])
    assert np.array_equal(expand(units), golden["km/units_layer2"])
    assert np.array_equal(units.ids, golden["km/units_dedup"])
    close(tokenizer.encoder._convolved(torch.from_numpy(golden["wave"])).T[None], "conv_features")
    frames = len(golden["batch/single_features3_of_second"])
    second = golden["wave"][: 320 * (frames - 1) + 400]
    assert len(load(3).features([golden["wave"], second])[1]) == frames
    monkeypatch.setattr(hubert_encoder, "CHUNK_SAMPLES", 16_000)
    close(tokenizer.features([golden["wave"]])[0], "features/layer2_max_chunk16000")


@pytest.mark.golden
def test_golden_units_in_bfloat16(shared: Path) -> None:
    case = shared / "golden" / "k_hubert_base"
    layer = json.loads((case / "info.json").read_text())["km_layer"]
    checkpoint = case / "hubert_checkpoint.pt"
    tokenizer = HubertTokenizer.from_fairseq(checkpoint, layer, case / "km.bin", precision="bfloat16")
    with np.load(case / "golden.npz") as golden:
        same = expand(tokenizer.encode(golden["wave"])) == golden["km/units_layer2"]
    assert same.mean() > 0.98  # all 115 of them when this was written


def test_convolutions_on_a_gpu_are_not_rounded_to_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    with full_precision(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
    with full_precision(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 == before
