"""The server: the bundled spoken LM behind `speechprompt serve`, asked by one client and by several at once."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from speechprompt.benchmarking.case import BOUND, NAIVE, OURS, Figure, Finding, Row
from speechprompt.benchmarking.clock import Clock
from speechprompt.benchmarking.load import Requests, milliseconds
from speechprompt.benchmarking.material import Settings, demo_clips, dtype_of, untaught_artifact
from speechprompt.benchmarking.server_process import Load, ServerProcess, serving
from speechprompt.benchmarking.sound_stages import audio_file
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.predictor import Predictor
from speechprompt.speech.unit_cache import UnitCache
from speechprompt.spoken_lm import SpokenLM

CLIENTS = (1, 8)
CLIPS = 32
TASK = "prompt"
Clips = Sequence[NDArray[np.float32]]


class ServerWork:
    """One prompt on `tiny`, behind a server and in the library, in the same dtype and with as many threads.

    A request carries a clip as a WAV file over a kept connection on this machine and asks one task; none comes twice.
    """

    def __init__(self, settings: Settings, clock: Clock, artifact: Path, server: ServerProcess) -> None:
        self.spoken_lm = SpokenLM.load("tiny", settings.device, "auto")
        self.settings, self.server = settings, server
        self.predictor = Predictor(
            self.spoken_lm, [artifact], cache=UnitCache(0)
        )  # the same clips in every turn
        self.in_cpu_seconds = clock.measure == "CPU seconds" and not math.isnan(server.cpu_seconds)
        self.wall = "" if self.in_cpu_seconds or clock.measure == "wall seconds" else ", wall time"
        self.load_seconds = 0.3 if settings.quick else 3.0

    def findings(self, seconds: float) -> Iterator[Finding]:
        """Rows and latencies for clips of one length; the naive form asks one clip at a time, so nothing is batched."""
        rate = self.spoken_lm.tokenizer.sample_rate
        clips = demo_clips(seconds, 8 if self.settings.quick else CLIPS, rate)
        requests = Requests([audio_file(clip, rate, "WAV", "PCM_16") for clip in clips], [TASK])
        self.server.under_load(max(CLIENTS), self.load_seconds / 3, requests)  # warm
        one_at_a_time: float | None = None
        lost = 0
        for clients in CLIENTS:
            loads, rates = self._in_turns(clients, clips, requests)
            if one_at_a_time is not None:
                rates[NAIVE] = one_at_a_time
            one_at_a_time = rates[OURS]
            title = f"{clients} client{'s' * (clients > 1)}, clips of {seconds:g} s"
            yield self._row(title, rates)
            yield from _figures(title, loads)
            lost += sum(len(load.outcomes) - load.answered for load in loads)
        yield Figure("server", f"not answered, clips of {seconds:g} s", lost, "requests", most=0)

    def _in_turns(
        self, clients: int, clips: Clips, requests: Callable[[], bytes]
    ) -> tuple[list[Load], dict[str, float]]:
        """Loads on the server with the library's turns between them, and the median rates of both."""
        loads, served, alone = [], [], []
        self._library_rate(clips, clients)  # warm
        for _ in range(self.settings.repeats):
            load = self.server.under_load(clients, self.load_seconds, requests)
            seconds = max(load.cpu_seconds, 1e-2) if self.in_cpu_seconds else load.wall_seconds
            loads.append(load)
            served.append(load.answered / seconds)
            alone.append(self._library_rate(clips, clients))
        return loads, {OURS: statistics.median(served), BOUND: statistics.median(alone)}

    def _library_rate(self, clips: Clips, batch: int) -> float:
        """Clips a second through the predictor, in batches of as many as there are clients."""
        now = time.process_time if self.in_cpu_seconds else time.perf_counter
        began = now()
        for start in range(0, len(clips), batch):
            self.predictor.predict(clips[start : start + batch])
        return len(clips) / (now() - began)

    def _row(self, title: str, rates: dict[str, float]) -> Row:
        lm = self.spoken_lm.lm
        assert isinstance(lm, GslmUnitLM)
        name = f"{self.spoken_lm.name}, {title}{self.wall}"
        return Row("server", name, "requests", dtype_of(lm), rates, {}, 0.0, None, 0.0, "the library alone")


def _figures(title: str, loads: Sequence[Load]) -> Iterator[Figure]:
    """What clients see, by the clock on the wall, over all turns."""
    outcomes = [outcome for load in loads for outcome in load.outcomes]
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        yield Figure("server", f"latency {name}, {title}", milliseconds(outcomes, part), "ms")
    rate = sum(load.answered for load in loads) / sum(load.wall_seconds for load in loads)
    yield Figure("server", f"answered a second of wall time, {title}", rate, "requests")


def server_findings(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Clips of one and of three seconds. The bound is the library's predictor on the same clips: no HTTP, no files.

    In the clock's seconds, those of the server's process where they are CPU seconds; on a GPU in wall time. WorkError
    when the server does not start or stops answering. Side effects: a server while it lasts.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "prompts"
        artifact, _ = untaught_artifact(folder / TASK, Path(scratch) / "units")
        with serving(folder, torch.get_num_threads(), settings.device) as server:
            work = ServerWork(settings, clock, artifact, server)
            for seconds in (0.5,) if settings.quick else (1.0, 3.0):
                yield from work.findings(seconds)
