"""Free Spoken Digit Dataset: six speakers. Layout: `recordings/<digit>_<speaker>_<take>.wav`."""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source, stem
from speechprompt.corpora.splitting import dealt

DIGITS = tuple("0123456789")

DESCRIPTION = CorpusDescription(
    name="fsdd",
    title="Free Spoken Digit Dataset",
    tasks={"digit": ("digit",), "speaker": ("speaker",)},
    languages=("en",),
    hours=0.36,
    url="https://github.com/Jakobovski/free-spoken-digit-dataset",
    licence="CC BY-SA 4.0",
    citation="Jackson et al., Free Spoken Digit Dataset",
    marks=("recordings", "[0-9]_*_*.*"),
    split_rules={
        "official": "takes 0 to 4 test, the rest train (the same speakers in both, no valid)",
        "speaker-disjoint": "whole speakers by a seeded hash: one test, one valid, the rest train (for "
        "digit)",
    },
    slots={"digit": DIGITS, "speaker": ()},
    utterances=3_000,
    published={"official": {"train": 2_700, "test": 300}},
    published_labels={"digit": dict.fromkeys(DIGITS, 300)},
)


def rows(source: Source) -> Iterator[Row]:
    """The recordings by name; names that are no `<digit>_<speaker>_<take>` are left out."""
    base = "recordings" if source.path("recordings").is_dir() else ""
    disjoint = {}
    if source.rule == "speaker-disjoint":
        speakers = {fields[1] for audio in source.files(base) if (fields := _fields(audio))}
        disjoint = dealt(dict.fromkeys(sorted(speakers), ""), source.seed_or(0))
    for audio in source.files(base):
        if fields := _fields(audio):
            digit, speaker, take = fields
            split = disjoint.get(speaker) or ("test" if int(take) < 5 else "train")
            yield Row(audio, split, {"digit": digit, "speaker": speaker}, speaker)


def _fields(audio: str) -> list[str] | None:
    fields = stem(audio).split("_")
    return fields if len(fields) == 3 and fields[0] in DIGITS and fields[2].isdigit() else None
