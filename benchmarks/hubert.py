"""HuBERT-base to layer 6 against transformers' whole model in fp32 and against the matmul bound.

    python benchmarks/hubert.py [--seconds 1,3,10] [--batch 1] [--threads 1] [--json FILE]

Random weights at true size: they cost what trained ones cost. Seconds are CPU seconds of one thread, or wall seconds
of several; medians of repeated runs, the forms in turns. The bound is the operations of the matrix products over the
rate that a linear layer of that shape reaches in the same run, packed or not, whichever is faster; the
positional convolution counts as what it needs in spectral form, a thirtieth of the direct one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HubertConfig, HubertModel

from speechprompt.tokenizers.hubert_encoder import HubertEncoder
from speechprompt.tokenizers.hubert_files import build
from speechprompt.tokenizers.packed_linear import PackedLinear

LAYER = 6
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Product = tuple[str, int, int, int]
"""Stage, rows, columns in, columns out of one matrix product."""


def main() -> None:
    """Measure every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", default="1,3,10")
    parser.add_argument("--batch", type=int, default=1, help="clips encoded in one call")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    whole, encoders = models()
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    rows = [
        measure(whole, encoders, float(seconds), arguments.batch, arguments.repeats, clock)
        for seconds in arguments.seconds.split(",")
    ]
    print(
        f"{arguments.threads} thread(s), {arguments.batch} clip(s) a call, {platform.machine()}, seconds a clip"
    )
    for row in rows:
        print(", ".join(f"{name} {value:.3g}" for name, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def models() -> tuple[HubertModel, dict[str, HubertEncoder]]:
    """transformers' model of twelve layers, and our encoders of its first six in both precisions."""
    torch.manual_seed(0)
    config = HubertConfig()
    config._attn_implementation = "sdpa"
    whole = HubertModel(config).eval()
    tensors = whole.state_dict()
    encoders = {}
    for name, dtype in DTYPES.items():
        model = build(HubertConfig(num_hidden_layers=LAYER), tensors, "random weights")
        encoders[name] = HubertEncoder(torch.nn.Module.to(model, dtype), False, "published")
    return whole, encoders


def measure(
    whole: HubertModel,
    encoders: dict[str, HubertEncoder],
    seconds: float,
    batch: int,
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Figures of one clip length."""
    random = np.random.default_rng(0)
    clips = [random.standard_normal(round(16_000 * seconds)).astype(np.float32) * 0.1 for _ in range(batch)]
    stacked = torch.from_numpy(np.stack(clips))
    forms: dict[str, Callable[[], Any]] = {"transformers": lambda: whole(stacked)}
    forms |= {name: lambda encoder=encoder: encoder.features(clips) for name, encoder in encoders.items()}
    taken = medians(forms, repeats, clock)
    row = {"clip": seconds, **{name: value / batch for name, value in taken.items()}}
    for name, dtype in DTYPES.items():
        parts = bound(products(encoders[name], len(clips[0]), batch), dtype, clock)
        total = sum(parts.values())
        row |= {
            f"{name} times faster": taken["transformers"] / taken[name],
            f"{name} bound": total / batch,
            f"{name} fraction of the bound": total / taken[name],
        }
    operations = sum(2.0 * m * k * n for _, m, k, n in products(encoders["bf16"], len(clips[0]), 1))
    return {**row, "GFLOP": operations / 1e9}


def medians(
    forms: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds of each form, in turns, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name, form in forms.items():
            start = clock()
            form()
            if turn:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def products(encoder: HubertEncoder, samples: int, clips: int) -> list[Product]:
    """The matrix products of so many clips of one length; attention's two count as one."""
    config: Any = encoder.model.config
    found, rows, channels = [], samples, 1
    for i, (width, kernel, stride) in enumerate(
        zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    ):
        rows = (rows - kernel) // stride + 1
        found += [(f"convolution {i}", rows, kernel * channels, width)] * clips
        channels = width
    width, inner, all_rows = config.hidden_size, config.intermediate_size, rows * clips
    found.append(("projection", all_rows, channels, width))
    # taps + 1 bins for blocks of taps + 1 frames, four real products each
    found.append(("position", 4 * all_rows, width // config.num_conv_pos_embedding_groups, width))
    for _ in range(config.num_hidden_layers):
        found += [("attention", rows, 2 * width, rows)] * clips
        found += [
            (f"{k} to {n}", all_rows, k, n)
            for k, n in ((width, 3 * width), (width, width), (width, inner), (inner, width))
        ]
    return found


def bound(wanted: Sequence[Product], dtype: torch.dtype, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each stage's operations at the rate of a linear layer of its shape."""
    rates: dict[tuple[int, int, int], float] = {}
    seconds: dict[str, float] = {}
    for stage, rows, k, n in wanted:
        # those that are bound by memory are held to the rate of a full product
        shape = (rows, 768, 768) if stage in ("convolution 0", "attention", "position") else (rows, k, n)
        if shape not in rates:
            rates[shape] = matmul_rate(*shape, dtype, clock)
        seconds[stage] = seconds.get(stage, 0.0) + 2.0 * rows * k * n / rates[shape]
    return seconds


def matmul_rate(rows: int, k: int, n: int, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """Operations a second of x (rows,k) W^T (k,n), plain or packed."""
    x, weight = torch.randn(rows, k).to(dtype), torch.randn(n, k).to(dtype)
    packed = PackedLinear(weight, None)
    times = max(1, round(2e9 / (2.0 * rows * k * n)))

    def repeated(product: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(times):
                product(x)

        return run

    plain = repeated(lambda x: torch.nn.functional.linear(x, weight))
    taken = medians({"plain": plain, "packed": repeated(packed)}, 3, clock)
    return 2.0 * rows * k * n * times / min(taken.values())


if __name__ == "__main__":
    main()
