"""Make hours of English sentences, by espeak-ng (phonemes known to the frame) and by recorded voices (in order).

    python recipes/tiny/make_english_speech.py --hours 4.5 --out FOLDER

The sentences are pieces of the docstrings of Python's standard library. Voices, wear and what is needed are those of
`make_aligned_speech.py`; recorded voices (flite, festival) say a little under half. A manifest line holds `phonemes`:
[[symbol, start_seconds], ...] of espeak-ng, [symbol, ...] of what a recorded voice was told to say. Deterministic for
given engine versions, Python version, seed and hours.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soxr
from espeak_alignment import Espeak, phoneme_order
from make_aligned_speech import EXTRA_VOICES, Samples, command, trimmed
from make_pretraining_speech import HUMANS, VOICES
from synthesis import RECORDED, SAMPLE_RATE, Saying, synthesise

ACCENTS = (
    "en-us",
    "en-us",
    "en-gb",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
SPEAKERS = [voice for voice in HUMANS if RECORDED[voice][2] == "en"]
_PLAIN = re.compile(r"[A-Za-z', \-]+")
_WORD = re.compile(r"[A-Z]?[a-z']+")


def sentences() -> list[str]:
    """Plain sentences of 2 to 30 words from the docstrings of the standard library, in order of the alphabet."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: set[str] = set()
    for path in [*library.glob("*.py"), *library.glob("[a-s]*/*.py")]:
        if "test" in str(path.relative_to(library)):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for text in docstrings(tree):
            found |= {" ".join(s.lower().split()) for s in re.split(r"[.:;\n]\s+|\n\n", text) if plain(s)}
    return sorted(found)


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Of a module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            yield ast.get_docstring(node) or ""


def plain(sentence: str) -> bool:
    """Whether it is words alone."""
    words = re.findall(r"[A-Za-z']+", sentence)
    written = " ".join(sentence.split())
    return 2 <= len(words) <= 30 and bool(_PLAIN.fullmatch(written)) and all(map(_WORD.fullmatch, words))


def piece(texts: list[str], rng: np.random.Generator) -> str:
    """One to nine words in a row of a sentence."""
    words = str(rng.choice(texts)).split()
    count = int(rng.integers(1, 10))
    first = int(rng.integers(0, max(1, len(words) - count + 1)))
    return " ".join(words[first : first + count])


def clips_of(seed: int, batch: int) -> list[tuple[Samples, dict[str, object]]]:
    """Some 500 clips with their lines; the same numbers give the same clips."""
    rng, espeak, texts = np.random.default_rng((seed, batch)), Espeak(), sentences()
    clips = []
    for _ in range(300):
        said, accent = piece(texts, rng), str(rng.choice(ACCENTS))
        voice = str(rng.choice(VOICES if rng.random() < 0.9 else EXTRA_VOICES))
        rate, pitch, bend = (int(rng.integers(*ends)) for ends in ((110, 260), (10, 91), (10, 91)))
        made = espeak.say(said, f"{accent}+{voice}", rate, pitch, bend)
        speed = float(rng.uniform(0.82, 1.25)) if rng.random() < 0.67 else 1.0
        if made is not None and (cut := trimmed(made, speed)) is not None:
            samples, times = cut
            speaker = f"espeak-ng:{voice}:{speed:.2f}"
            line = {"speaker": speaker, "language": accent, "text": said, "phonemes": times}
            clips.append((samples, line))
    rates = [float(rng.choice([0.85, 1.0, 1.0, 1.2])) for _ in range(200)]
    sayings = [Saying(piece(texts, rng), "en-us", str(rng.choice(SPEAKERS)), rate) for rate in rates]
    for saying, spoken in zip(sayings, synthesise(sayings, threads=1), strict=True):
        speed = float(rng.uniform(0.85, 1.2)) if rng.random() < 0.6 else 1.0
        order = phoneme_order(espeak, saying.text, "en-us")
        if spoken is not None and order:
            samples = soxr.resample(spoken, SAMPLE_RATE * speed, SAMPLE_RATE, quality="HQ")
            speaker = f"{saying.speaker}:{speed:.2f}"
            line = {"speaker": speaker, "language": "en-us", "text": saying.text, "phonemes": order}
            clips.append((samples, line))
    return clips


if __name__ == "__main__":
    command(__doc__, "english_speech", clips_of, hours=4.5, seed=13)
