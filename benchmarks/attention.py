"""Fused attention against attention written out, forward and backward, one thread.

    python benchmarks/attention.py

Decides which form `lms/transformer.py:attend` takes where.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from speechprompt.lms.transformer import attend_written_out

SHAPES = ((32, 16, 21, 5, 64), (32, 16, 90, 5, 64), (32, 4, 76, 20, 64))
"""Utterances, heads, rows, prompt length, width of a head."""


def main() -> None:
    """Print milliseconds of both forms, with and without gradients."""
    torch.set_num_threads(1)
    print(f"{'shape':24s} {'dtype':9s} {'gradients':9s} {'fused':>8s} {'written':>8s}  ratio")
    for rows, heads, length, prefix, width in SHAPES:
        mask = torch.ones(length, length + prefix, dtype=torch.bool).tril(prefix)[None, None]
        for dtype in (torch.float32, torch.bfloat16):
            sizes = ((length, width), (length + prefix, width), (length + prefix, width))
            q, k, v = (torch.randn(rows, heads, *size).to(dtype).requires_grad_() for size in sizes)
            for gradients in (True, False):
                fused = milliseconds(
                    lambda q=q, k=k, v=v, m=mask: scaled_dot_product_attention(q, k, v, m), gradients
                )
                written = milliseconds(
                    lambda q=q, k=k, v=v, m=mask: attend_written_out(q, k, v, m), gradients
                )
                name = f"{rows}x{heads}x{length}+{prefix}x{width}"
                kind = str(dtype).removeprefix("torch.")
                print(
                    f"{name:24s} {kind:9s} {gradients!s:9s} {fused:8.1f} {written:8.1f} {fused / written:6.2f}"
                )


def milliseconds(work: Callable[[], Tensor], gradients: bool, repeats: int = 5) -> float:
    """Median CPU milliseconds of an attention call, and of its backward pass if wanted."""
    times = []
    with torch.set_grad_enabled(gradients):
        for _ in range(repeats + 1):
            start = time.process_time()
            out = work()
            if gradients:
                out.sum().backward()
            times.append(time.process_time() - start)
    return 1000 * statistics.median(times[1:])


if __name__ == "__main__":
    main()
