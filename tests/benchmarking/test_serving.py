"""The stage `server`: a process that never outlives its context, load in numbers, and what the library does alone."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch

from conftest import ROOT
from speechprompt.benchmarking import server_process
from speechprompt.benchmarking.bank_stages import CountedTokenizer
from speechprompt.benchmarking.case import BOUND, NAIVE, OURS, Figure, Row
from speechprompt.benchmarking.clock import Clock
from speechprompt.benchmarking.load import Requests, open_loop
from speechprompt.benchmarking.material import Settings
from speechprompt.benchmarking.server_process import serving
from speechprompt.benchmarking.server_stage import ServerWork
from speechprompt.errors import WorkError
from speechprompt.spoken_lm import SpokenLM
from toys import SPOKEN, artifact_of, entry_of

STAND_IN = """
import os, sys
with open(sys.argv[1] + "/pid", "w") as file:
    file.write(str(os.getpid()))
import json, signal, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
mood = os.environ["MOOD"]
if mood == "fails":
    sys.exit("error: no luck today")
if mood == "dawdles":
    time.sleep(60)
if mood == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Answers(BaseHTTPRequestHandler):
    protocol_version, asked = "HTTP/1.1", 0
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if mood == "dies":
            print("error: out of memory", file=sys.stderr, flush=True)
            os._exit(1)
        if mood == "hangs":
            time.sleep(60)
        Answers.asked += 1
        self.send_response(429 if mood == "picky" and Answers.asked % 3 == 0 else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
print(json.dumps({"event": "serving", "url": f"http://127.0.0.1:{server.server_port}/"}), file=sys.stderr, flush=True)
server.serve_forever()
"""
"""Answers every clip at once, unless the environment says that it is in another mood."""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "COMMAND", (sys.executable, "-c", STAND_IN))
    monkeypatch.setenv("MOOD", "good")


@pytest.fixture
def requests() -> Requests:
    buffer = io.BytesIO()
    soundfile.write(buffer, [0.0, 0.5, -0.5], 8000, format="WAV")
    return Requests([buffer.getvalue()], ["colour"])


def is_gone(folder: Path) -> bool:
    """Whether the process that ran there has ended and was waited for."""
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def happens(end: type[BaseException] | signal.Signals) -> None:
    """What ends a run."""
    if isinstance(end, signal.Signals):
        os.kill(os.getpid(), end)
    else:
        raise end


def test_what_the_extra_installs_is_looked_for() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
    packages = sorted(line.partition(">")[0].replace("-", "_") for line in named)
    assert packages == sorted(server_process.PACKAGES)
    assert server_process.missing_package() is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "PACKAGES", ("json", "no_such_package"))
    assert server_process.missing_package() == "no_such_package"


def test_load_comes_in_numbers(tmp_path: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOOD", "picky")
    with serving(tmp_path, threads=1) as server:
        load = server.under_load(2, 0.2, requests)
        at_random = asyncio.run(open_loop(server.url, 100.0, 0.2, requests, 4))
        assert not is_gone(tmp_path)
    assert is_gone(tmp_path)
    assert len(load.outcomes) >= 4
    assert load.answered == sum(outcome.status == 200 for outcome in load.outcomes) < len(load.outcomes)
    assert all(0 < outcome.seconds < load.wall_seconds for outcome in load.outcomes)
    assert load.wall_seconds >= 0.2
    assert at_random
    assert all(outcome.late_seconds >= 0 < outcome.seconds for outcome in at_random)


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError, signal.SIGTERM])
@pytest.mark.parametrize("mood", ["good", "stubborn"])
def test_the_process_ends_with_its_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException] | signal.Signals, mood: str
) -> None:
    monkeypatch.setenv("MOOD", mood)
    monkeypatch.setattr(server_process, "STOP_SECONDS", 0.2 if mood == "stubborn" else 30)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit if end is signal.SIGTERM else end), serving(tmp_path, threads=1):  # type: ignore[arg-type]
        happens(end)
    assert is_gone(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("mood", "message"),
    [("fails", "did not start: error: no luck today"), ("dawdles", "within 2 s: it said nothing")],
)
def test_a_failed_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mood: str, message: str
) -> None:
    monkeypatch.setenv("MOOD", mood)
    monkeypatch.setattr(server_process, "START_SECONDS", 2.0)
    with pytest.raises(WorkError, match=message), serving(tmp_path, threads=1):
        pass
    assert is_gone(tmp_path)


@pytest.mark.parametrize(
    ("mood", "message"), [("dies", "hung up: error: out of memory"), ("hangs", "unanswered for 0.3 s")]
)
def test_a_server_that_dies_or_hangs_is_an_error(
    tmp_path: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch, mood: str, message: str
) -> None:
    monkeypatch.setenv("MOOD", mood)
    monkeypatch.setattr(server_process, "DEADLINE_SECONDS", 0.0)
    monkeypatch.setattr(server_process, "LATE_SECONDS", 0.2)
    with pytest.raises(WorkError, match=message), serving(tmp_path, threads=1) as server:
        server.under_load(2, 0.1, requests)
    assert is_gone(tmp_path)


def test_no_clip_is_sent_twice() -> None:
    """Not by another generator of the same seed either: a server would answer from its cache of units."""
    buffer = io.BytesIO()
    soundfile.write(buffer, [0.0, 0.5, -0.5], 8000, format="WAV")
    bodies = [Requests([buffer.getvalue()], ["colour"])().partition(b"\r\n\r\n")[2] for _ in range(3)]
    assert len(set(bodies)) == 3


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_a_length_in_rows_and_figures(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = CountedTokenizer(SPOKEN)
    spoken_lm = SpokenLM.of_parts("toy@1", tokenizer, SPOKEN.lm)  # type: ignore[arg-type]
    monkeypatch.setattr(SpokenLM, "load", lambda *_: spoken_lm)
    artifact = artifact_of(entry_of(SPOKEN.lm)).save(tmp_path / "prompt")
    settings = Settings(repeats=2, quick=True)
    with serving(tmp_path, threads) as server:
        work = ServerWork(settings, Clock("cpu", 2, quick=True), artifact, server)
        found = list(work.findings(0.5))
    assert work.in_cpu_seconds == (threads == 1)
    one, several = (row for row in found if isinstance(row, Row))
    assert one.rates.keys() == {OURS, BOUND}
    assert several.rates.keys() == {OURS, BOUND, NAIVE}
    assert several.rates[NAIVE] == one.rates[OURS]
    assert min(*one.rates.values(), *several.rates.values()) > 0
    assert tokenizer.heard == 2 * 3 * 8  # the library hears every clip in every turn, the warm-up included
    figures = {figure.name: figure.value for figure in found if isinstance(figure, Figure)}
    assert figures["not answered, clips of 0.5 s"] == 0
    for clients in ("1 client", "8 clients"):
        p50, p99 = (figures[f"latency {part}, {clients}, clips of 0.5 s"] for part in ("p50", "p99"))
        assert 0 < p50 <= p99
        assert figures[f"answered a second of wall time, {clients}, clips of 0.5 s"] > 0
