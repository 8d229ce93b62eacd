"""Google Speech Commands v0.01: thirty English words, twelve labels in the paper (row 1)."""

from __future__ import annotations

from collections.abc import Iterator

from speechprompt.corpora import speech_commands
from speechprompt.corpora.protocol import CorpusDescription, Row
from speechprompt.corpora.source import Source

MAIN, TEST = "speech_commands_v0.01", "speech_commands_test_set_v0.01"
HASHED = {"train": 51_088, "valid": 6_798, "test": 6_835}

DESCRIPTION = CorpusDescription(
    name="google-speech-commands-v1",
    title="Google Speech Commands v0.01",
    tasks={"command": ("command",)},
    languages=("en",),
    hours=18.0,
    url="http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz and "
    "http://download.tensorflow.org/data/speech_commands_test_set_v0.01.tar.gz",
    licence="CC BY 4.0",
    citation="Warden 2018, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, "
    "arXiv:1804.03209",
    by_hand="unpack each archive into a folder of its own name, side by side",
    marks=(MAIN, "_background_noise_", "*/*_nohash_*"),
    parts=(MAIN, TEST),
    split_rules=speech_commands.SPLIT_RULES,
    variants=speech_commands.VARIANTS,
    default_rules={"words": "speaker-hash"},
    slots={"command": speech_commands.LABELS},
    published={"paper": {"test": 3_081}, "speaker-hash/words": HASHED},
)


def rows(source: Source) -> Iterator[Row]:
    """Words, then silence, then the official test archive (rule `paper`)."""
    return speech_commands.rows(source, MAIN, TEST)
