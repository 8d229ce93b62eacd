"""EasyCall: Italian commands by dysarthric speakers and healthy controls (row 10).

Layout: `EasyCall/<speaker>/…/<speaker>_<session>_<command>.wav`, speakers f01, m01 … and controls fc01, mc01
…. The speaker is read from the file's name, else from the nearest folder of such a name, so the folders in
between may be any. Severity is the published Therapy Outcome Measure of a speaker (f04 has none). The reference
drops clips below 1,000 samples; ours are kept, as no audio is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import SPLITS, dealt, shuffled_tenths

SPEAKER = re.compile(r"[fm]c?\d\d", re.IGNORECASE)
SPEAKERS_BY_SEVERITY = {
    "1": "f01 f03 f05 f06 f07 f08 f09 m02 m04 m09 m12 m13 m15 m17 m18 m20",
    "2": "f11",
    "3": "f02 m01 m03 m08 m10 m16 m19",
    "4": "m05 m06 m07",
    "5": "f10 m11 m14",
}
SEVERITY = {name: label for label, names in SPEAKERS_BY_SEVERITY.items() for name in names.split()}

DESCRIPTION = CorpusDescription(
    name="easycall",
    title="EasyCall",
    tasks={"dysarthria": ("dysarthria",), "gender": ("gender",)},
    languages=("it",),
    url="http://neurolab.unife.it/easycallcorpus/",
    licence="CC BY-NC 2.0",
    citation="Turrisi et al. 2021, EasyCall Corpus: A Dysarthric Speech Dataset, Interspeech, "
    "arXiv:2104.02542",
    by_hand="ask for access with the form of the page",
    marks=("[fmFM][0-9][0-9]", "[fmFM][cC][0-9][0-9]", "[fmFM][0-9][0-9]_*_*.wav"),
    split_rules={
        "paper": "80/10/10 at random with seed 0 (the reference has no seed); the same speakers in all",
        "speaker-disjoint": "whole speakers, dealt by a seeded hash within each severity; severity 2 has "
        "one speaker, who is in train",
    },
    slots={"dysarthria": ("0", "1", "2", "3", "4", "5"), "gender": ("F", "M")},
    utterances=21_386,
    label_meanings={
        "dysarthria": {
            "0": "control",
            "1": "mild",
            "2": "mild to moderate",
            "3": "moderate",
            "4": "moderate to severe",
            "5": "severe",
        }
    },
)


def rows(source: Source) -> Iterator[Row]:
    """Folder by folder; files of no known speaker are left out."""
    audios, speakers = [], {}
    for audio in source.files():
        if speaker := _speaker(audio):
            severity = "0" if "c" in speaker else SEVERITY.get(speaker)
            if severity is None:
                source.notice(f"{speaker} has no published severity and is left out")
                continue
            speakers[speaker] = severity
            audios.append((audio, speaker))
    disjoint = dealt(speakers, source.seed_or(0))
    marks = shuffled_tenths(len(audios), source.seed_or(0))
    for place, (audio, speaker) in enumerate(audios):
        split = disjoint[speaker] if source.rule == "speaker-disjoint" else SPLITS[marks[place]]
        labels = {"dysarthria": speakers[speaker], "gender": speaker[0].upper()}
        yield Row(audio, split, labels, speaker)


def _speaker(audio: str) -> str:
    """The speaker of a file, lower-case; empty where neither its name nor a folder tells."""
    *folders, name = audio.split("/")
    for part in (name.partition("_")[0], *reversed(folders)):
        if SPEAKER.fullmatch(part.strip()):
            return part.strip().lower()
    return ""
