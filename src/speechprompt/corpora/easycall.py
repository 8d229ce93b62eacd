"""EasyCall: Italian commands by dysarthric speakers and healthy controls (row 10).

Layout: `EasyCall/<speaker>/…/<speaker>_<session>_<command>.wav`, speakers f01, m01 … and controls fc01, mc01
…; the folders in between could not be verified and may be any. Severity is the published Therapy Outcome
Measure of a speaker (f04 has none). The reference drops clips below 1,000 samples; ours are kept, as no audio
is opened.
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
    marks=("[fmFM][0-9][0-9]", "[fm]c[0-9][0-9]", "[FM]C[0-9][0-9]"),
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
    """Speaker by speaker."""
    audios, speakers = [], {}
    for folder in source.folders():
        if (speaker := folder.lower()) and SPEAKER.fullmatch(folder):
            severity = "0" if "c" in speaker else SEVERITY.get(speaker)
            if severity is None:
                source.notice(f"{folder} has no published severity and is left out")
                continue
            speakers[speaker] = severity
            audios += list(source.files(folder))
    disjoint = dealt(speakers, source.seed_or(0))
    marks = shuffled_tenths(len(audios), source.seed_or(0))
    for place, audio in enumerate(audios):
        speaker = audio.partition("/")[0].lower()
        split = disjoint[speaker] if source.rule == "speaker-disjoint" else SPLITS[marks[place]]
        labels = {"dysarthria": speakers[speaker], "gender": speaker[0].upper()}
        yield Row(audio, split, labels, speaker)
