"""`speechprompt serve` in a process of its own on a free port of this machine, and what load on it comes to.

The process never outlives its context: not after an error, Ctrl-C or SIGTERM, nor when it cannot start.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from speechprompt.benchmarking.load import Outcome, closed_loop
from speechprompt.errors import WorkError

COMMAND = (sys.executable, "-m", "speechprompt", "serve")
PACKAGES = ("fastapi", "httptools", "prometheus_client", "python_multipart", "uvicorn", "websockets")
"""What the extra `server` installs, by the names that are imported."""
DEADLINE_SECONDS = 60.0
"""In which the server answers: so long that it refuses nothing for being slow."""
START_SECONDS, STOP_SECONDS = 180.0, 30.0
LATE_SECONDS = 10.0
"""How much longer than its deadline an answer is waited for."""
TERMINATED = 128 + signal.SIGTERM


def missing_package() -> str | None:
    """A package of the extra `server` that is not installed; looking imports none of them."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is None), None)


@dataclass(frozen=True, slots=True)
class Load:
    """What came of some load: every outcome, and the seconds that it took, by the clock and of the server's CPU.

    `cpu_seconds` is NaN where the system does not tell.
    """

    outcomes: Sequence[Outcome]
    wall_seconds: float
    cpu_seconds: float

    @property
    def answered(self) -> int:
        """Requests that got their answer."""
        return sum(outcome.status == 200 for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that listens at `url` and writes `log`."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far, which a busy machine does not distort; NaN where there is no /proc."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        except FileNotFoundError:
            return math.nan
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Resident set (Linux)."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()

    def under_load(self, clients: int, seconds: float, requests: Callable[[], bytes]) -> Load:
        """So many clients for so long, each asking again as soon as it is answered. WorkError when it dies or hangs."""
        limit = seconds + DEADLINE_SECONDS + LATE_SECONDS
        cpu, began = self.cpu_seconds, time.monotonic()
        try:
            outcomes = asyncio.run(asyncio.wait_for(closed_loop(self.url, clients, seconds, requests), limit))
        except TimeoutError:
            raise WorkError(f"the server left requests unanswered for {limit:g} s") from None
        except (OSError, EOFError):
            raise WorkError(f"the server hung up: {last_line(self.log)}") from None
        return Load(outcomes, time.monotonic() - began, self.cpu_seconds - cpu)


@contextmanager
def serving(
    folder: Path, threads: int, device: str = "cpu", before: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """Serve a folder of artifacts while the context lasts; `before` starts the command line.

    WorkError when it does not start, with what it said. Side effects: the process, and meanwhile SIGTERM ends this one
    as Ctrl-C does, so that it takes the server along.
    """
    command = [*before, *COMMAND, str(folder), "--port", "0", "--deadline", f"{DEADLINE_SECONDS:g}"]
    command += ["--threads", str(threads), "--device", device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.NamedTemporaryFile(suffix=".log") as log, _leaving_at_sigterm():
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        try:
            yield ServerProcess(process, Path(log.name), _url(process, Path(log.name)))
        finally:
            _end(process)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, once it does."""
    until = time.monotonic() + START_SECONDS
    while process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"serving"' in line and line.endswith("}"):
                return str(json.loads(line)["url"])
        if time.monotonic() > until:
            raise WorkError(f"the server did not start within {START_SECONDS:g} s: {last_line(log)}")
        time.sleep(0.05)
    raise WorkError(f"the server did not start: {last_line(log)}")


def last_line(log: Path) -> str:
    """What a log ends with."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and see to it; a second Ctrl-C does not wait."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()


@contextmanager
def _leaving_at_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit, where it would have left children behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
