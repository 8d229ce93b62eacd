"""Memory that training holds for an utterance, against its length, and the longest one that a 24 GiB device takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from speechprompt.benchmarking.case import Curve, Figure, Finding
from speechprompt.benchmarking.lm_stages import PROMPT_LENGTH
from speechprompt.benchmarking.material import (
    QUICK_SIZE,
    TRUE_SIZE,
    Settings,
    equal_utterances,
    fresh_run,
    random_lm,
    weight_bytes,
)
from speechprompt.lms.batch import collate
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.losses import label_losses
from speechprompt.prompting.recipes import TrainingOptions

DEVICE_BYTES = 24 * 2**30
LABELS = 12
FRAMES_PER_UNIT = 2.2
"""What Speech Commands' 18 units a second amount to at 50 frames."""


def memory_findings(settings: Settings) -> Iterator[Finding]:
    """For each precision: bytes against units, and the longest utterance by the polynomial through them."""
    sizes = QUICK_SIZE if settings.quick else TRUE_SIZE
    lengths = (16, 32, 64) if settings.quick else (64, 128, 256, 512)
    for dtype in (torch.float32, torch.bfloat16):
        lm = random_lm(sizes, settings.device, dtype)
        held = [held_bytes(lm, length) for length in lengths]
        name = f"GSLM {sizes.layers}x{sizes.width}, {str(dtype).removeprefix('torch.')}"
        yield Curve(
            "memory", name, "units of the utterance", "bytes held for its gradient", lengths, held, lengths
        )
        longest = longest_within(DEVICE_BYTES - weight_bytes(lm), lengths, held)
        yield Figure("memory", f"longest trained utterance on 24 GiB, {name}", longest, "units")
        growth = np.log(held[-1] / held[-2]) / np.log(lengths[-1] / lengths[-2])
        yield Figure(
            "memory", f"power of the length at {lengths[-1]} units, {name}", float(growth), "", most=1.05
        )


def held_bytes(lm: GslmUnitLM, length: int) -> float:
    """Bytes that a training step keeps between its forward and backward pass, weights and prompt excluded."""
    units = equal_utterances(length, 1, lm.unit_count)
    run = fresh_run(lm, units, LABELS, TrainingOptions(batch_size=1, prompt_length=PROMPT_LENGTH))
    known = {p.untyped_storage().data_ptr() for p in (*lm.model.parameters(), *run.entry.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = collate(units).to(lm.device)
    targets = [run.train.targets.to(lm.device)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = label_losses(lm, Bank([run.entry]), batch, torch.zeros_like(batch.lengths), targets)
    total = float(sum(kept.values()))
    losses[0].loss.backward()
    return total


def longest_within(limit: float, lengths: tuple[int, ...], held: list[float]) -> float:
    """The length at which a + b n + c n^2, fitted to what was held, reaches the limit."""
    square, linear, constant = np.polyfit(lengths, held, 2)
    if square * lengths[-1] ** 2 < 1e-3 * held[-1]:
        linear, constant = np.polyfit(lengths, held, 1)
        return float((limit - constant) / linear)
    return float((-linear + np.sqrt(linear**2 + 4 * square * (limit - constant))) / (2 * square))
