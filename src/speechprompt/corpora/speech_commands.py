"""Folders of words whose files are named `<speaker>_nohash_<n>.wav`: both versions of Google Speech Commands.

Reads the main archive and the official test archive, unpacked side by side, one inside the other or alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from speechprompt.corpora.protocol import Row
from speechprompt.corpora.source import Source
from speechprompt.corpora.splitting import speech_commands_split
from speechprompt.errors import CorpusError

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
LABELS = (*COMMANDS, UNKNOWN, SILENCE)
SILENCE_SECONDS = 1.0

SPLIT_RULES = {
    "paper": (
        "official speaker hash (sha1) for train and valid, the official test archive for test; silence in "
        "train and valid is seeded 1 s spans of the background noise, as many as a command has on average "
        "(the reference draws crops, and every row with replacement, without a seed; balance belongs to the "
        "training sampler)"
    ),
    "speaker-hash": (
        "official speaker hash (sha1) for train, valid and test, which is validation_list.txt and "
        "testing_list.txt (speaker-disjoint); silence is seeded 1 s spans of the background noise"
    ),
}
VARIANTS = {
    "commands": "ten commands, every other word is _unknown_, background noise is _silence_",
    "words": "every word is a label, no silence",
}


def rows(source: Source, main: str, test: str) -> Iterator[Row]:
    """The utterances of a version, whose archives unpack to the folders `main` and `test`."""
    main = main if source.path(main).is_dir() else ""
    words = [
        word for word in source.folders(main) if word[0] != "_" and not word.startswith("speech_commands_")
    ]
    if source.variant == "commands" and words and not set(words) & set(COMMANDS):
        source.notice("none of the ten commands is here, so every word is a label (variant 'words')")
        source.variant = "words"
        if not source.rule_was_named:
            source.rule = "speaker-hash"
    if source.variant == "words" and source.rule == "paper":
        raise CorpusError(
            f"{source.root}: the official test archive has the twelve labels of the commands, not every word; pass "
            "--split-rule speaker-hash"
        )
    archive = _test_folder(source, test) if source.rule == "paper" else None
    counts: Counter[str] = Counter()
    for row in _spoken(source, main, words):
        if archive is None or row.split != "test":
            counts[row.split] += row.labels["command"] in COMMANDS
            yield row
    if source.variant == "commands":
        yield from _silence(
            source, main, {split: round(rows / len(COMMANDS)) for split, rows in counts.items()}
        )
    if archive is not None:
        yield from _official_test(source, archive)


def _spoken(source: Source, main: str, words: list[str]) -> Iterator[Row]:
    for word in words:
        label = word if source.variant == "words" or word in COMMANDS else UNKNOWN
        for audio in source.files(f"{main}/{word}".lstrip("/")):
            speaker = audio.rpartition("/")[2].partition("_nohash_")[0]
            split = speech_commands_split(speaker)
            yield Row(
                audio, split, {"command": label}, speaker, extra={} if label == word else {"word": word}
            )


def _silence(source: Source, main: str, wanted: dict[str, int]) -> Iterator[Row]:
    """Seeded spans of the noise files, which must be opened for their length."""
    folder = f"{main}/{NOISE}".lstrip("/")
    if not source.path(folder).is_dir():
        raise CorpusError(f"{source.path(main)} has no folder {NOISE}; unpack the whole archive")
    lengths = {}
    for audio in source.files(folder):
        header = source.header(audio)
        if header is not None and header.seconds is not None and header.seconds >= SILENCE_SECONDS:
            lengths[audio] = header.seconds
    if not lengths:
        source.notice(f"{folder} holds no file of at least {SILENCE_SECONDS:g} s, so there is no silence")
        return
    names = sorted(lengths)
    for split in ("train", "valid", "test"):
        draw = random.Random(f"{source.seed_or(0)}:{split}")
        starts: set[tuple[str, float]] = set()
        for turn in range(20 * wanted.get(split, 0)):
            if len(starts) == wanted[split]:
                break
            audio = names[turn % len(names)]
            starts.add((audio, round(draw.random() * (lengths[audio] - SILENCE_SECONDS), 4)))
        for audio, start in sorted(starts):
            yield Row(
                audio,
                split,
                {"command": SILENCE},
                None,
                start,
                round(start + SILENCE_SECONDS, 4),
                id=f"{audio.rpartition('.')[0]}#{split}-{start:g}",
            )


def _test_folder(source: Source, test: str) -> str | None:
    """The official test archive; without it the rule becomes `speaker-hash`, unless `paper` was asked for."""
    if source.path(test).is_dir():
        return test
    if source.rule_was_named:
        raise CorpusError(
            f"{source.root} has no {test}; unpack the official test archive there, or pass --split-rule "
            f"speaker-hash"
        )
    source.fall_back("speaker-hash", f"no {test}; unpack the official test archive beside the other")
    return None


def _official_test(source: Source, test: str) -> Iterator[Row]:
    for label in (*COMMANDS, UNKNOWN, SILENCE):
        if not source.path(f"{test}/{label}").is_dir():
            source.skip(f"{test}/{label}", "is missing from the test archive")
            continue
        for audio in source.files(f"{test}/{label}"):
            speaker, hashed, _ = audio.rpartition("/")[2].partition("_nohash_")
            yield Row(audio, "test", {"command": label}, speaker if hashed else None)
