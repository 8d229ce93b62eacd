"""Make hours of unlabelled synthetic speech: numbers, invented words and common words in many languages.

    python recipes/tiny/make_pretraining_speech.py --hours 4 --out FOLDER

Needs the Debian packages that `synthesis.py` names. Deterministic for given engine versions, seed and hours.
The demo corpus's valid and test voices never speak here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from make_demo_corpus import COMMANDS, HELD_OUT_VOICES
from synthesis import FEMALE_VARIANTS, MALE_VARIANTS, RECORDED, SAMPLE_RATE, Saying, synthesise, wear

_words = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
LATIN = tuple(_words["latin_languages"].split())
# language -> consonants and vowels of its script, from which words are invented
SCRIPTS = {language: (s["consonants"], s["vowels"]) for language, s in _words["scripts"].items()}
ONSETS, VOWELS = _words["onsets"].split(), _words["vowels"].split()
CODAS = ["", "", "", "", *"nsrlmtkpd"]
WORDS = _words["common_words"]
VOICES = tuple(v for v in (*FEMALE_VARIANTS, *FEMALE_VARIANTS, *MALE_VARIANTS) if v not in HELD_OUT_VOICES)
HUMANS = tuple(v for v in RECORDED if v not in HELD_OUT_VOICES)
SEED = 7


def invented_word(language: str, rng: np.random.Generator) -> str:
    """One to four syllables that the language's script can spell."""
    language = language.split("-")[0]
    syllables = int(rng.integers(1, 5))
    if language in SCRIPTS:
        consonants, vowels = (part.split() or [""] for part in SCRIPTS[language])
        return "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables + 1))
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))


def text(language: str, rng: np.random.Generator) -> str:
    """A few words or a number."""
    kind = rng.random()
    if kind < 0.25:
        return str(int(10 ** rng.uniform(0, 4.5)))
    count = int(rng.choice([1, 1, 2, 3, 4]))
    if kind < 0.5 and language in WORDS:
        common = [
            *WORDS[language].split(),
            *(words[language] for words in COMMANDS.values() if language in words),
        ]
        return " ".join(rng.choice(common) for _ in range(count))
    return " ".join(invented_word(language, rng) for _ in range(count))


def saying(rng: np.random.Generator) -> Saying:
    """A random voice, language, rate, pitch and text; one clip in ten by a recorded voice."""
    rate, pitch = float(rng.choice([0.75, 0.85, 1.0, 1.0, 1.15, 1.3])), int(rng.integers(20, 81))
    if rng.random() < 0.1:
        voice = str(rng.choice(HUMANS))
        language = {"en": "en-us"}.get(RECORDED[voice][2], RECORDED[voice][2])
    else:
        voice = str(rng.choice(VOICES))
        known = sorted(WORDS) if rng.random() < 0.4 else [*LATIN, *SCRIPTS]
        language = str(rng.choice(known))
    return Saying(text(language, rng), language, voice, rate, pitch)


def main() -> None:
    """Write manifest.jsonl and clips/*.flac under --out until there are --hours of speech."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=4.0)
    arguments = parser.parse_args()
    (arguments.out / "clips").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    count, seconds = 0, 0.0
    with (arguments.out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        header = {
            "manifest": 1,
            "name": "tiny_pretraining_speech",
            "licence": "CC0-1.0",
            "description": "synthetic speech",
        }
        print(json.dumps(header), file=manifest)
        while seconds < arguments.hours * 3600:
            sayings = [saying(rng) for _ in range(500)]
            for said, clip in zip(sayings, synthesise(sayings), strict=True):
                if clip is None or len(clip) > 8 * SAMPLE_RATE:
                    continue
                audio = f"clips/{count:06d}.flac"
                soundfile.write(arguments.out / audio, wear(clip, rng, noise_db=(15.0, 45.0)), SAMPLE_RATE)
                line = {
                    "id": f"{count:06d}",
                    "audio": audio,
                    "split": "train",
                    "labels": {},
                    "speaker": said.speaker,
                }
                line |= {"language": said.language, "text": said.text, "rate": said.rate, "pitch": said.pitch}
                print(json.dumps(line, ensure_ascii=False), file=manifest)
                count, seconds = count + 1, seconds + len(clip) / SAMPLE_RATE
            print(f"{count} clips, {seconds / 3600:.2f} h", flush=True)


if __name__ == "__main__":
    main()
