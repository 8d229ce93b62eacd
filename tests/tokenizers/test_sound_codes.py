from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.speech.units import deduplicate, expand
from speechprompt.tokenizers.mel_encoder import MelEncoder, MelEncoderConfig
from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer
from speechprompt.tokenizers.sound_codes import (
    BLOCK_FRAMES,
    FEATURES,
    SoundCodes,
    block_means,
    interleave,
    pitch_and_voicing,
)

SIZES = MelEncoderConfig(mels=20, width=16, heads=2, inner=32, kernel=3, layers=2)


def toy() -> MelHubertTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sound = SoundCodes(torch.zeros(FEATURES), torch.ones(FEATURES), torch.randn(6, 12), torch.randn(4, 4))
        return MelHubertTokenizer("toy", MelEncoder(SIZES), torch.randn(12, SIZES.width), sound)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 99))
def test_codes_stand_where_they_change_and_no_run_of_content_is_lost(content: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = max(1, len(content) // BLOCK_FRAMES)
    streams = tuple(rng.integers(first, first + 3, blocks) for first in (10, 20))
    frames = interleave(np.array(content), streams, 10)
    assert len(frames) == len(content)
    units = deduplicate(frames)
    assert np.array_equal(expand(units), frames)
    if len(content) <= 2:
        assert frames.tolist() == content
        return
    for first, codes in zip((10, 20), streams, strict=True):
        found = [unit for unit in frames.tolist() if first <= unit < first + 10]
        assert found == codes[np.r_[True, codes[1:] != codes[:-1]]].tolist()
    # a run of three frames or more can lose two of them to codes of a block, never all
    runs = deduplicate(content)
    kept = set(frames.tolist())
    assert runs.durations is not None
    assert {
        unit for unit, length in zip(runs.ids.tolist(), runs.durations.tolist(), strict=True) if length > 4
    } <= kept


def test_a_code_prefers_the_start_of_a_run_and_spares_single_frames() -> None:
    assert interleave(np.array([1, 2, 2, 2, 3]), (np.array([9]),), 9).tolist() == [1, 9, 2, 2, 3]
    assert interleave(np.array([1, 1, 1, 1, 1]), (np.array([8]), np.array([9])), 8).tolist() == [
        8,
        9,
        1,
        1,
        1,
    ]


def test_block_means_give_the_rest_to_the_last_block() -> None:
    frames = torch.arange(13.0)[:, None]
    assert block_means(frames)[:, 0].tolist() == [2.0, 8.5]
    assert block_means(frames[:2])[:, 0].tolist() == [0.5]


@pytest.mark.parametrize("hertz", [70.0, 120.0, 200.0, 440.0])
def test_pitch_of_a_voice_like_tone(hertz: float) -> None:
    time = torch.arange(16_000) / 16_000
    tone = sum(torch.sin(2 * torch.pi * hertz * k * time) / k for k in range(1, 8))
    assert isinstance(tone, torch.Tensor)
    octaves, voicing = pitch_and_voicing(0.1 * tone[None], 49)
    assert (octaves[0, 3:-3] - np.log2(hertz / 100)).abs().max() < 0.05
    assert voicing[0, 3:-3].min() > 0.9
    noise = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    assert pitch_and_voicing(0.1 * noise, 49)[1].mean() < 0.5
    assert torch.isfinite(pitch_and_voicing(torch.zeros(1, 16_000), 49)[0]).all()


def test_units_with_codes_do_not_depend_on_neighbours_and_survive_saving(tmp_path: Path) -> None:
    tokenizer = toy()
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (560, 2_000, 9_000, 40_000)]
    together = tokenizer.encode_batch(clips)
    assert together == [tokenizer.encode(clip) for clip in clips]
    assert max(int(units.ids.max()) for units in together) >= 12
    assert tokenizer.unit_count == 22
    tokenizer.save(tmp_path)
    loaded = MelHubertTokenizer.load(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode_batch(clips) == together


def test_content_alone_is_the_same_encoder_without_its_codes(tmp_path: Path) -> None:
    whole = toy()
    content = whole.content()
    assert (content.name, content.unit_count, content.content() is content) == ("toy-content", 12, True)
    clip = np.random.default_rng(1).normal(0, 0.1, 24_000).astype(np.float32)
    frames, with_codes = expand(content.encode(clip)), expand(whole.encode(clip))
    assert len(frames) == len(with_codes)
    assert (frames == with_codes)[with_codes < 12].all()
    content.save(tmp_path / "content")
    assert MelHubertTokenizer.load(tmp_path / "content").fingerprint == content.fingerprint
    assert content.fingerprint != whole.fingerprint
