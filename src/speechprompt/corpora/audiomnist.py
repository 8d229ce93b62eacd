"""AudioMNIST: English digits by sixty speakers.

Layout: `data/<speaker>/<digit>_<speaker>_<take>.wav` and `data/audioMNIST_meta.txt` (JSON: age, gender,
accent by speaker). The authors' folds live in their training code and are not reproduced.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source, stem
from speechprompt.corpora.splitting import dealt, folded
from speechprompt.corpora.tables import read_records

DIGITS = tuple("0123456789")
META = "audioMNIST_meta.txt"
GENDERS = {"female": "F", "male": "M"}

DESCRIPTION = CorpusDescription(
    name="audiomnist",
    title="AudioMNIST",
    tasks={"digit": ("digit",), "gender": ("gender",)},
    languages=("en",),
    hours=5.4,
    url="https://github.com/soerenab/AudioMNIST",
    licence="MIT",
    citation="Becker et al. 2018, Interpreting and Explaining Deep Neural Networks for Classification of "
    "Audio Signals, arXiv:1807.03418",
    marks=("data/[0-9][0-9]", "[0-9][0-9]/[0-9]_*_*", META),
    split_rules={
        "speaker-disjoint": "whole speakers, dealt 80/10/10 by a seeded hash within each gender",
        "folds": "five folds of whole speakers, dealt within each gender",
    },
    slots={"digit": DIGITS, "gender": ("F", "M")},
    utterances=30_000,
    published_labels={"digit": dict.fromkeys(DIGITS, 3_000)},
)


def rows(source: Source) -> Iterator[Row]:
    """Speaker by speaker."""
    base = "data/" if source.path("data").is_dir() else ""
    path = source.metadata("gender", f"data/{META}", META)
    meta = {} if path is None else read_records(path)
    speakers = {
        speaker: GENDERS.get(str(meta.get(speaker, {}).get("gender", "")).lower(), "")
        for speaker in source.folders(base)
        if speaker.isdigit()
    }
    seed = source.seed_or(0)
    splits = folded(speakers, 5, seed) if source.rule == "folds" else dealt(speakers, seed)
    for speaker, gender in speakers.items():
        for audio in source.files(f"{base}{speaker}"):
            digit = stem(audio).partition("_")[0]
            if digit in DIGITS:
                labels = {"digit": digit} | ({"gender": gender} if gender else {})
                yield Row(audio, splits[speaker], labels, speaker)
