"""Scores of every slot for a batch of units in which each row may belong to another task.

A function of LM, bank and UnitBatch, and nothing else: training, evaluation, prediction and serving call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.prefix import PrefixBatch
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank, TaskPrompt


@dataclass(frozen=True, slots=True)
class EntryScores:
    """Scores of one bank entry: `rows` (b,) are its rows of the batch, `slots[slot]` (b,C) log-probabilities."""

    entry: int
    rows: Tensor
    slots: Mapping[str, Tensor]


def classify(lm: UnitLM, bank: Bank, batch: UnitBatch, rows: Tensor) -> list[EntryScores]:
    """Log-probabilities over the labels of every slot, for each entry that the batch uses.

    `rows` (B,) int64 names the bank entry of each row. Autoregressive entries feed back their best label,
    chosen among the slot's labels (constrained decoding).
    """
    prefixes, separators = bank.prefixes(lm, rows), bank.separators(rows)
    entries = [_Reader(k, bank.entries[k], (rows == k).nonzero()[:, 0]) for k in rows.unique().tolist()]
    steps = max(reader.steps for reader in entries)
    answers = batch.unit_ids.new_zeros(len(rows), 0)
    for step in range(steps):
        logits = _logits(lm, batch.with_answers(answers), prefixes, separators)
        fed_back = batch.unit_ids.new_zeros(len(rows), 1)
        for reader in entries:
            if step < reader.steps:
                fed_back[reader.rows, 0] = reader.read(logits[reader.rows], step)
        answers = torch.cat([answers, fed_back], 1)
    return [EntryScores(reader.index, reader.rows, reader.slots) for reader in entries]


def _logits(lm: UnitLM, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor) -> Tensor:
    """Unit logits (B,V) at the last answer, or at the separator when there is none."""
    hidden = lm.forward(batch, prefixes, separators)
    return lm.heads_of(hidden[:, -1])["units"]


class _Reader:
    """Collects one entry's scores, slot by slot or all at once."""

    def __init__(self, index: int, entry: TaskPrompt, rows: Tensor) -> None:
        self.index, self.rows = index, rows
        self.verbalizer = entry.verbalizer
        self.at_once = entry.decoding == "parallel"
        self.steps = 1 if self.at_once else len(self.verbalizer.slots)
        self.slots: dict[str, Tensor] = {}

    def read(self, logits: Tensor, step: int) -> Tensor:
        """Take the scores of a step from logits (b,V); the LM ids (b,) to feed back."""
        chosen = self.verbalizer.slots if self.at_once else self.verbalizer.slots[step : step + 1]
        for slot in chosen:
            self.slots[slot] = self.verbalizer.scores(logits, slot).log_softmax(-1)
        best = self.slots[chosen[-1]].argmax(-1)
        return self.verbalizer.answers(chosen[-1])[best]


def decode_freely(
    lm: UnitLM, bank: Bank, batch: UnitBatch, entry: int = 0, limit: int | None = None
) -> list[list[int]]:
    """Greedy decoding over all outputs of the verbalizer, the reference's way: label units until `</s>`.

    Returns the LM ids after the separator, without the end. By default it stops as soon as the answer can no
    longer be a label string (slots + 1 steps); `limit` asks for more.
    """
    verbalizer = bank.entries[entry].verbalizer
    rows = torch.full_like(batch.lengths, entry)
    prefixes, separators = bank.prefixes(lm, rows), bank.separators(rows)
    answers = batch.unit_ids.new_zeros(len(rows), 0)
    decoded: list[list[int]] = [[] for _ in rows]
    open_rows = set(range(len(rows)))
    for _ in range(limit or len(verbalizer.slots) + 1):
        best = verbalizer.outputs(_logits(lm, batch.with_answers(answers), prefixes, separators)).argmax(-1)
        open_rows = {i for i in open_rows if int(best[i]) != verbalizer.end}
        if not open_rows:
            break
        for i in open_rows:
            decoded[i].append(int(best[i]))
        answers = torch.cat([answers, best[:, None]], 1)
    return decoded
