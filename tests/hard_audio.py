"""Audio that a pitch tracker must not stumble over: without pitch, with odd pitch, cut, or hardly there."""

from __future__ import annotations

import numpy as np

from speechprompt.tokenizers.protocol import Waveform

SHORTER_THAN_A_FRAME = ("empty", "one sample", "under a frame")
PITCHLESS = (*SHORTER_THAN_A_FRAME[:2], "silent", "constant")


def voice(f0: np.ndarray, rate: int, harmonics: int = 20) -> np.ndarray:
    """A second's buzz that follows f0 (S,) in Hz, harmonics up to .45 of the rate falling as 1/k, between silences."""
    phase, silence = 2 * np.pi * np.cumsum(f0) / rate, np.zeros(rate // 5)
    sound = sum(np.cos(k * phase) / k * (k * f0 < 0.45 * rate) for k in range(1, harmonics + 1))
    return np.concatenate([silence, sound, silence])


def creak(rate: int, low: float, high: float, jitter: float, random: np.random.Generator) -> np.ndarray:
    """Damped pulses at `low` to `high` a second, each interval off by `jitter` of itself."""
    rates = np.linspace(low, high, 60)
    places = np.cumsum(rate / rates * (1 + jitter * random.standard_normal(60))).astype(int)
    pulses = np.zeros(rate)
    pulses[places[places < rate]] = 1
    times = np.arange(rate // 40)
    return np.convolve(pulses, np.exp(-times / (rate / 260)) * np.cos(times * 4800 / rate), "same")


def hard_clips(rate: int) -> dict[str, Waveform]:
    """Clips of up to 1.4 s at `rate`, by what they are."""
    random = np.random.default_rng(0)
    noise = random.standard_normal(rate)
    times = np.arange(rate // 80)
    formants = np.exp(-times / (rate / 400)) * np.cos(times * 4000 / rate)
    vowel = voice(np.full(rate, 120.0), rate)
    child = voice(np.full(rate, 480.0), rate)
    spectrum = np.fft.rfft(voice(np.full(rate, 140.0), rate, 40))
    hertz = np.linspace(0, rate / 2, len(spectrum))
    clips = {
        "empty": noise[:0],
        "one sample": noise[:1],
        "under a frame": noise[: rate // 50 - 1],
        "one frame": noise[: rate // 50],
        "two frames": vowel[rate // 2 :][: rate // 25],
        "silent": np.zeros(rate),
        "constant": np.full(rate, 0.3),
        "one click": np.eye(1, rate, rate // 2)[0],
        "fricative": np.convolve(noise, [1, -1, 0.9, -0.9], "same"),
        "whispered": np.convolve(noise, formants, "same"),
        "creaky": creak(rate, 25, 60, 0.0, random),
        "creaky, irregular": creak(rate, 60, 25, 0.3, random),
        "a child": child,
        "a scream": voice(np.geomspace(500, 1200, rate), rate) + 0.2 * np.tile(noise, 2)[: len(vowel)],
        "telephone": np.fft.irfft(spectrum * ((hertz > 300) & (hertz < 3400)), len(vowel)),
        "clipped": np.clip(100 * vowel, -1, 1),
        "all clipped": np.sign(noise),
        "off centre": 0.1 * vowel + 0.7,
        "faint": 1e-7 * vowel,
        "denormal": np.full(rate, 1e-45),
        "faintest": 1e-42 * vowel,
        "huge": 1e30 * vowel,
    }
    return {name: clip.astype(np.float32) for name, clip in clips.items()}
