"""Lithuanian Speech Commands: 28 speakers, thirteen commands, unknown words and silence (row 3).

Layout: `dataset/<word>/<speaker>_nohash_<n>.wav` and `dataset/_background_noise_/<n>.wav`.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source, plain
from speechprompt.corpora.split_lists import Part, matched, read_split_list, tail
from speechprompt.corpora.splitting import hashed_split, speech_commands_split

NOISE = "_background_noise_"
COMMANDS = (
    *("ne", "ačiū", "stop", "įjunk", "išjunk", "į_viršų", "į_apačią"),
    *("į_dešinę", "į_kairę", "startas", "pauzė", "labas", "iki"),
)
PARTS = (
    Part("train_limit20.csv", "train"),
    Part("noise_full.csv", "train", 20),
    Part("dev_full.csv", "valid"),
    Part("noise_full.csv", "valid", 10, 20),
    Part("test_full.csv", "test"),
    Part("noise_full.csv", "test", 0, 10),
)

DESCRIPTION = CorpusDescription(
    name="lithuanian-speech-commands",
    title="Lithuanian Speech Commands",
    tasks={"command": ("command",)},
    languages=("lt",),
    hours=0.25,
    url="https://github.com/kolesov93/lt_speech_commands",
    licence="none stated (created for academic research)",
    citation="Kolesau and Sesok 2020, Unsupervised Pre-Training for Voice Activation, Applied Sciences "
    "10(23):8643; splits: Yen et al. 2021, arXiv:2110.03894",
    by_hand="for the paper's split take Datasets/LT-SCR of https://github.com/dodohow1011/SpeechAdvReprogram",
    marks=("dataset/*/*_nohash_*", f"dataset/{NOISE}", "*/*_nohash_*", NOISE),
    split_rules={
        "paper": "the published lists: train_limit20 + noise[20:], dev_full + noise[10:20], test_full + "
        "noise[:10]",
        "speaker-hash": "speaker hash (sha1) of Speech Commands for words, seeded 90/5/5 for silence; all "
        "recordings, where the published training list stops at 20 of a word",
    },
    slots={"command": (*COMMANDS, "unknown", "silence")},
    split_lists=tuple(dict.fromkeys(part.file for part in PARTS)),
    published={"paper": {"train": 598, "valid": 85, "test": 98}},
)


def rows(source: Source) -> Iterator[Row]:
    """The published list in its order, or the folder in its."""
    base = "dataset" if source.path("dataset").is_dir() else ""
    lines = None
    if source.rule == "paper":
        lines = read_split_list(source, PARTS, ("Datasets/LT-SCR", "LT-SCR"))
        if lines is None:
            source.fall_back(
                "speaker-hash", "no published list (train_limit20.csv …); pass one with --split-list"
            )
    if lines is None:
        for audio in source.files(base):
            yield _row(audio, _seeded(audio, source.seed_or(0)))
        return
    files = {tail(audio, 2): audio for audio in source.files(base)}
    for audio, line in matched(source, lines, files, 2):
        yield _row(audio, line.split, line.label)


def _row(audio: str, split: str, label: str = "") -> Row:
    word, name = plain(audio).split("/")[-2:]
    if word == NOISE:
        return Row(audio, split, {"command": "silence"})
    known = word if word in COMMANDS else "unknown"
    return Row(
        audio, split, {"command": plain(label) or known}, name.partition("_nohash_")[0], extra={"word": word}
    )


def _seeded(audio: str, seed: int) -> str:
    word, name = plain(audio).split("/")[-2:]
    if word == NOISE:
        return hashed_split(name, seed, valid=0.05, test=0.05)
    return speech_commands_split(name.partition("_nohash_")[0])
