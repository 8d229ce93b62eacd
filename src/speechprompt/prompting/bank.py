"""The prompts of K tasks, side by side: kept apart as trained, stacked for each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechprompt.lms.prefix import PrefixBatch, stack_prefixes
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.kinds import Decoding
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import Verbalizer


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

    def trained_parameters(self) -> int:
        """How many numbers training changes."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @torch.no_grad()
    def folded(self, lm: UnitLM) -> TaskPrompt:
        """The same task prompt, holding the prefix that it folds to on `lm` instead of what was trained."""
        prompt = Prompt("after_projection", self.prompt.prefix(lm).detach(), self.prompt.separator.detach())
        return TaskPrompt(self.task, prompt, self.verbalizer, self.decoding, self.shifts_positions)


class Bank:
    """K task prompts over one frozen LM.

    Prefixes are folded once and kept while nothing trains (`fold`); while training they are recomputed, so that
    gradients reach the vectors.
    """

    def __init__(self, entries: Sequence[TaskPrompt]) -> None:
        self.entries = list(entries)
        self._folded: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @torch.no_grad()
    def fold(self, lm: UnitLM) -> Bank:
        """Keep every prompt's prefix, for inference."""
        self._folded = [entry.prompt.prefix(lm).detach() for entry in self.entries]
        return self

    def prefixes(self, lm: UnitLM, rows: Tensor) -> PrefixBatch:
        """The prefixes that a batch needs; `rows` (B,) says which entry each row uses."""
        used, local = torch.unique(rows, return_inverse=True)
        chosen = used.tolist()
        if self._folded is not None and not torch.is_grad_enabled():
            folded = [self._folded[k] for k in chosen]
        else:
            folded = [self.entries[k].prompt.prefix(lm) for k in chosen]
        return self.stack(folded, local, chosen)

    def stack(self, folded: Sequence[Tensor], local: Tensor, chosen: Sequence[int]) -> PrefixBatch:
        """A batch of given prefixes, of the entries `chosen`; `local` (B,) points into them."""
        return stack_prefixes(folded, local, [self.entries[k].shifts_positions for k in chosen])

    def separators(self, rows: Tensor) -> Tensor:
        """The separator vector of each row (B,D)."""
        used, local = torch.unique(rows, return_inverse=True)
        stacked = torch.stack([self.entries[k].prompt.separator for k in used.tolist()])
        return stacked.to(rows.device)[local]
