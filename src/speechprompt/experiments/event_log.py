"""The events of a training that may be stopped and go on: appended line by line, so that a kill loses none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

LEG = "leg"
"""The event that opens every stretch between a start and a stop."""


class EventLog:
    """A file of events, a JSON object a line, each with the seconds since its leg began.

    Steps that a resumed training repeats stand twice; they are the same steps. Side effects: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._started = path, perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._append("\n")
        self.add({"event": LEG})

    def add(self, event: Mapping[str, Any]) -> None:
        """Append an event."""
        seconds = round(perf_counter() - self._started, 3)
        self._append(json.dumps({**event, "seconds": seconds}) + "\n")

    def seconds(self) -> float:
        """Seconds of all legs together, those of stopped ones up to their last event."""
        total = last = 0.0
        for event in self._events():
            if event["event"] == LEG:
                total, last = total + last, 0.0
            last = max(last, float(event["seconds"]))
        return round(total + last, 3)

    def finish(self, places: Mapping[str, Path]) -> None:
        """Write each run's events to its place, and remove the log."""
        for run, place in places.items():
            lines = [json.dumps(event) + "\n" for event in self._events() if event.get("run") == run]
            place.write_text("".join(lines), encoding="utf-8")
        self.path.unlink()

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _events(self) -> Iterator[dict[str, Any]]:
        """What is in the file; a line that a kill tore is passed over."""
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and {"event", "seconds"} <= event.keys():
                    yield event
