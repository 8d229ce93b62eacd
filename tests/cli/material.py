"""What the command line's tests share besides fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

QUICK = ("--steps", "6", "--evaluations", "2", "--batch-size", "16", "--prompt-length", "2")
"""Training flags of a run that takes no time."""


@dataclass
class Ran:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that stderr must be after a failure with --quiet."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.err
        return lines[0]


Run = Callable[..., Ran]


def write_tone(path: Path, hertz: float, seed: int = 0, seconds: float = 0.5) -> Path:
    """A tone whose loudness wanders, at 8 kHz."""
    random = np.random.default_rng(seed)
    time = np.arange(int(8000 * seconds)) / 8000
    loudness = np.repeat(random.uniform(0.05, 0.6, 25), len(time) // 25)[: len(time)]
    soundfile.write(path, loudness * np.sin(2 * np.pi * hertz * time[: len(loudness)]), 8000)
    return path


def rewritten(
    source: Path, target: Path, change: Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]]]
) -> Path:
    """A manifest with changed lines, the header being the first."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    target.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    return target


def without_slots(header: dict[str, Any]) -> dict[str, Any]:
    """A header that leaves slots and labels to the rows."""
    return {key: value for key, value in header.items() if key != "slots"}
