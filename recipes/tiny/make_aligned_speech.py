"""Make hours of synthetic speech whose phonemes are known to the frame, in many languages and voices.

    python recipes/tiny/make_aligned_speech.py --hours 8 --out FOLDER

Needs Debian's espeak-ng and the packages that `synthesis.py` names. Two thirds of the clips are played faster or
slower than they were made, which gives throats that espeak-ng does not have. The demo corpus's valid and test
voices never speak here. A manifest line holds `phonemes`, [[symbol, start_seconds], ...]; recorded voices
(festival, flite), a clip in twelve, tell the order of theirs, [symbol, ...]. Deterministic for given engine
versions, seed and hours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import soundfile
import soxr
from espeak_alignment import Aligned, Espeak, phoneme_order
from make_pretraining_speech import HUMANS, LATIN, SCRIPTS, VOICES, WORDS, text
from scipy.signal import fftconvolve
from synthesis import RECORDED, SAMPLE_RATE, Saying, synthesise

Samples = np.ndarray
Batches = Callable[[int, int], list[tuple[Samples, dict[str, object]]]]
"""Whoever makes a batch of clips with their lines, by seed and number."""
EXTRA_VOICES = (
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
    "whisper",
    "whisperf",
    "croak",
    "iven",
    "shelby",
    "Nguyen",
)
MARGIN_SECONDS = 0.1


def words(language: str, rng: np.random.Generator) -> str:
    """One to three runs of what `text` gives."""
    return " ".join(text(language, rng) for _ in range(int(rng.choice([1, 1, 1, 2, 3]))))


def aligned(espeak: Espeak, rng: np.random.Generator) -> tuple[Samples, dict[str, object]] | None:
    """One clip at 16 kHz, trimmed, with its line of the manifest."""
    known = sorted(WORDS) if rng.random() < 0.4 else [*LATIN, *SCRIPTS]
    language = str(rng.choice(known))
    voice = str(rng.choice(VOICES if rng.random() < 0.9 else EXTRA_VOICES))
    said = words(language, rng)
    rate, pitch = int(rng.integers(110, 260)), int(rng.integers(10, 91))
    made = espeak.say(said, f"{language}+{voice}", rate, pitch, int(rng.integers(10, 91)))
    if made is None:
        return None
    speed = float(rng.uniform(0.82, 1.25)) if rng.random() < 0.67 else 1.0
    cut = trimmed(made, speed)
    if cut is None:
        return None
    samples, phonemes = cut
    line = {
        "speaker": f"espeak-ng:{voice}:{speed:.2f}",
        "language": language,
        "text": said,
        "phonemes": phonemes,
    }
    return samples, line


def trimmed(made: Aligned, speed: float) -> tuple[Samples, list[list[object]]] | None:
    """At 16 kHz, played at `speed` and cut to what sounds, with its phonemes' times; None when next to nothing does."""
    samples = soxr.resample(made.samples, made.rate * speed, SAMPLE_RATE, quality="HQ")
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=1e-3))
    if len(loud) < SAMPLE_RATE // 20:
        return None
    start = max(0, int(loud[0]) - round(MARGIN_SECONDS * SAMPLE_RATE))
    samples = samples[start : loud[-1] + round(MARGIN_SECONDS * SAMPLE_RATE)]
    return samples, [[name, round(at / speed - start / SAMPLE_RATE, 3)] for name, at in made.phonemes]


def recorded(rng: np.random.Generator) -> Saying:
    """A recorded voice that says something in its language."""
    voice = str(rng.choice(HUMANS))
    language = {"en": "en-us"}.get(RECORDED[voice][2], RECORDED[voice][2])
    return Saying(words(language, rng), language, voice, float(rng.choice([0.8, 0.9, 1.0, 1.1, 1.2])))


def wear(samples: Samples, rng: np.random.Generator) -> Samples:
    """A gain, in every second clip a little room, and noise 15 to 45 dB down."""
    samples = samples.copy()
    if rng.random() < 0.5:
        length = round(rng.uniform(0.05, 0.3) * SAMPLE_RATE)
        room = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
        room *= 10 ** (rng.uniform(-26, -10) / 20) / np.sqrt((room**2).sum())
        samples += fftconvolve(samples, room)[: len(samples)]
    noise = rng.standard_normal(len(samples))
    samples += noise * np.sqrt((samples**2).mean() / (noise**2).mean()) * 10 ** (-rng.uniform(15, 45) / 20)
    return (samples * (rng.uniform(0.1, 0.9) / np.abs(samples).max())).astype(np.float32)


def clips_of(seed: int, batch: int) -> list[tuple[Samples, dict[str, object]]]:
    """Some 600 clips with their lines; the same numbers give the same clips."""
    rng, espeak = np.random.default_rng((seed, batch)), Espeak()
    clips = [clip for _ in range(550) if (clip := aligned(espeak, rng)) is not None]
    sayings = [recorded(rng) for _ in range(50)]
    for saying, samples in zip(sayings, synthesise(sayings, threads=1), strict=True):
        if samples is not None:
            order = phoneme_order(espeak, saying.text, saying.language)
            line = {"speaker": saying.speaker, "language": saying.language, "text": saying.text}
            clips.append((samples, {**line, "phonemes": order} if order else line))
    return clips


def write_clips(out: Path, name: str, clips_of: Batches, seed: int, hours: float) -> None:
    """Write manifest.jsonl and clips/*.flac under `out`, worn, until `clips_of(seed, batch)` gave `hours` of speech."""
    (out / "clips").mkdir(parents=True, exist_ok=True)
    count, seconds = 0, 0.0
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        header = {"manifest": 1, "name": name, "licence": "CC0-1.0"}
        print(json.dumps({**header, "description": "synthetic speech with its phonemes"}), file=manifest)
        batch = 0
        while seconds < hours * 3600:
            # a process a batch: libespeak-ng crashes on some texts, and takes only its batch along
            with ProcessPoolExecutor(1) as pool:
                try:
                    clips = pool.submit(clips_of, seed, batch).result()
                except BrokenProcessPool:
                    clips = []
            batch += 1
            rng = np.random.default_rng((seed, batch, 1))
            for samples, line in clips:
                if len(samples) > 10 * SAMPLE_RATE:
                    continue
                audio = f"clips/{count:06d}.flac"
                soundfile.write(out / audio, wear(samples, rng), SAMPLE_RATE)
                row = {"id": f"{count:06d}", "audio": audio, "split": "train", "labels": {}, **line}
                print(json.dumps(row, ensure_ascii=False), file=manifest)
                count, seconds = count + 1, seconds + len(samples) / SAMPLE_RATE
            print(f"{count} clips, {seconds / 3600:.2f} h", flush=True)


def command(description: str | None, name: str, clips_of: Batches, hours: float, seed: int) -> None:
    """Read --out, --hours and --seed, whose defaults are given, and write the clips."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=hours)
    parser.add_argument("--seed", type=int, default=seed)
    arguments = parser.parse_args()
    write_clips(arguments.out, name, clips_of, arguments.seed, arguments.hours)


if __name__ == "__main__":
    command(__doc__, "aligned_speech", clips_of, hours=8.0, seed=11)
