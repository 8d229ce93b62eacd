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

LATIN = (
    *(
        ["af", "an", "bs", "ca", "cs", "cy", "da", "de", "en-gb", "en-us", "en-gb-scotland", "eo", "es", "es-419", "et", "eu", "fi", "fr-fr", "ga", "hr", "hu", "id", "is", "it"]
    ),
    *(["ku", "la", "lb", "lt", "lv", "ms", "mt", "nb", "nl", "pl", "pt", "pt-br", "ro", "sk", "sl", "sq", "sv", "sw", "tr", "uz", "vi"]),
)
# language -> consonants and vowels of its script, from which words are invented
SCRIPTS = {
    **dict.fromkeys(("ru", "bg", "mk"), ("б в г д ж з к л м н п р с т ф х ц ч ш", "а е и о у")),
    "uk": ("б в г д ж з к л м н п р с т ф х ц ч ш", "а е и о у і"),
    "sr": ("б в г д ж з к л м н п р с т ф х ц ч ш", "а е и о у"),
    "el": ("β γ δ ζ θ κ λ μ ν ξ π ρ σ τ φ χ ψ", "α ε ι ο ου"),
    "ar": ("ب ت ث ج ح خ د ذ ر ز س ش ص ط ع غ ف ق ك ل م ن ه و ي", "َ ِ ُ َا ِي ُو"),
    "fa": ("ب ت ج ح خ د ر ز س ش ع غ ف ق ک ل م ن ه", "ا ی و"),
    **dict.fromkeys(("hi", "mr", "ne"), ("क ख ग घ च ज ट ड त थ द ध न प फ ब भ म र ल व श स ह", "ा ि ी ु ू े ो")),
    "ta": ("க ச ட த ந ப ம ய ர ல வ", "ா ி ு ெ ொ"),
    "te": ("క గ చ జ ట డ త ద న ప బ మ య ర ల వ స హ", "ా ి ు ె ొ"),
    "ko": ("가 나 다 라 마 바 사 자 하 고 노 도 로 모 보 소 조 호 구 누 두 루 무 부 수 주", " "),
    "ja": (
        "か さ た な は ま や ら が ざ だ ば き し ち に ひ み り く す つ ぬ む る け せ て ね め れ こ そ と の も ろ",
        " ",
    ),
}
ONSETS = ["b", "br", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "kr", "l", "m", "n", "p", "pl", "pr", "r", "s", "sk", "sl", "sp", "st", "str", "t", "tr", "v", "z", "ch", "sh"]
VOWELS = ["a", "a", "e", "e", "i", "i", "o", "o", "u", "u", "ai", "au", "ei", "ie"]
CODAS = ["", "", "", "", *["n", "s", "r", "l", "m", "t", "k", "p", "d"]]
WORDS = {
    "en-us": "yes no on off go back zero one two three four five six seven eight nine happy house bird cat dog "
    "tree water coffee music weather morning evening please thank you turn volume kitchen window computer speech "
    "follow forward learn visual marvin sheila wow bed",
    "de": "ja nein eins zwei drei vier Wasser Kaffee Musik Wetter Morgen Fenster Küche danke bitte Haus Freund",
    "es": "sí no uno dos tres cuatro agua café música tiempo mañana ventana cocina gracias casa amigo",
    "fr-fr": "oui non un deux trois quatre eau café musique temps matin fenêtre cuisine merci maison ami droite gauche",
    "it": "sì no uno due tre quattro acqua caffè musica tempo mattina finestra cucina grazie casa amico",
    "lt": "taip ne vienas du trys keturi vanduo kava muzika oras rytas langas virtuvė ačiū namas draugas laikas "
    "gatvė medis kalba saulė mėnuo žmogus",
    "fi": "kyllä ei yksi kaksi kolme neljä vesi kahvi musiikki sää aamu ikkuna keittiö kiitos talo ystävä",
    "ar": "نعم لا واحد اثنان ثلاثة أربعة ماء قهوة موسيقى صباح نافذة مطبخ شكرا بيت صديق يمين يسار",
    "pl": "tak nie jeden dwa trzy cztery woda kawa muzyka pogoda rano okno kuchnia dziękuję dom",
    "ru": "да нет один два три четыре вода кофе музыка погода утро окно кухня спасибо дом друг",
    "pt": "sim não um dois três quatro água café música tempo manhã janela cozinha obrigado casa",
    "tr": "evet hayır bir iki üç dört su kahve müzik hava sabah pencere mutfak teşekkür ev",
    "cs": "ano ne jedna dva tři čtyři voda káva hudba počasí ráno okno kuchyně děkuji dům",
}
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
