"""EMO-DB (Berlin): ten German actors, ten sentences, seven emotions.

Layout: `wav/<speaker><sentence><emotion letter><take>.wav`, as in `03a01Fa.wav`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source, stem

NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z]?)", re.IGNORECASE)
EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
MALE = frozenset(("03", "10", "11", "12", "15"))
DISJOINT = {"15": "test", "16": "test", "12": "valid", "14": "valid"}
FOLDS = (("03", "08"), ("10", "09"), ("11", "13"), ("12", "14"), ("15", "16"))
FOLD = {speaker: f"fold{number + 1}" for number, pair in enumerate(FOLDS) for speaker in pair}

DESCRIPTION = CorpusDescription(
    name="emodb",
    title="EMO-DB",
    tasks={"emotion": ("emotion",), "gender": ("gender",)},
    languages=("de",),
    hours=0.4,
    url="http://emodb.bilderbar.info/download/",
    licence="none stated; free for research",
    citation="Burkhardt et al. 2005, A Database of German Emotional Speech, Interspeech",
    marks=("wav/[01][0-9][ab][0-9][0-9]*", "[01][0-9][ab][0-9][0-9]*"),
    split_rules={
        "speaker-disjoint": "speakers 15 and 16 test, 12 and 14 valid, the rest train",
        "folds": "five folds, one man and one woman each",
    },
    slots={"emotion": tuple(EMOTIONS.values()), "gender": ("F", "M")},
    utterances=535,
    published_labels={
        "emotion": dict(zip(EMOTIONS.values(), (127, 81, 46, 69, 71, 62, 79), strict=True)),
    },
)


def rows(source: Source) -> Iterator[Row]:
    """The recordings by name; other names are left out."""
    for audio in source.files("wav" if source.path("wav").is_dir() else ""):
        if match := NAME.fullmatch(stem(audio)):
            speaker, _, letter, _ = match.groups()
            split = (
                DISJOINT.get(speaker, "train")
                if source.rule == "speaker-disjoint"
                else FOLD.get(speaker, "fold1")
            )
            labels = {"emotion": EMOTIONS[letter.upper()], "gender": "M" if speaker in MALE else "F"}
            yield Row(audio, split, labels, speaker)
