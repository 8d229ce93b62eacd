"""The folder of a pretraining run: its options, a JSON-lines log, and one state to resume from.

Knows neither models nor speech.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from speechprompt.errors import TrainingError

Record = Mapping[str, float | int | str]
Progress = Callable[[Record], None]
"""Called with every record that goes to the log: `step`, `steps` and what was measured."""


class RunFolder:
    """A folder that one run owns; opening it again with the same options resumes the run.

    Errors: TrainingError when the folder holds a run with other options. Side effects: creates the folder,
    writes `options.json`, `log.jsonl` and `state.pt`, each whole or not at all.
    """

    def __init__(
        self, path: str | Path, options: Mapping[str, Any], progress: Progress | None = None
    ) -> None:
        self.path = Path(path)
        self._progress = progress
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(options), indent=1, sort_keys=True)
        known = self.path / "options.json"
        if known.exists() and known.read_text(encoding="utf-8") != text:
            raise TrainingError(
                f"{self.path} holds a run with other options or material; choose another folder or empty it"
            )
        _write_atomically(known, text.encode())

    def log(self, record: Record) -> None:
        """Append a record to `log.jsonl` and tell the progress callback."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(dict(record)) + "\n")
        if self._progress is not None:
            self._progress(record)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state to resume from (tensors and plain values)."""
        temporary = self.path / "state.pt.part"
        torch.save(dict(state), temporary)
        temporary.replace(self.path / "state.pt")

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state, or None at the start. TrainingError when the file is damaged."""
        path = self.path / "state.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load documents no error types
            raise TrainingError(f"{path} is damaged; delete it to start this run again") from error
        return state


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(path)
