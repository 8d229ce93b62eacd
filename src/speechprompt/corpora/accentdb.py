"""AccentDB (extended): nine accents of English (row 11).

Layout: `accentdb_extended/data/<accent>/speaker_<NN>/<name>.wav`.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import SPLITS, dealt, marked, sklearn_split

ACCENTS = ("american", "australian", "bangla", "british", "indian", "malayalam", "odiya", "telugu", "welsh")

DESCRIPTION = CorpusDescription(
    name="accentdb",
    title="AccentDB (extended)",
    tasks={"accent": ("accent",)},
    languages=("en",),
    url="https://accentdb.org (accentdb_extended)",
    licence="CC BY-NC 4.0",
    citation="Ahamad, Anand and Bhargava 2020, AccentDB: A Database of Non-Native English Accents to Assist "
    "Neural Speech Recognition, LREC",
    marks=("data/*/speaker_*", "*/speaker_*"),
    split_rules={
        "paper": "a fifth test, then a fifth of the rest valid (scikit-learn, seed 0; the same speakers in "
        "all); the reference takes files in the order of the disk, ours are sorted",
        "speaker-disjoint": "whole speakers, dealt by a seeded hash within each accent; an accent with one "
        "speaker is in train only, one with two has no valid",
    },
    slots={"accent": ACCENTS},
    utterances=17_313,
)


def rows(source: Source) -> Iterator[Row]:
    """Accent by accent, speaker by speaker."""
    base = "data/" if source.path("data").is_dir() else ""
    audios, speakers = [], {}
    for accent in source.folders(base):
        if accent.lower() in ACCENTS:
            for speaker in source.folders(f"{base}{accent}"):
                speakers[f"{accent}/{speaker}"] = accent
                audios += list(source.files(f"{base}{accent}/{speaker}"))
    disjoint = dealt(speakers, source.seed_or(0))
    train, test = sklearn_split(range(len(audios)), 0.2, source.seed_or(0))
    marks = marked(len(audios), sklearn_split(train, 0.2, source.seed_or(0))[1], test)
    for place, audio in enumerate(audios):
        accent, speaker = audio.removeprefix(base).split("/")[:2]
        name = f"{accent}/{speaker}"
        split = disjoint[name] if source.rule == "speaker-disjoint" else SPLITS[marks[place]]
        yield Row(audio, split, {"accent": accent.lower()}, name)
