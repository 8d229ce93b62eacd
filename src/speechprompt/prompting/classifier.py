"""Scores of every slot for a batch of units in which each row may belong to another task.

A function of LM, bank and UnitBatch, and nothing else: training, evaluation, prediction and serving call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank, BankEntry
from speechprompt.prompting.readings import states_of


@dataclass(frozen=True, slots=True)
class EntryScores:
    """Scores of one bank entry: `rows` (b,) are its rows of the batch, `slots[slot]` (b,C) log-probabilities.

    `hidden` (b,D) is what the LM makes of each utterance under the prompt: its state at the separator.
    """

    entry: int
    rows: Tensor
    slots: Mapping[str, Tensor]
    hidden: Tensor


def classify(lm: UnitLM, bank: Bank[BankEntry], batch: UnitBatch, rows: Tensor) -> list[EntryScores]:
    """Log-probabilities over the labels of every slot, for each entry that the batch uses.

    `rows` (B,) int64 names the bank entry of each row. Autoregressive entries feed back their best label,
    chosen among the slot's labels (constrained decoding); rows that are answered take no part in further steps.
    """
    readers = [_Reader(k, bank.entries[k], (rows == k).nonzero()[:, 0]) for k in rows.unique().tolist()]
    _read(lm, bank, batch, rows, readers)
    open_readers, step = [reader for reader in readers if reader.steps > 1], 1
    while open_readers:
        kept = torch.cat([reader.rows for reader in open_readers])
        answers = torch.cat([torch.stack(reader.fed_back, 1) for reader in open_readers])
        part = batch.rows(kept).with_answers(answers)
        _read(lm, bank, part, rows[kept], open_readers, step)
        step += 1
        open_readers = [reader for reader in open_readers if reader.steps > step]
    return [EntryScores(reader.index, reader.rows, reader.slots, reader.hidden) for reader in readers]


def _read(
    lm: UnitLM,
    bank: Bank[BankEntry],
    batch: UnitBatch,
    rows: Tensor,
    readers: list[_Reader],
    step: int = 0,
) -> None:
    """Run one step; the batch's rows are all of them, or those of the readers in turn."""
    streams = {name for reader in readers for name in reader.verbalizer.streams}
    states = states_of(lm, batch, bank.prefixes(lm, rows), bank.separators(rows), streams).at(-1)
    heads = states.heads(lm, streams)
    first = 0
    for reader in readers:
        places: Tensor | slice = reader.rows if step == 0 else slice(first, first + len(reader.rows))
        first += len(reader.rows)
        if step == 0:
            reader.hidden = states.hidden[places, 0]
        reader.read({name: logits[places, 0] for name, logits in heads.items()}, step)


class _Reader:
    """Collects one entry's scores, slot by slot or all at once."""

    hidden: Tensor

    def __init__(self, index: int, entry: BankEntry, rows: Tensor) -> None:
        self.index, self.rows = index, rows
        self.verbalizer = entry.verbalizer
        self.at_once = entry.decoding == "parallel"
        self.steps = 1 if self.at_once else len(self.verbalizer.slots)
        self.slots: dict[str, Tensor] = {}
        self.fed_back: list[Tensor] = []

    def read(self, heads: Mapping[str, Tensor], step: int) -> None:
        """Take the scores of a step from named logits (b,V), and the LM ids (b,) to feed back where a slot is left."""
        logits = self.verbalizer.logits(heads)
        chosen = self.verbalizer.slots if self.at_once else self.verbalizer.slots[step : step + 1]
        for slot in chosen:
            self.slots[slot] = self.verbalizer.scores(logits, slot).log_softmax(-1)
        if step + 1 < self.steps:
            best = self.slots[chosen[-1]].argmax(-1)
            self.fed_back.append(self.verbalizer.answers(chosen[-1])[best])


def decode_freely(
    lm: UnitLM, bank: Bank[BankEntry], batch: UnitBatch, entry: int = 0, limit: int | None = None
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
        states = states_of(lm, batch.with_answers(answers), prefixes, separators, verbalizer.streams).at(-1)
        best = verbalizer.outputs(verbalizer.read(lm, states))[:, 0].argmax(-1)
        open_rows = {i for i in open_rows if int(best[i]) != verbalizer.end}
        if not open_rows:
            break
        for i in open_rows:
            decoded[i].append(int(best[i]))
        answers = torch.cat([answers, best[:, None]], 1)
    return decoded
