"""RAVDESS: twenty-four actors, two sentences, eight emotions.

Layout: `Actor_<NN>/<modality>-<channel>-<emotion>-<intensity>-<sentence>-<repetition>-<actor>.wav`; odd
actors are male. Speech (channel 01) is read, song is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source, stem

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
FOUR = ("neutral", "happy", "sad", "angry")

DESCRIPTION = CorpusDescription(
    name="ravdess",
    title="RAVDESS (speech)",
    tasks={"emotion": ("emotion",), "gender": ("gender",)},
    languages=("en",),
    hours=1.5,
    url="https://zenodo.org/record/1188976 (Audio_Speech_Actors_01-24.zip)",
    licence="CC BY-NC-SA 4.0",
    citation="Livingstone and Russo 2018, The Ryerson Audio-Visual Database of Emotional Speech and Song, "
    "PLoS ONE 13(5):e0196391",
    marks=("Actor_*",),
    split_rules={
        "speaker-disjoint": "actors 1 to 16 train, 17 to 20 valid, 21 to 24 test (two sentences: every "
        "split has the same words)",
        "folds": "six folds of four actors each, in their order",
    },
    variants={"8": "all eight emotions", "4": "neutral, happy, sad and angry"},
    slots={"emotion": EMOTIONS, "gender": ("F", "M")},
    utterances=1_440,
    published={
        "speaker-disjoint": {"train": 960, "valid": 240, "test": 240},
        "speaker-disjoint/4": {"train": 448, "valid": 112, "test": 112},
    },
    published_labels={"emotion": {emotion: 96 if emotion == "neutral" else 192 for emotion in EMOTIONS}},
)


def rows(source: Source) -> Iterator[Row]:
    """Actor by actor, by name."""
    actors = (name for name in source.folders() if name.startswith("Actor_"))
    for audio in (audio for actor in actors for audio in source.files(actor)):
        fields = stem(audio).split("-")
        if len(fields) != 7 or not all(field.isdigit() for field in fields) or fields[1] != "01":
            continue
        place, actor = int(fields[2]) - 1, int(fields[6])
        if not 0 <= place < len(EMOTIONS):
            continue
        if source.variant == "8" or EMOTIONS[place] in FOUR:
            labels = {"emotion": EMOTIONS[place], "gender": "M" if actor % 2 else "F"}
            yield Row(audio, _split(source.rule, actor), labels, fields[6])


def _split(rule: str, actor: int) -> str:
    if rule == "folds":
        return f"fold{(actor - 1) // 4 + 1}"
    return "train" if actor <= 16 else "valid" if actor <= 20 else "test"
