"""Make the demo corpus: eight spoken commands in five languages, said by synthetic voices.

    python recipes/tiny/make_demo_corpus.py --out src/speechprompt/corpora/demo

Needs the Debian packages that `synthesis.py` names. Deterministic for given engine versions. The clips are
synthetic speech, made for this corpus and released under CC0. A voice (engine and speaker, whatever the
language) is in one split only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from synthesis import RECORDED, SAMPLE_RATE, Saying, engine_versions, gender, synthesise, wear

LANGUAGES = {"en-us": "english", "de": "german", "es": "spanish", "it": "italian", "fi": "finnish"}
COMMANDS = {
    "left": {"en-us": "left", "de": "links", "es": "izquierda", "it": "sinistra", "fi": "vasemmalle"},
    "right": {"en-us": "right", "de": "rechts", "es": "derecha", "it": "destra", "fi": "oikealle"},
    "up": {"en-us": "up", "de": "hoch", "es": "arriba", "it": "sopra", "fi": "ylös"},
    "down": {"en-us": "down", "de": "runter", "es": "abajo", "it": "sotto", "fi": "alas"},
    "open": {"en-us": "open", "de": "öffnen", "es": "abrir", "it": "aprire", "fi": "avaa"},
    "close": {"en-us": "close", "de": "schließen", "es": "cerrar", "it": "chiudere", "fi": "sulje"},
    "stop": {"en-us": "stop", "de": "halt", "es": "parar", "it": "fermare", "fi": "seis"},
    "light": {"en-us": "light", "de": "Licht", "es": "luz", "it": "luce", "fi": "valo"},
}
VOICES = {
    "train": (
        *("f1", "f2", "f4", "Alicia", "Annie", "anika", "aunty", "grandma", "linda", "steph2", "steph3"),
        *("m1", "m2", "m4", "m6", "m8", "Alex", "Andy", "adam", "Denis", "david", "Gene", "Jacky", "Lee"),
        *("Marco", "max", "pablo", "slt", "awb", "rms", "slt_hts", "pc", "lj"),
    ),
    "valid": ("f3", "steph", "m5", "Diogo", "kal"),
    "test": ("f5", "Andrea", "belinda", "m3", "m7", "miguel", "ked", "lp", "mv"),
}
HELD_OUT_VOICES = frozenset((*VOICES["valid"], *VOICES["test"]))
SEED = 20


def sayings(rng: np.random.Generator) -> list[tuple[str, str, Saying]]:
    """(split, command, saying) of every clip: each voice says each command in its languages."""
    rows = []
    for split, voices in VOICES.items():
        for voice in voices:
            recorded = RECORDED.get(voice)
            languages = [lang for lang in LANGUAGES if recorded is None or lang.split("-")[0] == recorded[2]]
            for language in languages:
                rate_of_voice = round(float(rng.uniform(0.85, 1.2)), 2)
                for command, words in COMMANDS.items():
                    pitch = int(rng.integers(35, 66))
                    rows.append(
                        (split, command, Saying(words[language], language, voice, rate_of_voice, pitch))
                    )
    return rows


def main() -> None:
    """Write manifest.jsonl and clips/*.ogg (Opus) under --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows = sayings(rng)
    versions = engine_versions()
    clips = synthesise([saying for _, _, saying in rows])
    lines = [json.dumps(header(), ensure_ascii=False)]
    (arguments.out / "clips").mkdir(parents=True, exist_ok=True)
    for (split, command, saying), clip in zip(rows, clips, strict=True):
        if clip is None:
            raise SystemExit(f"{saying.speaker} made no sound for {saying.text}")
        worn = wear(clip, rng, noise_db=(18.0, 40.0))
        name = f"{LANGUAGES[saying.language]}_{command}_{saying.engine}_{saying.voice}"
        audio = f"clips/{name}.ogg"
        soundfile.write(
            arguments.out / audio, worn, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.93
        )
        lines.append(json.dumps(row(name, audio, split, command, saying, versions), ensure_ascii=False))
    (arguments.out / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} clips, {sum(len(c) for c in clips if c is not None) / SAMPLE_RATE / 60:.1f} minutes")


def header() -> dict[str, object]:
    """The manifest's first line."""
    return {
        "manifest": 1,
        "name": "demo",
        "description": "Eight commands in five languages: synthetic speech of several engines and voices",
        "licence": "CC0-1.0",
        "citation": "Synthetic speech of espeak-ng, flite and festival, by recipes/tiny/make_demo_corpus.py",
        "split_rule": "by voice: no voice (engine and speaker, whatever the language) is in two splits",
        "slots": {
            "command": list(COMMANDS),
            "language": list(LANGUAGES.values()),
            "voice": ["female", "male"],
        },
    }


def row(
    name: str, audio: str, split: str, command: str, saying: Saying, versions: dict[str, str]
) -> dict[str, object]:
    """One utterance's line."""
    labels = {"command": command, "language": LANGUAGES[saying.language], "voice": gender(saying.voice)}
    pitch = {"pitch": saying.pitch} if saying.engine == "espeak-ng" else {}
    return {
        "id": name,
        "audio": audio,
        "split": split,
        "labels": labels,
        "speaker": saying.speaker.replace("slt_hts", "slt").replace("festival:slt", "flite:slt"),
        "text": saying.text,
        "engine": saying.engine,
        "engine_version": versions[saying.engine],
        "engine_voice": RECORDED[saying.voice][1] if saying.voice in RECORDED else saying.voice,
        "rate": saying.rate,
        **pitch,
        "synthetic": True,
    }


if __name__ == "__main__":
    main()
