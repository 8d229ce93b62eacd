"""Arabic Speech Commands: ten digits and six words, forty speakers who are not marked (row 4).

Layout: `AR_ SpeechCommands_Database/Words/B_Back19.wav` and `…/Numbers/0_11.wav`; the published lists say
`commands/` and `numbers/`, so files are matched by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.split_lists import Part, matched, read_split_list, tail
from speechprompt.corpora.splitting import hashed_split

PARTS = (Part("train_full.csv", "train"), Part("dev_full.csv", "valid"), Part("test_full.csv", "test"))
LABELS = tuple("0123456789ABCDEF")

DESCRIPTION = CorpusDescription(
    name="arabic-speech-commands",
    title="Arabic Speech Commands",
    tasks={"command": ("command",)},
    languages=("ar",),
    hours=0.37,
    url="https://github.com/ltkbenamer/AR_Speech_Database",
    licence="none stated; the authors ask for citation",
    citation="Benamer and Alkishriwo 2020, Database for Arabic Speech Commands Recognition, CEST; splits: "
    "Yen et al. 2021, arXiv:2110.03894",
    by_hand="for the paper's split take Datasets/AR-SCR of https://github.com/dodohow1011/SpeechAdvReprogram",
    marks=("Words/*_*.*", "Numbers/*_*.*", "words/*_*.*", "numbers/*_*.*", "commands/*_*.*"),
    split_rules={
        "paper": "the published lists (random, unseeded, speakers overlap), in their order; the 1,600 files hold 467 "
        "distinct recordings, and 344 of the 370 test clips are copies of clips in train or valid",
        "seeded": "80/20 and then 10 % for valid, by a seeded hash of the name; speakers are not marked and "
        "overlap",
    },
    slots={"command": LABELS},
    split_lists=tuple(part.file for part in PARTS),
    published={"paper": {"train": 1_107, "valid": 123, "test": 370}},
    utterances=1_600,
    published_labels={"command": dict.fromkeys(LABELS, 100)},
    label_meanings={
        "command": {"A": "add", "B": "back", "C": "cancel", "D": "delete", "E": "confirm", "F": "continue"}
    },
)


def rows(source: Source) -> Iterator[Row]:
    """The published list in its order, or the folder in its."""
    lines = None
    if source.rule == "paper":
        lines = read_split_list(source, PARTS, ("Datasets/AR-SCR", "AR-SCR"))
        if lines is None:
            source.fall_back("seeded", "no published list (train_full.csv …); pass one with --split-list")
    audios = (audio for audio in source.files() if _label(audio) in LABELS)
    if lines is None:
        for audio in audios:
            split = hashed_split(tail(audio, 1), source.seed_or(0), valid=0.08, test=0.2)
            yield Row(audio, split, {"command": _label(audio)})
        return
    files = {tail(audio, 1): audio for audio in audios}
    for audio, line in matched(source, lines, files, 1):
        yield Row(audio, line.split, {"command": line.label or _label(audio)})


def _label(audio: str) -> str:
    """The first character of the name, followed by an underscore."""
    name = audio.rpartition("/")[2]
    return name[0].upper() if name[1:2] == "_" else ""
