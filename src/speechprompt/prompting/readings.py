"""What verbalizers read: the LM's heads and state behind an utterance, and what the utterance amounts to as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.prefix import PrefixBatch
from speechprompt.lms.protocol import UnitLM

STATE = "state"
"""The LM's last hidden state (D), read as one of its heads is: more numbers than a small vocabulary has logits."""
MEAN = "mean"
"""The mean (D) over all units, under the prompt, of what the last layer gets: normed states, so no row costs more."""
COUNTS = "counts"
"""How often each unit occurs (unit_count): square roots of the shares, which damp what is said again and again."""
OURS = (STATE, MEAN, COUNTS)
"""Streams that are not heads of the LM."""


@dataclass(frozen=True, slots=True)
class States:
    """An LM's last states for a batch under its prompts.

    `hidden` (B,Q,D) are those at the separator and each answer, `mean` (B,D) and `counts` (B,unit_count) what the
    streams of those names are; None where nobody reads them.
    """

    hidden: Tensor
    mean: Tensor | None = None
    counts: Tensor | None = None

    def of(self, rows: Tensor | slice) -> States:
        """Those of some utterances."""
        mean, counts = (None if x is None else x[rows] for x in (self.mean, self.counts))
        return States(self.hidden[rows], mean, counts)

    def at(self, place: int) -> States:
        """Those at one of the Q places."""
        return replace(self, hidden=self.hidden[:, place : place + 1 or None])

    def heads(self, lm: UnitLM, streams: Iterable[str]) -> dict[str, Tensor]:
        """What verbalizers of some `streams` read, (B,Q,.) each, in fp32; LM heads only where one is named."""
        named = set(streams)
        found = lm.heads_of(self.hidden) if named - set(OURS) else {}
        for name, values in ((MEAN, self.mean), (COUNTS, self.counts)):
            if values is not None and name in named:
                found[name] = values[:, None].expand(-1, self.hidden.shape[1], -1)
        return {**found, STATE: self.hidden.float()} if STATE in named else found


def states_of(
    lm: UnitLM,
    batch: UnitBatch,
    prefixes: PrefixBatch,
    separators: Tensor,
    streams: Iterable[str],
    before: int = 0,
) -> States:
    """Run the LM and keep what some `streams` read; `hidden` begins `before` rows ahead of the separator."""
    named = set(streams)
    counts = unit_counts(batch, lm.unit_count) if COUNTS in named else None
    if MEAN in named:
        return States(*lm.forward_with_mean(batch, prefixes, separators, before), counts)
    return States(lm.forward(batch, prefixes, separators, before), counts=counts)


def unit_counts(batch: UnitBatch, unit_count: int) -> Tensor:
    """The stream `counts` (B,unit_count) of a batch: each row's squares have mean 1."""
    real = torch.arange(batch.unit_ids.shape[1], device=batch.lengths.device) < batch.lengths[:, None]
    shares = real / batch.lengths[:, None].clamp(min=1)
    found = shares.new_zeros(len(batch), unit_count)
    found.scatter_add_(1, torch.where(real, batch.unit_ids, 0), shares)
    return (found * unit_count).sqrt()


def stream_sizes(lm: UnitLM) -> dict[str, int]:
    """How many numbers each stream has: the LM's heads, 'units' first, and then ours."""
    hidden = torch.zeros(1, 1, lm.width, device=lm.device, dtype=lm.dtype)
    heads = {name: logits.shape[-1] for name, logits in lm.heads_of(hidden).items()}
    return {**heads, STATE: lm.width, MEAN: lm.width, COUNTS: lm.unit_count}
