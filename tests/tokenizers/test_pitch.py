"""The batch pitch tracker: known F0, any audio, padding; best paths and medians against plain computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hard_audio import PITCHLESS, hard_clips
from speechprompt.errors import UsageError
from speechprompt.tokenizers.pitch import BatchPitchTracker
from speechprompt.tokenizers.pitch_paths import best_path, compressed, filled, median, spread
from speechprompt.tokenizers.prosody import Pitch, PitchTracker
from speechprompt.tokenizers.protocol import Waveform

RATE = 16000
TRACKER = BatchPitchTracker()
SETTLED = slice(8, -8)
"""Frames away from the ends of a tone."""


def tone(
    f0: np.ndarray, harmonics: int = 20, noise: float = 0.0, rate: int = RATE, seed: int = 0
) -> Waveform:
    """A buzz that follows f0 (S,) in Hz: harmonics falling as 1/k, between silences of 0.2 s.

    In cosine phase, pulse-like as a voice is.
    """
    random, phase = np.random.default_rng(seed), 2 * np.pi * np.cumsum(f0) / rate
    limit = 0.45 * rate
    sound = sum(np.where(k * f0 < limit, np.cos(k * phase) / k, 0) for k in range(1, harmonics + 1))
    sound = sound + noise * random.standard_normal(len(f0))
    silence = np.zeros(rate // 5)
    return np.concatenate([silence, sound, silence]).astype(np.float32)


def tone_frames(track: Pitch, seconds: float) -> Pitch:
    """The frames of the tone itself, its edges left out."""
    return track[40 : 40 + int(200 * seconds)][SETTLED]


def gross_errors(found: Pitch, true: np.ndarray) -> float:
    """Share of frames that are unvoiced or over 20 % off."""
    return float((np.abs(found / true - 1) > 0.2).mean())


@pytest.mark.parametrize(
    ("f0", "harmonics"),
    [(75, 3), *((f0, harmonics) for f0 in (100, 140, 200, 280, 350) for harmonics in (3, 8, 20))],
)
def test_steady_tones(f0: int, harmonics: int) -> None:
    found = tone_frames(TRACKER.track([tone(np.full(RATE, float(f0)), harmonics)], RATE)[0], 1.0)
    assert gross_errors(found, np.full(len(found), f0)) == 0
    assert found.tolist() == pytest.approx([f0] * len(found), rel=0.04)


@pytest.mark.parametrize(("low", "high"), [(80, 160), (220, 110), (150, 320)])
def test_sweeps_with_noise(low: int, high: int) -> None:
    f0 = np.geomspace(low, high, 2 * RATE)
    found = tone_frames(TRACKER.track([tone(f0, noise=0.05)], RATE)[0], 2.0)
    true = np.geomspace(low, high, 400)[SETTLED]
    assert gross_errors(found, true) < 0.03
    assert float(np.median(np.abs(found / true - 1))) < 0.03


def waves_of(f0: float) -> dict[str, np.ndarray]:
    """A second of signals of one F0 whose harmonics or phases are unlike a voice's.

    A square wave is not among them: its square is constant, and over 250 Hz its pitch is halved.
    """
    times = np.arange(RATE) / RATE
    phase = 2 * np.pi * f0 * times
    pulses = np.zeros(RATE)
    pulses[np.arange(0, RATE, RATE / f0).astype(int)] = 1
    return {
        "sawtooth": 2 * (f0 * times % 1) - 1,
        "pulses": pulses,
        "no fundamental": sum(np.cos(k * phase) for k in range(2, int(3400 / f0))),
        "telephone": sum(np.cos(k * phase) / k for k in range(1, int(3400 / f0)) if k * f0 > 300),
        "sine": np.sin(phase),
    }


@pytest.mark.parametrize("f0", [75, 100, 140, 200, 280, 350])
def test_signals_that_are_no_voices(f0: int) -> None:
    silence = np.zeros(RATE // 5)
    named = waves_of(float(f0))
    clips = [np.concatenate([silence, wave, silence]).astype(np.float32) for wave in named.values()]
    tracks = TRACKER.track(clips, RATE)
    errors = {
        name: gross_errors(tone_frames(track, 1.0), np.full(184, float(f0)))
        for name, track in zip(named, tracks, strict=True)
    }
    assert max(errors.values()) <= 0.03, errors


@pytest.mark.parametrize("f0", [100, 180, 300])
def test_vibrato_and_noise(f0: int) -> None:
    vibrato = f0 * (1 + 0.05 * np.sin(2 * np.pi * 5.5 * np.arange(RATE) / RATE))
    found = tone_frames(TRACKER.track([tone(vibrato)], RATE)[0], 1.0)
    assert gross_errors(found, vibrato[::80][SETTLED]) == 0
    plain = tone(np.full(RATE, float(f0)))
    noise = np.random.default_rng(0).standard_normal(len(plain)).astype(np.float32)
    for decibels in (20, 10, 5):
        level = np.sqrt(np.mean(plain**2) / 10 ** (decibels / 10)).astype(np.float32)
        found = tone_frames(TRACKER.track([plain + level * noise], RATE)[0], 1.0)
        assert gross_errors(found, np.full(len(found), float(f0))) <= 0.03


def test_jitter() -> None:
    random = np.random.default_rng(0)
    f0 = 120 * (1 + 0.02 * np.repeat(random.standard_normal(RATE // 80), 80))
    found = tone_frames(TRACKER.track([tone(f0)], RATE)[0], 1.0)
    assert gross_errors(found, np.full(len(found), 120.0)) < 0.03


def test_silence_around_a_tone_is_unvoiced() -> None:
    track = TRACKER.track([tone(np.full(RATE, 150.0))], RATE)[0]
    assert not track[:35].any()
    assert not track[-30:].any()


@pytest.mark.parametrize("maximum", [400, 600])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_any_audio_has_a_defined_result(rate: int, maximum: int) -> None:
    tracker, clips = BatchPitchTracker(maximum_hz=maximum), hard_clips(rate)
    tracks = dict(zip(clips, tracker.track(list(clips.values()), rate), strict=True))
    highest = 425 if maximum == 400 else 1.07 * maximum
    for name, track in tracks.items():
        assert track.dtype == np.float32
        assert len(track) == -(-len(clips[name]) * 200 // rate), name
        assert np.isfinite(track).all(), name
        assert ((track == 0) | ((track >= 55) & (track <= highest))).all(), name
        if name in PITCHLESS:
            assert not track.any(), name
    for name in ("one frame", "two frames", "creaky", "whispered", "a child"):
        assert tracker.track([clips[name]], rate)[0].tolist() == tracks[name].tolist(), name
    for name, f0 in {"clipped": 120, "off centre": 120, "faint": 120, "huge": 120, "telephone": 140}.items():
        assert gross_errors(tone_frames(tracks[name], 1.0), np.full(184, float(f0))) <= 0.03, name
    if maximum == 600:
        assert gross_errors(tone_frames(tracks["a child"], 1.0), np.full(184, 480.0)) == 0


@pytest.mark.parametrize("maximum", [600, 800])
def test_children_and_screams_are_heard_in_a_wider_range(maximum: int) -> None:
    """True F0 to 3 %, all the way from a man's to the limit; the usual range says half of what lies over it."""
    tracker = BatchPitchTracker(maximum_hz=maximum)
    pitches = [f0 for f0 in (90, 150, 250, 390, 420, 480, 540, 595, 680, 780) if f0 < maximum]
    clips = [tone(np.full(RATE, float(f0)), harmonics) for f0 in pitches for harmonics in (3, 8, 20)]
    clips += [tone(np.full(RATE, float(f0)), noise=0.1) for f0 in pitches]
    true = [f0 for f0 in pitches for _ in range(3)] + pitches
    for f0, track in zip(true, tracker.track(clips, RATE), strict=True):
        assert tone_frames(track, 1.0).tolist() == pytest.approx([f0] * 184, rel=0.03)
    rising = tone(np.geomspace(200, 0.95 * maximum, 2 * RATE))
    found, true_track = (
        tone_frames(tracker.track([rising], RATE)[0], 2.0),
        np.geomspace(200, 0.95 * maximum, 400),
    )
    assert gross_errors(found, true_track[SETTLED]) <= 0.03
    halved = tone_frames(TRACKER.track([tone(np.full(RATE, 560.0))], RATE)[0], 1.0)
    assert halved.tolist() == pytest.approx([280] * 184, rel=0.03)


def test_the_range_is_part_of_the_trackers_name() -> None:
    names = {BatchPitchTracker(maximum_hz=maximum).name for maximum in (400, 600, 800)}
    prints = {BatchPitchTracker(maximum_hz=maximum).fingerprint for maximum in (400, 600, 800)}
    assert names == {"f0", "f0-600", "f0-800"}
    assert len(prints) == 3
    for maximum in (0, 199, 801, -400):
        with pytest.raises(UsageError, match=f"200 to 800 Hz, not {maximum}"):
            BatchPitchTracker(maximum_hz=maximum)


def test_level_does_not_matter() -> None:
    clip = tone(np.geomspace(100, 180, RATE), noise=0.1)
    for scale in (1e-4, 30.0):
        assert TRACKER.track([clip * np.float32(scale)], RATE)[0] == pytest.approx(
            TRACKER.track([clip], RATE)[0], rel=0.02
        )


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_other_rates_hear_the_same_pitch(rate: int) -> None:
    found = tone_frames(TRACKER.track([tone(np.full(rate, 140.0), 10, rate=rate)], rate)[0], 1.0)
    assert found.tolist() == pytest.approx([140] * len(found), rel=0.04)


def test_a_clip_alone_is_the_clip_in_any_batch() -> None:
    random = np.random.default_rng(3)
    clips = [
        tone(np.geomspace(*random.uniform(90, 300, 2), int(random.integers(1000, 12000))), noise=0.1, seed=i)
        for i in range(8)
    ]
    clips.insert(3, np.zeros(5000, np.float32))
    together = TRACKER.track(clips, RATE)
    for clip, track in zip(clips, together, strict=True):
        alone = TRACKER.track([clip], RATE)[0]
        assert track.tolist() == alone.tolist()


def test_the_tracker_is_a_tracker() -> None:
    assert isinstance(TRACKER, PitchTracker)
    assert TRACKER.track([], RATE) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_best_path_is_the_cheapest(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    frames, candidates = int(torch.randint(1, 30, (1,), generator=generator)), 4
    local = torch.rand(3, frames, candidates, generator=generator)
    transition = torch.rand(3, frames, candidates, candidates, generator=generator)
    lengths = torch.randint(1, frames + 1, (3,), generator=generator)
    valid = torch.arange(frames) < lengths[:, None]
    path = best_path(local.permute(2, 0, 1), transition.permute(2, 3, 0, 1), valid)
    for row, length in enumerate(lengths.tolist()):
        cost, came_from = local[row, 0], []
        for t in range(1, length):
            reached = cost[:, None] + transition[row, t]
            came_from.append(reached.argmin(0))
            cost = reached.amin(0) + local[row, t]
        expected = [int(cost.argmin())]
        for pointers in reversed(came_from):
            expected.append(int(pointers[expected[-1]]))
        assert path[row, :length].tolist() == expected[::-1]


def test_frames_are_compressed_and_spread_back() -> None:
    values = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    chosen = torch.tensor([[True, False, True, True], [False, False, True, False]])
    packed, counts = compressed(values, chosen)
    assert counts.tolist() == [3, 1]
    assert packed[0].tolist() == [1, 3, 4]
    assert spread(packed, chosen).tolist() == [[1, 0, 3, 4], [0, 0, 7, 0]]


def test_gaps_are_filled_by_straight_lines() -> None:
    values, known = (
        torch.tensor([[0.0, 10, 0, 0, 40, 0]]),
        torch.tensor([[False, True, False, False, True, False]]),
    )
    assert filled(values, known).tolist() == [[10, 10, 20, 30, 40, 40]]


def test_the_median_sees_zeros_beyond_the_ends() -> None:
    assert median(torch.tensor([[5.0, 1, 9, 3, 7]]), 3).tolist() == [[1, 5, 3, 7, 3]]
