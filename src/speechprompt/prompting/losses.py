"""What training minimises: cross-entropy over labels (recipe `default`) or the reference's loss (`paper`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank, TaskPrompt
from speechprompt.prompting.prompt import drop
from speechprompt.prompting.readings import States, states_of


@dataclass(frozen=True, slots=True)
class Dropouts:
    """Rates while training, and the generator that draws one entry's masks (None: the global one)."""

    prompt: float = 0.0
    verbalizer: float = 0.0
    generator: torch.Generator | None = None


@dataclass(frozen=True, slots=True)
class EntryLoss:
    """One entry's share of a batch: `loss` to differentiate, and how many of its `count` rows are right."""

    loss: Tensor
    correct: Tensor
    count: int


def label_losses(
    lm: UnitLM,
    bank: Bank[TaskPrompt],
    batch: UnitBatch,
    rows: Tensor,
    targets: list[Tensor],
    smoothing: list[float] | None = None,
    dropouts: list[Dropouts] | None = None,
) -> list[EntryLoss]:
    """Mean cross-entropy over the C labels of each slot, at the separator (and at fed-back labels).

    `rows` (B,) names each row's entry; `targets[k]` (b_k, S) are the label indices of entry k's rows in order.
    Returns a loss an entry, each a mean over its own rows, so that joint training equals separate training.
    """
    dropouts, smoothing = dropouts or [Dropouts()] * len(bank), smoothing or [0.0] * len(bank)
    places = [(rows == k).nonzero()[:, 0] for k in range(len(bank))]
    states = _states(lm, bank, batch, rows, places, targets, dropouts)
    losses = []
    for k, entry in enumerate(bank.entries):
        steps = [0] * len(entry.task.slots)
        if entry.decoding == "autoregressive":
            steps = list(range(len(steps)))
        total = states.hidden.new_zeros((), dtype=torch.float32)
        right = torch.ones_like(places[k], dtype=torch.bool)
        for s, slot in enumerate(entry.task.slots):
            logits = entry.verbalizer.read(lm, states.of(places[k]).at(steps[s]))[:, 0]
            scores = drop(
                entry.verbalizer.scores(logits, slot), dropouts[k].verbalizer, dropouts[k].generator
            )
            total = total + functional.cross_entropy(scores, targets[k][:, s], label_smoothing=smoothing[k])
            right &= scores.detach().argmax(-1) == targets[k][:, s]
        losses.append(EntryLoss(total, right.sum(), len(places[k])))
    return losses


def _states(
    lm: UnitLM,
    bank: Bank[TaskPrompt],
    batch: UnitBatch,
    rows: Tensor,
    places: list[Tensor],
    targets: list[Tensor],
    dropouts: list[Dropouts],
) -> States:
    """States at the separator and, where an entry is autoregressive, at its fed-back labels."""
    folded = [
        entry.prompt.prefix(lm, d.prompt, d.generator)
        for entry, d in zip(bank.entries, dropouts, strict=True)
    ]
    prefixes = bank.stack(folded, rows, range(len(bank)))
    chained = [
        k for k, e in enumerate(bank.entries) if e.decoding == "autoregressive" and len(e.task.slots) > 1
    ]
    if chained:
        width = max(len(bank.entries[k].task.slots) for k in chained) - 1
        answers = batch.unit_ids.new_full((len(rows), width), lm.end_id)
        for k in chained:
            fed = answer_ids(bank.entries[k], targets[k])[:, :-1]
            answers[places[k], : fed.shape[1]] = fed
        batch = batch.with_answers(answers)
    streams = {name for entry in bank.entries for name in entry.verbalizer.streams}
    return states_of(lm, batch, prefixes, bank.separators(rows), streams)


def answer_ids(entry: TaskPrompt, targets: Tensor) -> Tensor:
    """LM ids (b,S) that stand for the labels (b,S) of an entry."""
    columns = [
        entry.verbalizer.answers(slot).to(targets.device)[targets[:, s]]
        for s, slot in enumerate(entry.task.slots)
    ]
    return torch.stack(columns, 1)


def published_loss(
    lm: UnitLM, entry: TaskPrompt, batch: UnitBatch, targets: Tensor, dropouts: Dropouts | None = None
) -> tuple[Tensor, int]:
    """The reference's loss: summed nats on separator, labels and `</s>`, and its divisor.

    The cross-entropy runs over all outputs (V, or C+4 for a learnable verbalizer). The divisor counts every
    target of the batch, units included. `targets` (B,S). Source: cross_entropy_prompt of the reference code.
    """
    dropouts = dropouts or Dropouts()
    bank = Bank([entry])
    rows = torch.zeros_like(batch.lengths)
    prefix = entry.prompt.prefix(lm, dropouts.prompt, dropouts.generator)
    answers = answer_ids(entry, targets)
    states = states_of(
        lm,
        batch.with_answers(answers),
        bank.stack([prefix], rows, [0]),
        bank.separators(rows),
        entry.verbalizer.streams,
        before=1,
    )
    outputs = drop(
        entry.verbalizer.outputs(entry.verbalizer.read(lm, states)),
        dropouts.verbalizer,
        dropouts.generator,
    )
    columns = [
        entry.verbalizer.columns(slot).to(targets.device)[targets[:, s]]
        for s, slot in enumerate(entry.task.slots)
    ]
    first, last = (torch.full_like(columns[0], x) for x in (entry.verbalizer.separator, entry.verbalizer.end))
    wanted = torch.stack([first, *columns, last], 1)
    nats = functional.cross_entropy(outputs.flatten(0, 1), wanted.flatten(), reduction="sum")
    return nats, int(batch.lengths.sum()) + wanted.numel()
