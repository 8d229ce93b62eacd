"""Sizes and schedule of a unit LM, with or without prosody; no torch, so that a command line can read them."""

from __future__ import annotations

from dataclasses import dataclass

from speechprompt.errors import UsageError


@dataclass(frozen=True, slots=True)
class UnitLmOptions:
    """Sizes and schedule of a unit LM.

    `inner` is the feed-forward width; `batch_units` how many units an update sees; utterances over
    `max_units` are cut. `bf16`: compute in bfloat16 under fp32 weights, on
    processors that multiply it in hardware.
    """

    layers: int = 6
    width: int = 256
    heads: int = 4
    inner: int = 1024
    max_units: int = 1024
    steps: int = 1000
    batch_units: int = 8192
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    save_every: int = 200
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("layers", "width", "heads", "inner", "max_units", "steps", "batch_units", "save_every")
        for name in positive:
            if getattr(self, name) < 1:
                raise UsageError(
                    f"pretraining option '{name}' must be at least 1 (got {getattr(self, name)})"
                )
        if self.width % self.heads or self.width % 2:
            raise UsageError(f"a width of {self.width} does not divide into {self.heads} heads, or is odd")


@dataclass(frozen=True, slots=True)
class ProsodicLmOptions(UnitLmOptions):
    """Sizes and schedule as of a unit LM, and what is made of prosody.

    A stream that is not read (`reads_duration`, `reads_f0`) is neither input nor target: an LM without both is a
    unit LM of the same size. `prosody_weight` is the weight of a stream's loss beside the units'.
    """

    reads_duration: bool = True
    reads_f0: bool = True
    max_duration: int = 20
    f0_bins: int = 32
    prosody_weight: float = 0.5

    def __post_init__(self) -> None:
        UnitLmOptions.__post_init__(self)  # a slots dataclass is another class than the one super() means
        for name, least in (("max_duration", 1), ("f0_bins", 3)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"pretraining option '{name}' must be at least {least} (got {getattr(self, name)})"
                )
        if not 0 <= self.prosody_weight < float("inf"):
            raise UsageError(
                f"pretraining option 'prosody_weight' must not be negative (got {self.prosody_weight})"
            )
