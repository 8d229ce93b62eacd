"""Units with F0: segment means, interpolation, normalisation, the tokenizer that adds them, YAAPT itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hard_audio import SHORTER_THAN_A_FRAME, hard_clips
from speechprompt.errors import AudioError, UnitsError
from speechprompt.speech.units import Units
from speechprompt.testing import ToyTokenizer
from speechprompt.tokenizers.pitch import BatchPitchTracker
from speechprompt.tokenizers.prosody import (
    F0_RATE,
    Pitch,
    PitchTracker,
    ProsodyTokenizer,
    interpolated,
    mean_log_f0,
    normalised_log_f0,
    speaker_means,
    unit_f0,
)
from speechprompt.tokenizers.protocol import UnitTokenizer, Waveform

TRACKS = st.lists(st.sampled_from([0.0, 80.0, 100.0, 150.0, 250.0]), max_size=60)


class FixedTracker:
    """Every clip has the same pitch in its louder half-milliseconds."""

    name = "fixed"
    fingerprint = "fixed"

    def track(self, waveforms: Sequence[Waveform], sample_rate: int) -> list[Pitch]:
        tracks = []
        for waveform in waveforms:
            hop = sample_rate // F0_RATE
            count = -(-len(waveform) // hop)
            level = [np.abs(waveform[i * hop : (i + 1) * hop]).max() for i in range(count)]
            tracks.append(np.array([100 * (1 + v) if v > 0.1 else 0 for v in level], np.float32))
        return tracks


@given(TRACKS, st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_a_units_f0_is_the_mean_of_its_voiced_values(values: list[float], durations: list[int]) -> None:
    track, length = np.array(values, np.float32), 4 * sum(durations)
    if abs(len(track) - length) > 20:
        with pytest.raises(UnitsError, match="does not fit"):
            unit_f0(track, np.array(durations), 50.0)
        return
    last = values[-1] if values else 0.0
    whole = (values + [last] * length)[:length]
    expected, start = [], 0
    for duration in durations:
        part = [v for v in whole[start : start + 4 * duration] if v]
        expected.append(sum(part) / len(part) if part else 0.0)
        start += 4 * duration
    assert unit_f0(track, np.array(durations), 50.0).tolist() == pytest.approx(expected, rel=1e-6)


@given(TRACKS)
def test_interpolation_fills_inner_gaps_and_nothing_else(values: list[float]) -> None:
    f0 = np.array(values, np.float32)
    filled = interpolated(f0)
    voiced = [i for i, v in enumerate(values) if v]
    assert filled[f0 > 0].tolist() == f0[f0 > 0].tolist()
    for i in range(len(values)):
        inside = len(voiced) > 1 and voiced[0] <= i <= voiced[-1]
        assert (filled[i] > 0) == (inside or values[i] > 0)
    assert interpolated(np.array([0, 100, 0, 0, 160, 0], np.float32)).tolist() == [0, 100, 120, 140, 160, 0]
    assert interpolated(np.array([0, 100, 0], np.float32)).tolist() == [0, 100, 0]


@given(TRACKS, st.floats(3, 6))
def test_normalised_logs_leave_silence_at_zero(values: list[float], mean: float) -> None:
    f0 = np.array(values, np.float32)
    found = normalised_log_f0(f0, mean)
    assert found.dtype == np.float32
    expected = [np.log(v) - mean if v else 0.0 for v in values]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_means_are_over_voiced_values() -> None:
    low, high = np.array([0, 100, 100], np.float32), np.array([200, 0], np.float32)
    silent = np.zeros(3, np.float32)
    assert mean_log_f0([low]) == pytest.approx(np.log(100))
    assert mean_log_f0([low, high]) == pytest.approx((2 * np.log(100) + np.log(200)) / 3)
    assert mean_log_f0([silent]) == mean_log_f0([]) == 0.0
    means = speaker_means([low, high, silent, low], ["a", "b", "c", "b"])
    assert means == {
        "a": pytest.approx(np.log(100)),
        "b": pytest.approx((2 * np.log(100) + np.log(200)) / 3),
    }


def wave(seconds: float, seed: int = 0) -> Waveform:
    random = np.random.default_rng(seed)
    loud = np.repeat(random.random(int(seconds * 10) + 1), 800)[: int(seconds * 8000)]
    return (loud * np.sin(np.arange(len(loud)) * 0.1)).astype(np.float32)


def test_the_wrapper_is_a_tokenizer_that_adds_f0() -> None:
    plain, tokenizer = ToyTokenizer(), ProsodyTokenizer(ToyTokenizer(), FixedTracker())
    assert isinstance(tokenizer, UnitTokenizer)
    assert isinstance(FixedTracker(), PitchTracker)
    clips = [wave(1.0), wave(0.3, 1), np.zeros(1600, np.float32)]
    for clip, units in zip(clips, tokenizer.encode_batch(clips), strict=True):
        bare = plain.encode(clip)
        assert units == tokenizer.encode(clip)
        assert Units(units.ids, units.durations) == bare
        assert units.f0.shape == bare.ids.shape
        assert np.isfinite(units.f0).all()
    assert tokenizer.encode(clips[2]).f0.tolist() == [0.0] * len(tokenizer.encode(clips[2]))
    with pytest.raises(AudioError):
        tokenizer.encode(np.zeros(3, np.float32))


def test_f0_is_measured_from_the_speakers_mean() -> None:
    clip, table = wave(1.0), {"ana": 4.0, "bo": 5.0}
    own = ProsodyTokenizer(ToyTokenizer(), FixedTracker())
    tabled = ProsodyTokenizer(ToyTokenizer(), FixedTracker(), table)
    voiced = own.encode(clip).f0 != 0
    assert voiced.any()
    ana, bo = (tabled.encode(clip, speaker).f0 for speaker in ("ana", "bo"))
    assert (ana - bo)[voiced] == pytest.approx(1.0, abs=1e-5)
    for stranger in (None, "zoe"):
        assert tabled.encode(clip, stranger).f0.tolist() == own.encode(clip).f0.tolist()
    names = {
        own.fingerprint,
        tabled.fingerprint,
        ProsodyTokenizer(ToyTokenizer(), FixedTracker(), {"ana": 4.1}).fingerprint,
    }
    assert len(names) == 3


def test_absolute_f0_keeps_the_height_of_a_voice() -> None:
    clip = wave(1.0)
    own = ProsodyTokenizer(ToyTokenizer(), FixedTracker())
    absolute = ProsodyTokenizer(ToyTokenizer(), FixedTracker(), "absolute")
    assert (own.name, absolute.name) == ("toy+fixed", "toy+fixed-absolute")
    assert own.fingerprint != absolute.fingerprint
    voiced = own.encode(clip).f0 != 0
    difference = (absolute.encode(clip).f0 - own.encode(clip).f0)[voiced]
    assert difference == pytest.approx(np.full(len(difference), difference[0]), abs=1e-5)
    assert difference[0] > np.log(50)
    assert not absolute.encode(np.zeros(1600, np.float32)).f0.any()


def test_a_tokenizer_without_durations_is_refused() -> None:
    class Bare(ToyTokenizer):
        def encode_batch(self, waveforms: Sequence[Waveform]) -> list[Units]:
            return [Units([1]) for _ in waveforms]

    with pytest.raises(UnitsError, match="no durations"):
        ProsodyTokenizer(Bare(), FixedTracker()).encode(wave(1.0))


def test_yaapt_follows_the_published_call() -> None:
    pytest.importorskip("amfm_decompy")
    from speechprompt.tokenizers.yaapt import YaaptTracker

    times = np.arange(16000) / 16000
    tone = sum(np.cos(2 * np.pi * 120 * k * times) / k for k in range(1, 8)).astype(np.float32)
    tone[:4000] = 0
    track = YaaptTracker().track([tone], 16000)[0]
    assert len(track) == 200
    assert not track[:40].any()
    assert track[60:190].tolist() == pytest.approx([120] * 130, rel=0.02)
    louder, same = YaaptTracker().track([0.1 * tone, tone], 16000)
    assert louder == pytest.approx(same, rel=1e-3)


@pytest.mark.parametrize("samples", [0, 1, 100, 3000])
def test_yaapt_on_nothing_is_unvoiced(samples: int) -> None:
    pytest.importorskip("amfm_decompy")
    from speechprompt.tokenizers.yaapt import YaaptTracker

    tracks = YaaptTracker().track([np.zeros(samples, np.float32), np.full(samples, 0.5, np.float32)], 16000)
    for track in tracks:
        assert len(track) == -(-samples // 80)
        assert np.isfinite(track).all()
    assert not tracks[0].any()


@pytest.mark.parametrize("maximum", [400, 600])
@pytest.mark.parametrize("mean", ["utterance", "table"])
def test_any_audio_gets_finite_f0_alone_and_in_a_batch(mean: str, maximum: int) -> None:
    table = {"ana": 5.0} if mean == "table" else "utterance"
    tokenizer = ProsodyTokenizer(ToyTokenizer(), BatchPitchTracker(maximum_hz=maximum), table)
    clips = {name: clip for name, clip in hard_clips(8000).items() if name not in SHORTER_THAN_A_FRAME}
    together = tokenizer.encode_batch(list(clips.values()), ["ana"] * len(clips))
    for (name, clip), units in zip(clips.items(), together, strict=True):
        alone = tokenizer.encode(clip, "ana")
        assert units == alone, name
        assert units.f0.tolist() == alone.f0.tolist(), name
        assert np.isfinite(units.f0).all(), name
        assert (np.abs(units.f0) < 3).all(), name
        if name in ("silent", "constant", "one frame"):
            assert not units.f0.any(), name


def test_audio_shorter_than_a_frame_is_one_error() -> None:
    tokenizer = ProsodyTokenizer(ToyTokenizer(), BatchPitchTracker())
    for name in SHORTER_THAN_A_FRAME:
        with pytest.raises(AudioError, match="shorter than one frame"):
            tokenizer.encode(hard_clips(8000)[name])
