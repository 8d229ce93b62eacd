"""What every unit tokenizer offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from speechprompt.speech.units import Units

Precision = Literal["float32", "bfloat16"]
"""What an encoder multiplies in."""
Waveform = NDArray[np.float32]
"""Mono samples (S,) at the tokenizer's `sample_rate`, nominally in [-1, 1]."""


@runtime_checkable
class UnitTokenizer(Protocol):
    """Waveform -> deduplicated units with durations.

    `sample_rate` in Hz, `frame_rate` in frames per second, ids in 0..unit_count-1. `fingerprint` identifies
    weights, layer, centres and arithmetic exactly. A clip's units never depend on its neighbours in a batch:
    `encode_batch(ws)[i] == encode(ws[i])`. A clip shorter than one frame raises AudioError.
    """

    name: str
    fingerprint: str
    sample_rate: int
    frame_rate: float
    unit_count: int

    def encode(self, waveform: Waveform) -> Units:
        """Units of one waveform."""
        ...

    def encode_batch(self, waveforms: Sequence[Waveform]) -> list[Units]:
        """Units of several waveforms, each as if alone."""
        ...


def precision_of(tokenizer: UnitTokenizer) -> Precision:
    """What a tokenizer multiplies in: its `precision` where it has one, else fp32."""
    found: Precision = getattr(tokenizer, "precision", "float32")
    return found
