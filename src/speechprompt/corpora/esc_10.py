"""ESC-10: ten sounds of ESC-50, in the layout of ESC-50 or its own (`001 - Dog bark/1-30226-A.ogg`)."""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora import environmental_sounds
from speechprompt.corpora.environmental_sounds import TEN, Clip
from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source

OWN_FOLDERS = {
    "001 - Dog bark": "dog",
    "002 - Rain": "rain",
    "003 - Sea waves": "sea_waves",
    "004 - Baby cry": "crying_baby",
    "005 - Clock tick": "clock_tick",
    "006 - Person sneeze": "sneezing",
    "007 - Helicopter": "helicopter",
    "008 - Chainsaw": "chainsaw",
    "009 - Rooster": "rooster",
    "010 - Fire crackling": "crackling_fire",
}

DESCRIPTION = CorpusDescription(
    name="esc-10",
    title="ESC-10",
    tasks={"sound": ("sound",)},
    languages=(),
    hours=0.56,
    url="https://github.com/karolpiczak/ESC-50 or https://github.com/karolpiczak/ESC-10",
    licence="CC BY 3.0",
    citation="Piczak 2015, ESC: Dataset for Environmental Sound Classification, ACM Multimedia",
    marks=("meta/esc50.csv", "audio/[1-5]-*-?-*", "001 - Dog bark"),
    split_rules={name: environmental_sounds.SPLIT_RULES[name] for name in ("folds", "paper")},
    slots={"sound": TEN},
    split_lists=(environmental_sounds.TABLE,),
    utterances=400,
    published={
        "folds": {f"fold{number}": 80 for number in range(1, 6)},
        "paper": {"train": 256, "valid": 64, "test": 80},
    },
    published_labels={"sound": dict.fromkeys(TEN, 40)},
)


def rows(source: Source) -> Iterator[Row]:
    """The clips of the ten sounds."""
    if source.path("001 - Dog bark").is_dir():
        clips = [
            Clip(audio, sound, int(audio.rpartition("/")[2][0]))
            for folder, sound in OWN_FOLDERS.items()
            if source.path(folder).is_dir()
            for audio in source.files(folder)
            if audio.rpartition("/")[2][0] in "12345"
        ]
    else:
        clips = environmental_sounds.table_clips(source) or environmental_sounds.named_clips(source)
    return environmental_sounds.rows(source, [clip for clip in clips if clip.sound in TEN])
