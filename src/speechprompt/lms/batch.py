"""Units of several utterances as one right-padded batch of streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from speechprompt.speech.units import Units

STREAMS = ("unit_ids", "lengths", "durations", "f0", "answers")


@dataclass(frozen=True, slots=True)
class UnitBatch:
    """What a unit LM reads.

    Shapes: `unit_ids` (B,N) int64 tokenizer ids, right-padded with anything; `lengths` (B,) int64;
    `durations` (B,N) int64 frames or None; `f0` (B,N) or None. `answers` (B,J) int64: LM ids that follow
    the separator of every row (labels fed back while training or decoding autoregressively); J may be 0.
    Stream shifts, the start and separator rows and positions are the LM adapter's, never seen here.
    """

    unit_ids: Tensor
    lengths: Tensor
    durations: Tensor | None = None
    f0: Tensor | None = None
    answers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def with_answers(self, answers: Tensor | None) -> UnitBatch:
        """The same utterances with other units (B,J) after the separator."""
        return replace(self, answers=answers)

    def rows(self, chosen: Tensor) -> UnitBatch:
        """The batch of some rows (b,) int64, in that order; padding that none of them needs stays."""
        kept = {name: value[chosen] for name in STREAMS if (value := getattr(self, name)) is not None}
        return replace(self, **kept)

    def to(self, device: torch.device | str) -> UnitBatch:
        """The same batch on another device."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name in STREAMS
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


def collate(rows: Sequence[Units]) -> UnitBatch:
    """Pad utterances into one batch. A stream is kept when every row has it."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    width = int(lengths.max()) if len(rows) else 0

    def padded(streams: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
        out = torch.zeros(len(rows), width, dtype=dtype)
        for i, stream in enumerate(streams):
            out[i, : len(stream)] = torch.from_numpy(np.ascontiguousarray(stream))
        return out

    durations = [row.durations for row in rows if row.durations is not None]
    f0 = [row.f0 for row in rows if row.f0 is not None]
    return UnitBatch(
        unit_ids=padded([row.ids for row in rows], torch.int64),
        lengths=lengths,
        durations=padded(durations, torch.int64) if rows and len(durations) == len(rows) else None,
        f0=padded(f0, torch.float32) if rows and len(f0) == len(rows) else None,
    )
