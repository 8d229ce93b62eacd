"""Fluent Speech Commands: English orders to a home assistant, three slots (row 6).

Layout: `data/{train,valid,test}_data.csv` (an unnamed first column, then path, speakerId, transcription,
action, object, location), `data/speaker_demographics.csv` and `wavs/speakers/<speaker>/<id>.wav`.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.tables import read_table

SLOTS = {
    "action": ("change language", "activate", "deactivate", "increase", "decrease", "bring"),
    "object": (
        *("none", "music", "lights", "volume", "heat", "lamp", "newspaper", "juice", "socks"),
        *("Chinese", "Korean", "English", "German", "shoes"),
    ),
    "location": ("none", "kitchen", "bedroom", "washroom"),
}

DESCRIPTION = CorpusDescription(
    name="fluent-speech-commands",
    title="Fluent Speech Commands",
    tasks={"intent": tuple(SLOTS)},
    languages=("en",),
    hours=19.0,
    url="https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/",
    licence="Fluent Speech Commands Public License (research only)",
    citation="Lugosch et al. 2019, Speech Model Pre-training for End-to-End Spoken Language Understanding, "
    "Interspeech",
    by_hand="the download asks for a name and an e-mail address",
    marks=("data/*_data.csv", "wavs/speakers"),
    split_rules={"paper": "the official train, valid and test lists (speaker-disjoint)"},
    slots=SLOTS,
    published={"paper": {"train": 23_132, "valid": 3_118, "test": 3_793}},
)


def rows(source: Source) -> Iterator[Row]:
    """The three lists in their order."""
    for split in ("train", "valid", "test"):
        table = source.require(f"data/{split}_data.csv")
        for line in read_table(table, columns=("path", "speakerId", *SLOTS)):
            if source.has(line["path"]):
                labels = {slot: line[slot] for slot in SLOTS if line[slot]}
                yield Row(line["path"], split, labels, line["speakerId"])
