"""The form that attention takes, against torch's fused kernel and against attention written out.

Decides which of both `lms/transformer.py` takes where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from speechprompt.benchmarking.case import OURS, Case, Dtype
from speechprompt.benchmarking.clock import Form
from speechprompt.benchmarking.material import Settings
from speechprompt.benchmarking.products import Product
from speechprompt.lms.transformer import attend, attend_written_out

SHAPES = ((32, 16, 21, 5, 64), (32, 16, 90, 5, 64), (32, 4, 76, 20, 64))
"""Utterances, heads, rows, prompt length, width of a head: GSLM on both corpora, a small LM."""
QUICK_SHAPES = ((2, 2, 5, 3, 8),)
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
FORMS: dict[str, Attend] = {
    OURS: attend,
    "fused": scaled_dot_product_attention,
    "written out": attend_written_out,
}


def attention_cases(settings: Settings) -> Iterator[Case]:
    """Each shape and precision, with and without the backward pass."""
    for shape in QUICK_SHAPES if settings.quick else SHAPES:
        rows, heads, length, prefix, width = shape
        mask = torch.ones(length, length + prefix, dtype=torch.bool, device=settings.device).tril(prefix)[
            None, None
        ]
        products = [
            Product(length, width, length + prefix, batch=rows * heads),
            Product(length, length + prefix, width, batch=rows * heads),
        ]
        for dtype in get_args(Dtype):
            sizes = (length, length + prefix, length + prefix)
            generator = torch.Generator().manual_seed(0)
            q, k, v = (torch.randn(rows, heads, n, width, generator=generator) for n in sizes)
            parts = [x.to(settings.device, getattr(torch, dtype)).requires_grad_() for x in (q, k, v)]
            for backward in (True, False):
                forms = {name: Form(_work(form, parts, mask, backward), rows) for name, form in FORMS.items()}
                needed = [product.times(3 if backward else 1) for product in products]
                title = f"{rows} x {heads} heads x {length}+{prefix} rows x {width}, {dtype}"
                title += ", forward and backward" if backward else ", forward"
                yield Case("attention", title, "utterances", forms, needed, dtype=dtype)


def _work(form: Attend, parts: list[Tensor], mask: Tensor, backward: bool) -> Callable[[], object]:
    def work() -> None:
        with torch.set_grad_enabled(backward):
            out = form(*parts, mask)  # type: ignore[call-arg]
            if backward:
                torch.autograd.grad(out.sum(), parts)

    return work
