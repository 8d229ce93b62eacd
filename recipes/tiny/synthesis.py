"""Synthetic speech from Debian's engines: the voices, what each says, and mild wear of the recordings.

Debian packages: espeak-ng, flite, festival, festvox-kallpc16k, festvox-kdlpc16k, festvox-us-slt-hts,
festvox-italp16k, festvox-itapc16k, festvox-suopuhe-lj, festvox-suopuhe-mv, festvox-czech-dita,
festvox-czech-krb, festvox-czech-machac, festvox-czech-ph, festvox-hi-nsk, festvox-mr-nsk, festvox-te-nsk.
Knows no corpus, split or task.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
Samples = NDArray[np.float32]

FEMALE_VARIANTS = (
    *("f1", "f2", "f3", "f4", "f5", "Alicia", "Andrea", "Annie"),
    *("anika", "aunty", "belinda", "grandma", "linda", "steph", "steph2", "steph3"),
)
MALE_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Andy", "adam", "benjamin", "boris", "caleb"),
    *("david", "Denis", "Diogo", "ed", "edward", "Gene", "Henrique", "Hugo", "Jacky", "john", "Lee", "Marco"),
    *("Mario", "max", "Michael", "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert"),
    *("sandro", "travis", "victor", "zac", "antonio", "gustave", "marcelo", "michel"),
)
# recorded speakers: name -> (engine, the engine's name of the voice, language, gender)
RECORDED = {
    "kal": ("flite", "kal16", "en", "male"),
    "awb": ("flite", "awb", "en", "male"),
    "rms": ("flite", "rms", "en", "male"),
    "slt": ("flite", "slt", "en", "female"),
    "ked": ("festival", "ked_diphone", "en", "male"),
    "slt_hts": ("festival", "cmu_us_slt_arctic_hts", "en", "female"),
    "lp": ("festival", "lp_diphone", "it", "female"),
    "pc": ("festival", "pc_diphone", "it", "male"),
    "lj": ("festival", "suo_fi_lj_diphone", "fi", "female"),
    "mv": ("festival", "hy_fi_mv_diphone", "fi", "male"),
    "dita": ("festival", "czech_dita", "cs", "female"),
    "krb": ("festival", "czech_krb", "cs", "male"),
    "machac": ("festival", "czech_machac", "cs", "male"),
    "ph": ("festival", "czech_ph", "cs", "male"),
    "nsk_hi": ("festival", "hindi_NSK_diphone", "hi", "male"),
    "nsk_mr": ("festival", "marathi_NSK_diphone", "mr", "male"),
    "nsk_te": ("festival", "telugu_NSK_diphone", "te", "male"),
}
ENCODINGS = {"cs": "iso-8859-2", "hi": "utf-8", "mr": "utf-8", "te": "utf-8"}


@dataclass(frozen=True, slots=True)
class Saying:
    """One clip to synthesise. `rate` 1.0 is the engine's own; `pitch` 0 to 99 is espeak-ng's, 50 its own."""

    text: str
    language: str
    voice: str
    rate: float = 1.0
    pitch: int = 50

    @property
    def engine(self) -> str:
        """The program that speaks it."""
        return RECORDED[self.voice][0] if self.voice in RECORDED else "espeak-ng"

    @property
    def speaker(self) -> str:
        """Engine and voice, whatever the language."""
        return f"{self.engine}:{self.voice}"


def gender(voice: str) -> str:
    """female or male, as the engine declares the voice."""
    if voice in RECORDED:
        return RECORDED[voice][3]
    return "female" if voice in FEMALE_VARIANTS else "male"


def engine_versions() -> dict[str, str]:
    """Version of every engine on this machine."""
    commands = {
        "espeak-ng": ["espeak-ng", "--version"],
        "flite": ["flite", "--version"],
        "festival": ["festival", "--version"],
    }
    versions = {}
    for engine, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        versions[engine] = found.group(0) if found else "unknown"
    return versions


def synthesise(sayings: Sequence[Saying], threads: int = 2) -> list[Samples | None]:
    """The sayings as trimmed 16 kHz samples (S,), peak 0.5; None where an engine made no sound."""
    order = sorted(range(len(sayings)), key=lambda i: (sayings[i].engine, sayings[i].voice, sayings[i].rate))
    jobs = []
    for (engine, _, _), group in groupby(
        order, key=lambda i: (sayings[i].engine, sayings[i].voice, sayings[i].rate)
    ):
        rows = list(group)
        jobs += [rows] if engine == "festival" else [[row] for row in rows]
    clips: list[Samples | None] = [None] * len(sayings)
    with ThreadPoolExecutor(threads) as pool:
        for rows, made in zip(
            jobs, pool.map(lambda rows: _speak([sayings[i] for i in rows]), jobs), strict=True
        ):
            for row, clip in zip(rows, made, strict=True):
                clips[row] = clip
    return clips


def _speak(sayings: list[Saying]) -> list[Samples | None]:
    """Sayings of one voice and rate; only festival gets more than one at a time, for it starts slowly."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.wav" for i in range(len(sayings))]
        speak = {"espeak-ng": _espeak, "flite": _flite, "festival": _festival}[sayings[0].engine]
        speak(sayings, paths)
        return [_read(path) for path in paths]


def _espeak(sayings: list[Saying], paths: list[Path]) -> None:
    for saying, path in zip(sayings, paths, strict=True):
        speed, voice = str(round(165 * saying.rate)), f"{saying.language}+{saying.voice}"
        command = [
            "espeak-ng",
            "-v",
            voice,
            "-s",
            speed,
            "-p",
            str(saying.pitch),
            "-w",
            str(path),
            "--",
            saying.text,
        ]
        subprocess.run(command, check=True, capture_output=True)


def _flite(sayings: list[Saying], paths: list[Path]) -> None:
    for saying, path in zip(sayings, paths, strict=True):
        stretch = f"duration_stretch={1 / saying.rate:.3f}"
        command = [
            "flite",
            "-voice",
            RECORDED[saying.voice][1],
            "--setf",
            stretch,
            "-t",
            saying.text,
            "-o",
            str(path),
        ]
        subprocess.run(command, check=True, capture_output=True)


def _festival(sayings: list[Saying], paths: list[Path]) -> None:
    first = sayings[0]
    lines = [f"(voice_{RECORDED[first.voice][1]})", f"(Parameter.set 'Duration_Stretch {1 / first.rate:.3f})"]
    for saying, path in zip(sayings, paths, strict=True):
        text = saying.text.replace('"', "")
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{path}" \'riff)')
    script = paths[0].with_suffix(".scm")
    script.write_text(
        "\n".join(lines), encoding=ENCODINGS.get(first.language, "iso-8859-1"), errors="replace"
    )
    # a word outside a voice's lexicon ends the script; the clips before it stand
    subprocess.run(["festival", "-b", str(script)], check=False, capture_output=True)


def _read(path: Path) -> Samples | None:
    if not path.exists() or path.stat().st_size < 1000:
        return None
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return _trim(samples)


def _trim(samples: Samples, margin_seconds: float = 0.1) -> Samples | None:
    """Cut silence (40 dB under the peak) off both ends, all but a margin, and scale the peak to 0.5."""
    peak = float(np.abs(samples).max(initial=0.0))
    loud = np.flatnonzero(np.abs(samples) > 0.01 * peak)
    if peak < 1e-3 or len(loud) < SAMPLE_RATE // 20:
        return None
    margin = round(margin_seconds * SAMPLE_RATE)
    kept = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    return (kept * (0.5 / peak)).astype(np.float32)


def wear(samples: Samples, rng: np.random.Generator, noise_db: tuple[float, float]) -> Samples:
    """A gain, a little room and a little noise, so that no two recordings are alike.

    `noise_db`: range of the signal-to-noise ratio. Noise is white to pink; the room is a decaying noise of
    50 to 200 ms, mixed in at -14 to -26 dB, in every second clip.
    """
    samples = samples.copy()
    if rng.random() < 0.5:
        length = round(rng.uniform(0.05, 0.2) * SAMPLE_RATE)
        room = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
        room *= 10 ** (rng.uniform(-26, -14) / 20) / np.sqrt((room**2).sum())
        samples += np.convolve(samples, room)[: len(samples)].astype(np.float32)
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -rng.uniform(0, 0.5)
    noise = np.fft.irfft(spectrum, len(samples))
    level = np.sqrt((samples**2).mean() / (noise**2).mean()) * 10 ** (-rng.uniform(*noise_db) / 20)
    samples += (level * noise).astype(np.float32)
    gain = rng.uniform(0.15, 0.9) / np.abs(samples).max()
    return (samples * gain).astype(np.float32)
