"""LM output distribution -> scores over the labels of each slot. A verbalizer owns the order of labels.

Source: SpeechPrompt v2 section 3.3. `random` and `frequency` give each label a unit; `learnable` is linear over
what it reads (readings.py): the LM's logits, or states and counts of units. Draws here are injective within a slot;
mappings read from the reference may not be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from speechprompt.errors import UsageError
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.readings import States, sizes_of
from speechprompt.prompting.task import Task

SPECIALS = 4
"""Outputs that the reference's learnable verbalizer keeps for `<s>`, `<pad>`, `</s>`, `<unk>`."""
SEPARATOR_OUTPUT, END_OUTPUT = 0, 2


class Verbalizer(nn.Module):
    """What both kinds share: an output vocabulary of which every slot's labels are some columns.

    `columns[slot]` (C,) int64 points into the outputs; `answers[slot]` (C,) int64 are the LM ids fed back to
    the LM when a slot's label is known. `separator` and `end` are the outputs that stand for the separator and
    for `</s>`, in losses and decoding over all outputs. `streams` names the LM's heads or streams of ours
    (readings.py) that are read side by side as one row of logits; V is then their sum. Subclasses say what the
    outputs are.
    """

    streams: tuple[str, ...] = ("units",)

    def __init__(
        self, columns: Mapping[str, Tensor], answers: Mapping[str, Tensor], separator: int, end: int
    ) -> None:
        super().__init__()
        self.separator, self.end = separator, end
        self.slots = tuple(columns)
        for slot in self.slots:
            self.register_buffer(f"columns_{self.slots.index(slot)}", columns[slot])
            self.register_buffer(f"answers_{self.slots.index(slot)}", answers[slot])

    @property
    def can_end(self) -> bool:
        """Whether `<s>` and `</s>` have outputs of their own, not where labels take all of them from 0 on."""
        return all(bool((self.columns(slot) != self.separator).all()) for slot in self.slots)

    def columns(self, slot: str) -> Tensor:
        """Output column of each label (C,)."""
        found: Tensor = getattr(self, f"columns_{self.slots.index(slot)}")
        return found

    def answers(self, slot: str) -> Tensor:
        """LM id that stands for each label (C,)."""
        found: Tensor = getattr(self, f"answers_{self.slots.index(slot)}")
        return found

    def logits(self, heads: Mapping[str, Tensor]) -> Tensor:
        """The row of logits (..., V) that is read of an LM's heads."""
        read = [heads[name] for name in self.streams]
        return read[0] if len(read) == 1 else torch.cat(read, -1)

    def read(self, lm: UnitLM, states: States) -> Tensor:
        """The rows of logits (B,Q,V) that are read of an LM's states."""
        return self.logits(states.heads(lm, self.streams))

    def outputs(self, logits: Tensor) -> Tensor:
        """Scores (..., O) over all outputs from LM logits (..., V)."""
        raise NotImplementedError

    def scores(self, logits: Tensor, slot: str) -> Tensor:
        """Unnormalised scores (..., C) of one slot's labels from LM logits (..., V)."""
        raise NotImplementedError


class FixedVerbalizer(Verbalizer):
    """Each label is a unit; the outputs are the LM's own vocabulary."""

    def __init__(self, units: Mapping[str, Sequence[int]], lm: UnitLM) -> None:
        columns = {slot: lm.lm_ids(torch.tensor(list(chosen))) for slot, chosen in units.items()}
        super().__init__(columns, columns, lm.separator_id, lm.end_id)

    def outputs(self, logits: Tensor) -> Tensor:
        """The LM's logits as they are."""
        return logits

    def scores(self, logits: Tensor, slot: str) -> Tensor:
        """The logits of the labels' units."""
        return logits[..., self.columns(slot)]


class LearnableVerbalizer(Verbalizer):
    """Outputs O = W logits, W (O,V) without bias; `columns` pick each slot's labels among them."""

    def __init__(self, weight: Tensor, columns: Mapping[str, Tensor], answers: Mapping[str, Tensor]) -> None:
        super().__init__(columns, answers, SEPARATOR_OUTPUT, END_OUTPUT)
        self.weight = nn.Parameter(weight)

    def outputs(self, logits: Tensor) -> Tensor:
        """W logits, (..., O)."""
        return nn.functional.linear(logits, self.weight)

    def scores(self, logits: Tensor, slot: str) -> Tensor:
        """The outputs of one slot's labels."""
        return nn.functional.linear(logits, self.weight[self.columns(slot)])


def learnable(
    task: Task, lm: UnitLM, generator: torch.Generator, streams: Sequence[str] = ("units",)
) -> LearnableVerbalizer:
    """A learnable verbalizer with an output a label and slot, drawn as torch's Linear draws, over some streams."""
    columns, first = {}, 0
    for slot, labels in task.slots.items():
        columns[slot] = torch.arange(first, first + len(labels))
        first += len(labels)
    answers = {slot: lm.lm_ids(column % lm.unit_count) for slot, column in columns.items()}
    weight = _linear_weight(first, sum(sizes_of(lm, streams)), generator)
    verbalizer = LearnableVerbalizer(weight, columns, answers)
    verbalizer.streams = tuple(streams)
    return verbalizer


def learnable_as_published(task: Task, lm: UnitLM, generator: torch.Generator) -> LearnableVerbalizer:
    """The reference's form: four outputs for specials, then one a label *text*, shared by slots that use it.

    UsageError when there are more label texts than units, because label i is fed back as unit i.
    """
    texts: dict[str, int] = {}
    for labels in task.slots.values():
        for label in labels:
            texts.setdefault(label, len(texts))
    if len(texts) > lm.unit_count and len(task.slots) > 1:
        raise UsageError(f"{len(texts)} labels do not fit the {lm.unit_count} units that stand for them")
    units = {slot: torch.tensor([texts[x] for x in labels]) for slot, labels in task.slots.items()}
    weight = _linear_weight(SPECIALS + len(texts), lm.vocabulary_size, generator)
    answers = {slot: lm.lm_ids(ids % lm.unit_count) for slot, ids in units.items()}
    return LearnableVerbalizer(weight, {slot: ids + SPECIALS for slot, ids in units.items()}, answers)


def _linear_weight(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    bound = columns**-0.5
    return (torch.rand(rows, columns, generator=generator) * 2 - 1) * bound


def random_units(task: Task, lm: UnitLM, generator: torch.Generator) -> FixedVerbalizer:
    """A distinct random unit for each label of a slot (the reference's draw may collide)."""
    _fits(task, lm)
    units = {
        slot: torch.randperm(lm.unit_count, generator=generator)[: len(labels)].tolist()
        for slot, labels in task.slots.items()
    }
    return FixedVerbalizer(units, lm)


def frequency_units(
    task: Task, lm: UnitLM, unit_counts: Sequence[int], label_counts: Mapping[str, Sequence[int]]
) -> FixedVerbalizer:
    """The k-th most frequent label of a slot gets the k-th most frequent unit of the training split."""
    _fits(task, lm)
    units_by_rank = sorted(range(lm.unit_count), key=lambda unit: (-unit_counts[unit], unit))
    chosen = {}
    for slot, labels in task.slots.items():
        by_rank = sorted(range(len(labels)), key=lambda i, slot=slot: (-label_counts[slot][i], i))  # type: ignore[misc]
        chosen[slot] = [units_by_rank[by_rank.index(i)] for i in range(len(labels))]
    return FixedVerbalizer(chosen, lm)


def _fits(task: Task, lm: UnitLM) -> None:
    for slot, labels in task.slots.items():
        if len(labels) > lm.unit_count:
            raise UsageError(
                f"slot '{slot}' has {len(labels)} labels but the LM only {lm.unit_count} units; "
                "use the learnable verbalizer"
            )
