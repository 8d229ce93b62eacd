"""What every unit LM offers to prompts, whatever its architecture."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.prefix import PrefixBatch


@runtime_checkable
class UnitLM(Protocol):
    """A frozen causal LM over units.

    `vocabulary_size` V counts the special ids; tokenizer units are 0..unit_count-1. `embedding_scale` is what
    the LM multiplies its embeddings by. `fingerprint` identifies weights and dictionary, whatever the dtype they
    are computed in. All tensors of a call lie on `device`.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    unit_count: int
    max_units: int
    separator_id: int
    end_id: int
    embedding_scale: float

    @property
    def fingerprint(self) -> str:
        """Hash of weights and dictionary."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are computed in."""
        ...

    def lm_ids(self, unit_ids: Tensor) -> Tensor:
        """LM ids of tokenizer units, any shape."""
        ...

    def project_prefix(self, keys: Tensor, values: Tensor) -> Tensor:
        """Send raw vectors (L,P,D) through the frozen key and value projections: a prefix.

        UsageError where the architecture does not say where those are.
        """
        ...

    def input_prefix(self, vectors: Tensor) -> Tensor:
        """The prefix that rows of input vectors (P,D) in front of every utterance amount to."""
        ...

    def embedding(self, lm_ids: Tensor) -> Tensor:
        """The unscaled embeddings (..., D) of LM ids: where a separator may start from."""
        ...

    def forward(
        self, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor, before: int = 0
    ) -> Tensor:
        """Hidden states (B, before+1+J, D): rows before the separator (trained vectors (B,D)), it, J answers."""
        ...

    def forward_with_mean(
        self, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor, before: int = 0
    ) -> tuple[Tensor, Tensor]:
        """`forward`, and the mean (B,D) in fp32 of each utterance's units as the last layer gets them.

        Each unit's state is first normed to mean 0 and variance 1. Nothing is computed for it that `forward` would not.
        """
        ...

    def unit_states(self, batch: UnitBatch) -> Tensor:
        """Last hidden states (B,N,D) of the units of an unprompted batch (padding rows are meaningless)."""
        ...

    def key_value_inputs(self, batch: UnitBatch) -> Tensor:
        """What the key and value projections of every layer read, at each unit: (L,B,N,D). UsageError as above."""
        ...

    def unit_key_values(self, batch: UnitBatch) -> Tensor:
        """Keys and values of every layer at each unit of an unprompted batch: (L,2,B,kv_heads,N,head_dim)."""
        ...

    def heads_of(self, hidden: Tensor) -> dict[str, Tensor]:
        """Named logits of hidden states (..., D): 'units' (..., V), and further streams where the LM has them."""
        ...

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> UnitLM:
        """The same LM elsewhere or in another precision; the fingerprint stays."""
        ...
