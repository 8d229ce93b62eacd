from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import AudioError, CheckpointError
from speechprompt.tokenizers.mel_encoder import (
    FRAME_SAMPLES,
    WINDOW_SAMPLES,
    MelEncoder,
    MelEncoderConfig,
    MelFrames,
    frame_count,
    mel_filters,
    smoothed,
)
from speechprompt.tokenizers.mel_hubert import CHUNK_FRAMES, MelHubertTokenizer
from speechprompt.tokenizers.protocol import UnitTokenizer, Waveform

SIZES = MelEncoderConfig(mels=20, width=16, heads=2, inner=32, kernel=5, layers=2)


def toy(seed: int = 0, smoothing: bool = False) -> MelHubertTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, centres = MelEncoder(SIZES), torch.randn(12, SIZES.width)
        return MelHubertTokenizer("toy", encoder, centres, smoothing=smoothing)


TOY = toy()
SMOOTH = toy(smoothing=True)


def sound(samples: int, seed: int = 0) -> Waveform:
    """Noise whose colour changes, so that units change too."""
    rng = np.random.default_rng(seed)
    steps = (
        rng.standard_normal(samples) * np.repeat(rng.uniform(0.01, 1, samples // 1500 + 1), 1500)[:samples]
    )
    return (0.05 * (steps + np.r_[0, steps[:-1]] * np.sin(np.arange(samples) / 5000))).astype(np.float32)


def test_it_is_a_unit_tokenizer() -> None:
    assert isinstance(TOY, UnitTokenizer)
    assert (TOY.sample_rate, TOY.frame_rate, TOY.unit_count) == (16_000, 50.0, 12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(WINDOW_SAMPLES, 30_000), min_size=1, max_size=6), st.integers(0, 99))
def test_units_of_a_clip_do_not_depend_on_its_neighbours(lengths: list[int], seed: int) -> None:
    clips = [sound(length, seed + i) for i, length in enumerate(lengths)]
    for tokenizer in (TOY, SMOOTH):
        assert tokenizer.encode_batch(clips) == [tokenizer.encode(clip) for clip in clips]


@given(st.integers(WINDOW_SAMPLES, 10_000))
@settings(deadline=None, max_examples=20)
def test_durations_sum_to_the_frames_that_fit(samples: int) -> None:
    units = TOY.encode(sound(samples))
    assert units.durations is not None
    assert units.durations.sum() == frame_count(samples) == (samples - 240) // FRAME_SAMPLES


def test_frames_are_padded_with_zeros_and_deaf_to_gain() -> None:
    clip = torch.from_numpy(sound(8_000))
    padded = torch.nn.functional.pad(torch.stack([clip, clip * 0.01]), (0, 4_000), value=0.3)
    alone, counts = MelFrames(20)(clip[None], torch.tensor([8_000]))
    both, _ = MelFrames(20)(padded, torch.tensor([8_000, 12_000]))
    quiet, _ = MelFrames(20)(clip[None] * 0.01, torch.tensor([8_000]))
    assert counts.tolist() == [24]
    torch.testing.assert_close(both[:1, :24], alone)
    assert not both[0, 24:].any()
    torch.testing.assert_close(quiet, alone, atol=1e-3, rtol=1e-3)


def test_every_mel_filter_hears_something() -> None:
    filters = mel_filters(80)
    assert filters.shape == (257, 80)
    torch.testing.assert_close(filters.sum(0), torch.ones(80))
    assert (filters.argmax(0).diff() >= 0).all()


def test_a_long_clip_is_cut_into_pieces_without_losing_frames() -> None:
    piece = CHUNK_FRAMES * FRAME_SAMPLES
    clip = sound(piece + 3 * FRAME_SAMPLES + 400)
    units = TOY.encode(clip)
    head, tail = TOY.encode(clip[: piece + 240]), TOY.encode(clip[piece:])
    assert units.durations is not None
    assert units.durations.sum() == frame_count(len(clip))
    merged = int(head.ids[-1] == tail.ids[0])
    assert units.ids.tolist() == [*head.ids.tolist(), *tail.ids[merged:].tolist()]


@pytest.mark.parametrize("clip", [np.zeros(16_000, np.float32), np.full(700, 1.0, np.float32)])
def test_silence_and_direct_current_have_units(clip: Waveform) -> None:
    assert len(TOY.encode(clip)) >= 1


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros(0, np.float32),
        np.zeros(WINDOW_SAMPLES - 1, np.float32),
        np.full(2_000, np.nan, np.float32),
        np.zeros((2, 2_000), np.float32),
    ],
)
def test_what_is_not_a_clip_is_refused(clip: Waveform) -> None:
    with pytest.raises(AudioError, match="clip 1"):
        TOY.encode_batch([sound(1_000), clip])


def test_no_clips_are_no_units() -> None:
    assert TOY.encode_batch([]) == []


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    TOY.save(tmp_path)
    loaded = MelHubertTokenizer.load(tmp_path)
    assert loaded.fingerprint == TOY.fingerprint
    assert loaded.encode(sound(20_000)) == TOY.encode(sound(20_000))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()


def test_a_smoothing_tokenizer_reads_means_of_three_frames(tmp_path: Path) -> None:
    clip = sound(20_000)
    [plain], [smooth] = TOY.features([clip]), SMOOTH.features([clip])
    padded = torch.cat([plain[:1], plain, plain[-1:]])
    torch.testing.assert_close(smooth, (padded[:-2] + padded[1:-1] + padded[2:]) / 3)
    lone = torch.randn(2, 4, 3)
    torch.testing.assert_close(smoothed(lone, torch.tensor([1, 4]))[0, 0], lone[0, 0])
    assert len(SMOOTH.encode(clip)) < len(TOY.encode(clip))
    assert SMOOTH.fingerprint != TOY.fingerprint
    SMOOTH.save(tmp_path)
    loaded = MelHubertTokenizer.load(tmp_path)
    assert loaded.fingerprint == SMOOTH.fingerprint
    assert loaded.encode(clip) == SMOOTH.encode(clip)
    assert loaded.with_centres("other", torch.randn(3, 16)).features([clip])[0].equal(smooth)
    config = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**config, "smoothing": "much"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="neither true nor false"):
        MelHubertTokenizer.load(tmp_path)


def test_other_centres_lie_where_the_encoder_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MelHubertTokenizer, "_hash", lambda self: "")  # nothing on meta can be hashed
    moved = toy().to("meta").with_centres("other", torch.zeros(3, SIZES.width))
    parts = [*moved._encoder.state_dict().values(), *moved._frames.buffers(), moved._centres]
    assert {part.device.type for part in parts} == {"meta"}


def test_other_weights_or_another_name_have_another_fingerprint() -> None:
    assert toy(1).fingerprint != TOY.fingerprint == toy(0).fingerprint


def test_damaged_and_foreign_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        MelHubertTokenizer.load(tmp_path)
    TOY.save(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        MelHubertTokenizer.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    for change in ({"kind": "hubert"}, {"schema": 2}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match="does not describe"):
            MelHubertTokenizer.load(tmp_path)
    for change in ({"encoder": config["encoder"] | {"width": 32}}, {"encoder": {"x": 1}}, {"encoder": None}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match="do not fit"):
            MelHubertTokenizer.load(tmp_path)
