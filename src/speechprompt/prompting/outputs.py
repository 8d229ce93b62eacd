"""What a prompt says of examples: log-probabilities of labels, and states at the separator; over every hearing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprompt.lms.batch import collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank, TaskPrompt
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.run import Examples
from speechprompt.speech.buckets import length_buckets

BATCH_ROWS = 128


@dataclass(frozen=True, slots=True)
class Outputs:
    """Of examples in their order, on the CPU: log-probabilities (n,C) of every slot, states (n,D) at the separator."""

    scores: Mapping[str, Tensor]
    hidden: Tensor


@torch.no_grad()
def outputs_of(lm: UnitLM, entry: TaskPrompt, examples: Examples) -> Outputs:
    """Run a prompt over examples, heard once."""
    bank = Bank([entry]).fold(lm)
    scores = {slot: torch.empty(len(examples), len(labels)) for slot, labels in entry.task.slots.items()}
    hidden = torch.empty(len(examples), lm.width)
    for indices in length_buckets([len(units) for units in examples.units], BATCH_ROWS, None):
        batch = collate([examples.units[i] for i in indices]).to(lm.device)
        found = classify(lm, bank, batch, torch.zeros_like(batch.lengths))[0]
        hidden[indices] = found.hidden.float().cpu()
        for slot, values in found.slots.items():
            scores[slot][indices] = values.float().cpu()
    return Outputs(scores, hidden)


def heard_outputs(lm: UnitLM, entry: TaskPrompt, examples: Examples) -> list[Outputs]:
    """The same for every hearing: as the examples were recorded, then each of their answer copies."""
    return [outputs_of(lm, entry, one) for one in examples.hearings()]


def mean_scores(heard: Sequence[Outputs]) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot: the mean over hearings, normalised again where there are several."""
    if len(heard) == 1:
        return dict(heard[0].scores)
    return {
        slot: torch.stack([one.scores[slot] for one in heard]).mean(0).log_softmax(1)
        for slot in heard[0].scores
    }


def scores_of(lm: UnitLM, entry: TaskPrompt, examples: Examples) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot for examples, in their order, on the CPU: the mean over their hearings."""
    return mean_scores(heard_outputs(lm, entry, examples))
