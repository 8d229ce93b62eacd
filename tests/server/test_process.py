"""The server as users start it: one prediction for CLI, server and library, and SIGTERM under load."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from cli.material import write_tone
from speechprompt.cli import main
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.predictor import Predictor
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.spoken_lm import SpokenLM
from toys import artifact_of

LABELS = {"colour": ("red", "green", "blue")}


@pytest.fixture(scope="module")
def tiny() -> SpokenLM:
    return SpokenLM.load("tiny", dtype="auto")


@pytest.fixture(scope="module")
def prompts(tiny: SpokenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two untrained prompts on `tiny`: what they answer is arbitrary, but it is one thing."""
    folder = tmp_path_factory.mktemp("prompts")
    changes = {
        "spoken_lm": tiny.name,
        "tokenizer": tiny.tokenizer_name,
        "tokenizer_fingerprint": tiny.tokenizer.fingerprint,
        "lm_fingerprint": tiny.lm.fingerprint,
    }
    for seed, name in enumerate(("colour", "shade")):
        options = TrainingOptions.of_recipe(
            "default", {"prompt_length": 4, "seed": seed, "initialisation": "normal"}
        )
        entry = new_entry(Task(name, LABELS), tiny.lm, options, [], torch.zeros(0, 1, dtype=torch.int64))
        artifact_of(entry, **changes).save(folder / name)
    return folder


@dataclass
class Served:
    """A server in a process of its own, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]

    def url(self) -> str:
        """Where it listens, once it does."""
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            for event in self.events():
                if event["event"] == "serving":
                    return str(event["url"]).rstrip("/")
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@pytest.fixture
def served(prompts: Path, tmp_path: Path) -> Iterator[Served]:
    """`speechprompt serve`."""
    command = [sys.executable, "-m", "speechprompt", "serve", str(prompts), "--port", "0", "--threads", "1"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        yield Served(process, tmp_path / "log")
        process.kill()


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main([*arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_prediction_everywhere_and_nothing_lost_at_sigterm(
    served: Served,
    tiny: SpokenLM,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = served.url()
    clip = write_tone(tmp_path / "clip.wav", 440.0)
    folders = [prompts / "colour", prompts / "shade"]
    of_library = Predictor(tiny, folders).predict(clip)
    flags = [part for folder in folders for part in ("--prompt", str(folder))]
    of_cli = run_json(capsys, "predict", str(clip), *flags, "--json", "--quiet")
    with clip.open("rb") as file:
        of_server = httpx2.post(f"{url}/v1/classify", files={"file": file}, timeout=60).json()["predictions"]
    for library, cli, server in zip(of_library, of_cli, of_server, strict=True):
        scores = dict(library.slots["colour"].scores)
        assert cli["slots"]["colour"]["scores"] == pytest.approx(scores, abs=1e-5)  # type: ignore[index]
        assert server["slots"]["colour"]["scores"] == pytest.approx(scores, abs=1e-5)
        assert library.task == cli["task"] == server["task"]
    lost, answered = under_load_until_sigterm(url, served.process, clip.read_bytes())
    assert served.process.wait(60) == 0
    log = served.events()
    stopping, stopped = (next(e for e in log if e["event"] == name) for name in ("stopping", "stopped"))
    assert stopped["left"] == 0
    assert stopping["accepted"] <= 8
    finished = [e for e in log if e["event"] == "request" and e["path"] == "/v1/classify"]
    assert {event["status"] for event in finished} == {200}
    assert answered + 1 == len(finished)  # every answer arrived
    assert lost == 8  # each client's last request found the door closed
    assert not [event for event in log if event["level"] in ("error", "critical") or "traceback" in event]


def under_load_until_sigterm(url: str, process: subprocess.Popen[bytes], clip: bytes) -> tuple[int, int]:
    """Eight clients ask until the door is closed; requests that were never taken, and answers."""
    lost, answers = [], []
    enough = threading.Event()

    def ask(number: int) -> None:
        with httpx2.Client(base_url=url, timeout=60) as http:
            while True:
                try:
                    response = http.post("/v1/classify", files={"file": clip}, data={"task": ["*"]})
                except httpx2.TransportError as error:
                    lost.append(error)
                    return
                answers.append(response.status_code)
                if len(answers) > 40:
                    enough.set()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert set(answers) == {200}
    return len(lost), len(answers)
