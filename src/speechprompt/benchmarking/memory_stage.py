"""Memory that a training step takes for an utterance, against its length, and the longest one that 24 GiB take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
from speechprompt.lms.frozen import forget_buffers
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.losses import label_losses
from speechprompt.prompting.recipes import TrainingOptions

DEVICE_BYTES = 24 * 2**30
LABELS = 12


def memory_findings(settings: Settings) -> Iterator[Finding]:
    """For each precision: bytes against units, and the longest utterance by the polynomial through them."""
    sizes = QUICK_SIZE if settings.quick else TRUE_SIZE
    lengths = (16, 32, 64) if settings.quick else (64, 128, 256, 512)
    for dtype in (torch.float32, torch.bfloat16):
        lm = random_lm(sizes, settings.device, dtype)
        held = [step_bytes(lm, length) for length in lengths]
        name = f"GSLM {sizes.layers}x{sizes.width}, {str(dtype).removeprefix('torch.')}"
        yield Curve(
            "memory", name, "units of the utterance", "bytes of a training step", lengths, held, lengths
        )
        longest = longest_within(DEVICE_BYTES - weight_bytes(lm), lengths, held)
        yield Figure("memory", f"longest trained utterance on 24 GiB, {name}", longest, "units")
        growth = np.log(held[-1] / held[-2]) / np.log(lengths[-1] / lengths[-2])
        yield Figure(
            "memory", f"power of the length at {lengths[-1]} units, {name}", float(growth), "", most=1.05
        )


def step_bytes(lm: GslmUnitLM, length: int) -> float:
    """The most bytes of tensors that a forward and a backward pass have at once, weights and prompt excluded."""
    units = equal_utterances(length, 1, lm.unit_count)
    run = fresh_run(lm, units, LABELS, TrainingOptions(batch_size=1, prompt_length=PROMPT_LENGTH))
    batch, targets = collate(units).to(lm.device), [run.train.targets.to(lm.device)]
    rows = torch.zeros_like(batch.lengths)
    forget_buffers()
    with LiveBytes([*lm.model.parameters(), *run.entry.parameters()]) as live:
        label_losses(lm, Bank([run.entry]), batch, rows, targets)[0].loss.backward()
    return float(live.most)


class LiveBytes(TorchDispatchMode):
    """Watches every tensor that is made inside it: `most` is what all of them held at the worst moment."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._known = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in known}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and note its results."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self._known:
                    self._alive[reference.cdata] = reference, storage.nbytes()
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return out


def longest_within(limit: float, lengths: tuple[int, ...], held: list[float]) -> float:
    """The length at which a + b n + c n^2, fitted to what was held, reaches the limit."""
    square, linear, constant = np.polyfit(lengths, held, 2)
    if square * lengths[-1] ** 2 < 1e-3 * held[-1]:
        linear, constant = np.polyfit(lengths, held, 1)
        return float((limit - constant) / linear)
    return float((-linear + np.sqrt(linear**2 + 4 * square * (limit - constant))) / (2 * square))
