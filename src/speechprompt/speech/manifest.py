"""A corpus in memory, and its manifest on disk (JSON lines, optionally gzipped)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechprompt.speech.units import Units


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a corpus: audio (a file, or a span of one), or units, or both.

    `start_seconds` and `end_seconds` cut a span out of `audio`; None means the file's ends. `labels` maps
    slot to label. `extra` keeps the manifest keys that this class does not know.
    """

    id: str
    split: str
    labels: Mapping[str, str]
    audio: Path | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    units: Units | None = None
    speaker: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Utterances with splits and labels.

    `slots` maps slot to its ordered labels. `tokenizer` names what made the units, if rows carry units.
    `notices` are the lines a user should be told (splits drawn here, rows skipped).
    """

    name: str
    utterances: tuple[Utterance, ...]
    slots: Mapping[str, tuple[str, ...]]
    tokenizer: str | None = None
    licence: str | None = None
    citation: str | None = None
    split_rule: str | None = None
    notices: tuple[str, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> tuple[Utterance, ...]:
        """The utterances of one split, in order; empty when there are none."""
        return tuple(u for u in self.utterances if u.split == name)
