"""ESC-50: fifty environmental sounds (row 17). Layout: `audio/*.wav` and `meta/esc50.csv`."""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora import environmental_sounds
from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source

SOUNDS = environmental_sounds.SOUNDS

DESCRIPTION = CorpusDescription(
    name="esc-50",
    title="ESC-50",
    tasks={"sound": ("sound",)},
    languages=(),
    hours=2.8,
    url="https://github.com/karolpiczak/ESC-50",
    licence="CC BY-NC 3.0",
    citation="Piczak 2015, ESC: Dataset for Environmental Sound Classification, ACM Multimedia",
    marks=("meta/esc50.csv", "audio/[1-5]-*-?-*"),
    split_rules=environmental_sounds.SPLIT_RULES,
    slots={"sound": SOUNDS},
    split_lists=(environmental_sounds.TABLE,),
    utterances=2_000,
    published={
        "paper": {"train": 1_280, "valid": 320, "test": 400},
        "folds": {f"fold{number}": 400 for number in range(1, 6)},
    },
    published_labels={"sound": dict.fromkeys(SOUNDS, 40)},
)


def rows(source: Source) -> Iterator[Row]:
    """The clips of the table, or of the folder when there is none."""
    clips = environmental_sounds.table_clips(source)
    return environmental_sounds.rows(
        source, environmental_sounds.named_clips(source) if clips is None else clips
    )
