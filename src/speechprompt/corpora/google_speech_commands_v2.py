"""Google Speech Commands v0.02: thirty-five English words."""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora import speech_commands
from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source

MAIN, TEST = "speech_commands_v0.02", "speech_commands_test_set_v0.02"
HASHED = {"train": 84_843, "valid": 9_981, "test": 11_005}

DESCRIPTION = CorpusDescription(
    name="google-speech-commands-v2",
    title="Google Speech Commands v0.02",
    tasks={"command": ("command",)},
    languages=("en",),
    hours=29.0,
    url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz and "
    "http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz",
    licence="CC BY 4.0",
    citation="Warden 2018, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, "
    "arXiv:1804.03209",
    by_hand="unpack each archive into a folder of its own name, side by side",
    marks=(MAIN, "_background_noise_", "*/*_nohash_*"),
    parts=(MAIN, TEST),
    split_rules={name: speech_commands.SPLIT_RULES[name] for name in ("speaker-hash", "paper")},
    variants=speech_commands.VARIANTS,
    slots={"command": speech_commands.LABELS},
    published={"paper": {"test": 4_890}, "speaker-hash/words": HASHED},
)


def rows(source: Source) -> Iterator[Row]:
    """Words, then silence, then the official test archive (rule `paper`)."""
    return speech_commands.rows(source, MAIN, TEST)
