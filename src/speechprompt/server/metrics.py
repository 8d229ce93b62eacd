"""What a server counts, for Prometheus. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "speechprompt_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "speechprompt_request_seconds",
            "Request to response",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch_rows = Histogram(
            "speechprompt_batch_rows", "Rows in a batch", ["stage"], buckets=ROWS, registry=self.registry
        )
        self._stage_seconds = Histogram(
            "speechprompt_stage_seconds",
            "Time of a batch waiting and working",
            ["stage", "phase"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._answers = Counter(
            "speechprompt_answers", "Answers given, by task", ["task"], registry=self.registry
        )

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        Gauge(f"speechprompt_{name}", about, registry=self.registry).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def batch(self, stage: str, rows: int, waited_seconds: float, work_seconds: float) -> None:
        """A stage worked on a batch."""
        self._batch_rows.labels(stage).observe(rows)
        self._stage_seconds.labels(stage, "waiting").observe(waited_seconds)
        self._stage_seconds.labels(stage, "working").observe(work_seconds)

    def answered(self, task: str) -> None:
        """A task gave an answer."""
        self._answers.labels(task).inc()

    def forget(self, task: str) -> None:
        """A task is gone, and its series with it."""
        if (task,) in self._answers._metrics:
            self._answers.remove(task)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
