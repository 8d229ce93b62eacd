"""VCTK: about 110 English speakers with various accents who read newspaper sentences.

Layout: 0.92 `wav48_silence_trimmed/<speaker>/<speaker>_<sentence>_mic1.flac`, 0.80
`wav48/<speaker>/<speaker>_<sentence>.wav`; `speaker-info.txt` (ID, AGE, GENDER, ACCENTS, REGION …, columns
by spaces; IDs of 0.80 lack the `p`).
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source, stem
from speechprompt.corpora.splitting import dealt, hashed_split
from speechprompt.corpora.tables import read_lines

ACCENTS = (
    *("English", "American", "Scottish", "Irish", "Canadian", "NorthernIrish", "SouthAfrican", "Indian"),
    *("Australian", "NewZealand", "Welsh", "Unknown"),
)
AUDIO_FOLDERS = ("wav48_silence_trimmed", "wav48", "wav16")

DESCRIPTION = CorpusDescription(
    name="vctk",
    title="CSTR VCTK Corpus",
    tasks={slot: (slot,) for slot in ("accent", "gender", "speaker")},
    languages=("en",),
    hours=44.0,
    url="https://datashare.ed.ac.uk/handle/10283/3443 (0.92) or "
    "https://datashare.ed.ac.uk/handle/10283/2651 (0.80)",
    licence="CC BY 4.0 (0.92), ODC-By 1.0 (0.80)",
    citation="Yamagishi, Veaux and MacDonald 2019, CSTR VCTK Corpus (versions 0.80 and 0.92), University "
    "of Edinburgh",
    marks=AUDIO_FOLDERS,
    split_rules={
        "speaker-disjoint": "whole speakers, dealt 65/15/20 by a seeded hash within each accent; an accent "
        "with one "
        "speaker is in train only (for accent and gender)",
        "sentences": "sentences 80/10/10 by a seeded hash; the same speakers in all (for speaker)",
    },
    default_rules={"speaker": "sentences"},
    slots={"accent": ACCENTS, "gender": ("F", "M"), "speaker": ()},
)


def rows(source: Source) -> Iterator[Row]:
    """Speaker by speaker, the first microphone where there are two."""
    base = next(folder for folder in AUDIO_FOLDERS if source.path(folder).is_dir())
    known = _speakers(source)
    speakers = {
        name: known.get(name) or known.get(name.lstrip("p"), ("", "")) for name in source.folders(base)
    }
    disjoint = dealt(
        {name: accent for name, (_, accent) in speakers.items()}, source.seed_or(0), valid=0.15, test=0.2
    )
    for name, (gender, accent) in speakers.items():
        labels = {"accent": accent, "gender": gender, "speaker": name}
        labels = {slot: label for slot, label in labels.items() if label}
        for audio in _first_microphone(list(source.files(f"{base}/{name}"))):
            split = disjoint[name]
            if source.rule == "sentences":
                split = hashed_split(stem(audio).removesuffix("_mic1"), source.seed_or(0))
            yield Row(audio, split, labels, name)


def _first_microphone(audios: list[str]) -> Iterator[str]:
    present = set(audios)
    for audio in audios:
        if "_mic2." not in audio or audio.replace("_mic2.", "_mic1.") not in present:
            yield audio


def _speakers(source: Source) -> dict[str, tuple[str, str]]:
    """Gender and accent by speaker; asked for by every task but `speaker`."""
    slot = "gender" if source.task == "gender" else "accent"
    path = source.metadata(slot, "speaker-info.txt", hint="it lies in the top folder of the corpus")
    if path is None:
        return {}
    lines = [line.split() for line in read_lines(path)]
    return {
        fields[0]: (fields[2], fields[3]) for fields in lines if len(fields) > 3 and fields[2] in ("F", "M")
    }
