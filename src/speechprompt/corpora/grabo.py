"""Grabo: eleven Dutch speakers who steer a robot, 36 commands, ten recordings of each (row 2).

Layout: `speakers/<speaker>/spchdatadir/recording<N>/Voice_<take>.wav`, speakers pp2, pp3 …; beside it `framedir`
and `transcriptions`, which are not read. Takes are in the order of their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import dealt

DESCRIPTION = CorpusDescription(
    name="grabo",
    title="Grabo",
    tasks={"command": ("command",)},
    languages=("nl",),
    url="https://www.esat.kuleuven.be/psi/spraak/downloads/",
    licence="none stated",
    citation="Renkens et al. 2014, Acquisition of Ordinal Words Using Weakly Supervised NMF, SLT",
    marks=("speakers/*/spchdatadir", "*/spchdatadir"),
    split_rules={
        "paper": "per speaker and command the first 2 recordings train, the next 4 valid, the rest test (the "
        "reference takes them in the order of the disk; ours are in the order of their numbers)",
        "speaker-disjoint": "whole speakers dealt by a seeded hash, about 80/10/10",
    },
    slots={"command": tuple(f"recording{number}" for number in range(1, 37))},
    utterances=6_007,
    published={"paper": {"train": 792, "valid": 1_584, "test": 3_631}},
)


def rows(source: Source) -> Iterator[Row]:
    """Speaker by speaker, command by command, take by take."""
    base = "speakers/" if source.path("speakers").is_dir() else ""
    speakers = [name for name in source.folders(base) if source.path(f"{base}{name}/spchdatadir").is_dir()]
    splits = dealt(dict.fromkeys(speakers, ""), source.seed_or(0))
    for speaker in speakers:
        folder = f"{base}{speaker}/spchdatadir"
        for command in sorted(source.folders(folder), key=_natural):
            takes = sorted(source.files(f"{folder}/{command}"), key=_natural)
            for place, audio in enumerate(takes):
                split = "train" if place < 2 else "valid" if place < 6 else "test"
                if source.rule == "speaker-disjoint":
                    split = splits[speaker]
                yield Row(audio, split, {"command": command}, speaker)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which Voice_10 follows Voice_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
