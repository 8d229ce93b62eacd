"""The prompts of K tasks, side by side: kept apart as trained or as folded, stacked for each batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from speechprompt.lms.prefix import PrefixBatch, stack_prefixes
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.domain import Domain
from speechprompt.prompting.kinds import Decoding
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import Verbalizer


class BankEntry(Protocol):
    """What a bank needs of a prompt, in training and folded."""

    @property
    def task(self) -> Task:
        """What is asked."""
        ...

    @property
    def verbalizer(self) -> Verbalizer:
        """How LM outputs become labels."""
        ...

    @property
    def decoding(self) -> Decoding:
        """Slots at once, or one after another."""
        ...

    @property
    def shifts_positions(self) -> bool:
        """Whether unit positions move by P."""
        ...

    @property
    def separator(self) -> Tensor:
        """The separator's vector (D,)."""
        ...

    def prefix(self, lm: UnitLM) -> Tensor:
        """Keys and values that attention sees, (L,2,kv_heads,P,head_dim) in the LM's dtype."""
        ...

    def fold(self, lm: UnitLM) -> FoldedPrompt:
        """What inference needs of it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FoldedPrompt:
    """A prompt as inference sees it: its prefix, separator and verbalizer, and no trained vectors besides.

    Shapes: `keys_values` (L,2,kv_heads,P,head_dim) in the dtype of the LM that folded it, `separator` (D,).
    Nothing changes it, so threads may share it and a bank may be a plain list of any of them. `temperatures` are those
    that a member of an ensemble has of its own, before the mean.
    """

    task: Task
    keys_values: Tensor
    separator: Tensor
    verbalizer: Verbalizer
    decoding: Decoding = "parallel"
    shifts_positions: bool = False
    domain: Domain | None = None
    temperatures: Mapping[str, float] = field(default_factory=dict)

    def prefix(self, lm: UnitLM) -> Tensor:
        """The prefix, as it was folded."""
        return self.keys_values

    def fold(self, lm: UnitLM) -> FoldedPrompt:
        """Itself."""
        return self

    @property
    def size_bytes(self) -> int:
        """Bytes of prefix, separator and verbalizer."""
        tensors = [self.keys_values, self.separator, *self.verbalizer.state_dict().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class TaskPrompt(nn.Module):
    """All that is trained for one task, and how its slots are read.

    `decoding` parallel: every slot at the separator; autoregressive: a slot, then its unit, then the next.
    `shifts_positions`: unit positions move by P (peft's rule); the paper's do not.
    """

    def __init__(
        self,
        task: Task,
        prompt: Prompt,
        verbalizer: Verbalizer,
        decoding: Decoding = "parallel",
        shifts_positions: bool = False,
    ) -> None:
        super().__init__()
        self.task, self.prompt, self.verbalizer = task, prompt, verbalizer
        self.decoding, self.shifts_positions = decoding, shifts_positions

    @property
    def separator(self) -> Tensor:
        """The separator's vector (D,)."""
        return self.prompt.separator

    def prefix(self, lm: UnitLM) -> Tensor:
        """The prefix that the vectors of this moment fold to; gradients reach them."""
        return self.prompt.prefix(lm)

    @torch.no_grad()
    def fold(self, lm: UnitLM) -> FoldedPrompt:
        """A copy for inference, which further training leaves as it is."""
        return FoldedPrompt(
            self.task,
            self.prompt.prefix(lm).detach().clone(),
            self.prompt.separator.detach().clone(),
            copy.deepcopy(self.verbalizer).requires_grad_(False),
            self.decoding,
            self.shifts_positions,
        )

    def reading(self, verbalizer: Verbalizer) -> TaskPrompt:
        """The same prompt (not a copy) under another verbalizer."""
        return TaskPrompt(self.task, self.prompt, verbalizer, self.decoding, self.shifts_positions)

    def trained_parameters(self) -> int:
        """How many numbers training changes."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


Entry = TypeVar("Entry", bound=BankEntry, covariant=True)


class Bank(Generic[Entry]):
    """K prompts over one frozen LM, of which a batch names one a row.

    Unfolded ones are folded anew for every batch, so that gradients reach their vectors; `fold` gives a bank that
    no longer pays for that.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries: tuple[Entry, ...] = tuple(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def fold(self, lm: UnitLM) -> Bank[FoldedPrompt]:
        """The same bank for inference."""
        return Bank([entry.fold(lm) for entry in self.entries])

    def prefixes(self, lm: UnitLM, rows: Tensor) -> PrefixBatch:
        """The prefixes that a batch needs; `rows` (B,) says which entry each row uses."""
        used, local = torch.unique(rows, return_inverse=True)
        chosen = used.tolist()
        if len(chosen) > 1 and not torch.is_grad_enabled():
            # stacked a row at once, which copies less than stacking a prompt each and gathering in every layer
            prefix = {k: self.entries[k].prefix(lm) for k in chosen}
            chosen, places = rows.tolist(), torch.arange(len(rows), device=rows.device)
            shifted = [self.entries[k].shifts_positions for k in chosen]
            return stack_prefixes([prefix[k] for k in chosen], places, shifted, in_order=True)
        return self.stack([self.entries[k].prefix(lm) for k in chosen], local, chosen)

    def stack(self, folded: Sequence[Tensor], local: Tensor, chosen: Sequence[int]) -> PrefixBatch:
        """A batch of given prefixes, of the entries `chosen`; `local` (B,) points into them."""
        return stack_prefixes(folded, local, [self.entries[k].shifts_positions for k in chosen])

    def separators(self, rows: Tensor) -> Tensor:
        """The separator vector of each row (B,D)."""
        used, local = torch.unique(rows, return_inverse=True)
        stacked = torch.stack([self.entries[k].separator for k in used.tolist()])
        return stacked.to(rows.device)[local]
