"""Dysarthric Mandarin Speech Commands: three speakers, nineteen commands, ten recordings of each (row 5).

Layout: `dysarthria_zh_command/D_SPK1/02/D_SPK1_c2 (7).wav`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.split_lists import Listed, Part, matched, read_split_list, tail
from speechprompt.corpora.splitting import hashed_share, sklearn_split

PARTS = (Part("train_full.csv", "train_full"), Part("test_full.csv", "test"))
LABELS = tuple(f"{number:02d}" for number in range(1, 20))
DROPPED = frozenset(("10", "13", "14", "15", "16", "19"))
MEANINGS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "close"),
    *("up", "down", "previous", "next", "in", "out", "left", "right", "home"),
)

DESCRIPTION = CorpusDescription(
    name="dysarthric-mandarin",
    title="Dysarthric Mandarin Speech Commands",
    tasks={"command": ("command",)},
    languages=("zh",),
    url="https://reurl.cc/a5vAG4",
    licence="none stated",
    citation="Lin et al. 2020, A Speech Command Control-Based Recognition System for Dysarthric Patients "
    "Based on Deep Learning Technology, Applied Sciences 11(6):2477; splits: Yen et al. 2021, "
    "arXiv:2110.03894",
    by_hand="for the paper's split take Datasets/DM-SCR of https://github.com/dodohow1011/SpeechAdvReprogram",
    marks=("D_SPK*",),
    split_rules={
        "paper": "the published lists, a fifth of train (scikit-learn, seed 1) as valid; the same speakers "
        "in all",
        "seeded": "per speaker and command 7 recordings train and 3 test by a seeded hash, then as `paper`",
        "speaker-disjoint": "D_SPK1 train, D_SPK2 valid, D_SPK3 test",
    },
    variants={
        "thirteen": "without the labels 10, 13, 14, 15, 16 and 19, as the reference code has it",
        "nineteen": "all labels",
    },
    slots={"command": LABELS},
    split_lists=tuple(part.file for part in PARTS),
    utterances=390,
    published={"paper/nineteen": {"train": 319, "valid": 80, "test": 171}},
    published_labels={"command": {label: 30 for label in LABELS if label not in DROPPED}},
    label_meanings={"command": dict(zip(LABELS, MEANINGS, strict=True))},
)


def rows(source: Source) -> Iterator[Row]:
    """The list in its order; labels that the variant drops are left out after splitting."""
    files = {tail(audio, 3): audio for audio in source.files() if "/" in audio}
    if source.rule == "speaker-disjoint":
        lines: Sequence[Listed] = [Listed(audio, "", _by_speaker(audio)) for audio in files.values()]
    else:
        lines = _paper_lines(source, files)
    for audio, line in matched(source, lines, files, 3):
        speaker, label = audio.split("/")[-3:-1]
        if source.variant == "nineteen" or label not in DROPPED:
            yield Row(audio, line.split, {"command": label}, speaker)


def _paper_lines(source: Source, files: dict[str, str]) -> Sequence[Listed]:
    lines: list[Listed] | None = None
    if source.rule == "paper":
        lines = read_split_list(source, PARTS, ("Datasets/DM-SCR", "DM-SCR"))
        if lines is None:
            source.fall_back("seeded", "no published list (train_full.csv …); pass one with --split-list")
    if lines is None:
        lines = _seeded(sorted(files.values()), source.seed_or(0))
    train = [place for place, line in enumerate(lines) if line.split == "train_full"]
    if not train:
        return lines
    valid = set(sklearn_split(train, 0.2, seed=1)[1])
    return [
        line if line.split == "test" else line._replace(split="valid" if place in valid else "train")
        for place, line in enumerate(lines)
    ]


def _seeded(audios: list[str], seed: int) -> list[Listed]:
    groups: dict[str, list[str]] = {}
    for audio in audios:
        groups.setdefault(audio.rpartition("/")[0], []).append(audio)
    tests = {
        audio
        for group in groups.values()
        for audio in sorted(group, key=lambda name: hashed_share(name, seed))[: round(0.3 * len(group))]
    }
    return [Listed(audio, "", "test" if audio in tests else "train_full") for audio in audios]


def _by_speaker(audio: str) -> str:
    return {"1": "train", "2": "valid"}.get(audio.split("/")[-3][-1], "test")
