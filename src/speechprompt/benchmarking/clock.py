"""Seconds of pieces of work taken in turns, and what the machine does at most: matrix products and copies.

One thread of a CPU is measured in CPU seconds, which other processes disturb least; several threads in wall time; a
GPU with its own events.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from speechprompt.benchmarking.products import Product

SHORTEST_SECONDS = 2e-3
"""A product that takes less is repeated, so that what calling it costs does not count as the product's time."""
COPY_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Form:
    """One way of doing a stage's work: a call that handles `amount` of it. `once`: too slow to warm up or repeat."""

    run: Callable[[], object]
    amount: float
    once: bool = False


class Clock:
    """Times work on one device."""

    def __init__(self, device: str, repeats: int, quick: bool = False) -> None:
        self.device, self.repeats, self.quick = torch.device(device), repeats, quick
        self._now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    @property
    def measure(self) -> str:
        """What its seconds are."""
        if self.device.type == "cuda":
            return "seconds of the device"
        return "CPU seconds" if self._now is time.process_time else "wall seconds"

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one call."""
        if self.device.type != "cuda":
            start = self._now()
            work()
            return self._now() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        stream = torch.cuda.current_stream(self.device)  # not that of cuda:0
        first.record(stream)
        work()
        last.record(stream)
        torch.cuda.synchronize(self.device)
        return float(first.elapsed_time(last)) / 1e3

    def in_turns(self, forms: Mapping[str, Form]) -> dict[str, float]:
        """Median seconds of a call of each form: each warmed up, then all of them in every round."""
        for form in forms.values():
            if not form.once:
                form.run()
        times: dict[str, list[float]] = {name: [] for name in forms}
        for turn in range(self.repeats):
            for name, form in forms.items():
                if turn == 0 or not form.once:
                    times[name].append(self.seconds(form.run))
        return {name: statistics.median(taken) for name, taken in times.items()}

    def product_seconds(self, products: Iterable[Product], dtype: str) -> float:
        """Seconds that products take on their own, each shape measured once: a linear layer, or a batch of products."""
        counts: dict[tuple[int, int, int, int], float] = {}
        for product in products:
            shape = (product.batch, product.rows, product.inner, product.columns)
            counts[shape] = counts.get(shape, 0.0) + product.count
        return sum(count * self._one_product(shape, getattr(torch, dtype)) for shape, count in counts.items())

    @torch.inference_mode()
    def _one_product(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> float:
        batch, rows, inner, columns = shape
        if batch == 1:
            left = torch.randn(rows, inner, device=self.device).to(dtype)
            weight = torch.randn(columns, inner, device=self.device).to(dtype)

            def work() -> object:
                return functional.linear(left, weight)
        else:
            left = torch.randn(batch, rows, inner, device=self.device).to(dtype)
            right = torch.randn(batch, inner, columns, device=self.device).to(dtype)

            def work() -> object:
                return torch.bmm(left, right)

        work()
        calls = max(1, round(SHORTEST_SECONDS / max(self.seconds(work), 1e-7)))
        return min(self._mean_of(work, calls) for _ in range(max(2, self.repeats)))

    def _mean_of(self, work: Callable[[], object], calls: int) -> float:
        def several() -> None:
            for _ in range(calls):  # results are dropped at once: keeping them would time fresh memory too
                work()

        return self.seconds(several) / calls

    @torch.inference_mode()
    def bandwidth(self) -> float:
        """Bytes a second that a copy reads and writes, of a block that no cache holds."""
        size = COPY_BYTES // 64 if self.quick else COPY_BYTES
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        target.copy_(source)
        return (
            2.0 * size / min(self.seconds(lambda: target.copy_(source)) for _ in range(max(3, self.repeats)))
        )
