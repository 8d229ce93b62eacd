"""CREMA-D: ninety-one actors, twelve sentences, six emotions.

Layout: `AudioWAV/<actor>_<sentence>_<emotion>_<intensity>.wav` and `VideoDemographics.csv` (ActorID, Age,
Sex, Race, Ethnicity).
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source, stem
from speechprompt.corpora.splitting import dealt, folded
from speechprompt.corpora.tables import read_table

EMOTIONS = {
    "NEU": "neutral",
    "HAP": "happy",
    "SAD": "sad",
    "ANG": "angry",
    "FEA": "fearful",
    "DIS": "disgust",
}
TABLE = "VideoDemographics.csv"

DESCRIPTION = CorpusDescription(
    name="crema-d",
    title="CREMA-D",
    tasks={"emotion": ("emotion",), "gender": ("gender",)},
    languages=("en",),
    hours=5.3,
    url="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="ODbL 1.0",
    citation="Cao et al. 2014, CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset, IEEE "
    "Transactions on Affective Computing 5(4)",
    by_hand="the audio is in Git LFS: `git lfs pull`",
    marks=("AudioWAV", "1[0-9][0-9][0-9]_*_*_*"),
    split_rules={
        "speaker-disjoint": "whole actors, dealt 80/10/10 by a seeded hash within each gender",
        "folds": "five folds of whole actors, dealt within each gender",
    },
    slots={"emotion": tuple(EMOTIONS.values()), "gender": ("F", "M")},
    utterances=7_442,
    published_labels={"emotion": {name: 1_087 if name == "neutral" else 1_271 for name in EMOTIONS.values()}},
)


def rows(source: Source) -> Iterator[Row]:
    """The recordings by name; other names are left out."""
    base = "AudioWAV" if source.path("AudioWAV").is_dir() else ""
    table = source.metadata("gender", TABLE, hint="it lies in the top folder of the repository")
    lines = [] if table is None else read_table(table, columns=("ActorID", "Sex"))
    genders = {line["ActorID"]: line["Sex"][:1].upper() for line in lines}
    actors = {
        fields[0]: genders.get(fields[0], "") for audio in source.files(base) if (fields := _fields(audio))
    }
    seed = source.seed_or(0)
    splits = folded(actors, 5, seed) if source.rule == "folds" else dealt(actors, seed)
    for audio in source.files(base):
        if fields := _fields(audio):
            actor, _, emotion = fields[:3]
            labels = {"emotion": EMOTIONS[emotion]} | ({"gender": genders[actor]} if actor in genders else {})
            yield Row(audio, splits[actor], labels, actor)


def _fields(audio: str) -> list[str] | None:
    fields = stem(audio).upper().split("_")
    return fields if len(fields) == 4 and fields[0].isdigit() and fields[2] in EMOTIONS else None
