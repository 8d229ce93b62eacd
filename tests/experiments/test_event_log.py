"""Events of a training that was killed and went on: all there, each run's in its folder, all seconds counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speechprompt.experiments import event_log
from speechprompt.experiments.event_log import EventLog


def test_a_killed_training_keeps_its_events_and_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 3.0, 5.0, 100.0, 100.0, 107.0])
    monkeypatch.setattr(event_log, "perf_counter", lambda: next(clock))
    path = tmp_path / "runs" / "events.jsonl"
    first = EventLog(path)
    first.add({"event": "step", "run": "a", "step": 1, "loss": 2.0})
    first.add({"event": "step", "run": "b", "step": 1, "loss": 3.0})
    with path.open("a") as file:
        file.write('{"event": "step", "ru')  # the line that the kill tore
    second = EventLog(path)
    second.add({"event": "step", "run": "a", "step": 2, "loss": 1.0})
    assert second.seconds() == 12.0
    second.finish({"a": tmp_path / "a.jsonl", "b": tmp_path / "b.jsonl"})
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 2.0), (2, 1.0)]
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 1
    assert not path.exists()
