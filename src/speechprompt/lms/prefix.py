"""The one place where a prompt enters attention.

A *prefix* is what attention sees of a prompt: a tensor (L, 2, kv_heads, P, head_dim) of keys (index 0) and
values (index 1) in front of every row's own. A `PrefixBatch` holds the prefixes of K prompts and says which
one each row of a batch uses; it offers the `update` of a transformers cache, so that any causal LM reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class PrefixBatch:
    """Prefixes of K prompts, gathered per row.

    Shapes: `stacked` (L,2,K,kv_heads,P,head_dim), left-padded with zeros to the longest; `lengths` (K,) int64;
    `rows` (B,) int64, the prompt of each row; `shifts` (K,) int64, by how much unit positions move. `in_order` says
    that `rows` counts 0, 1, 2, ..., so that nothing needs gathering.
    """

    stacked: Tensor
    lengths: Tensor
    rows: Tensor
    shifts: Tensor | None = None
    in_order: bool = False

    @property
    def length(self) -> int:
        """P, the longest prefix of the batch."""
        return self.stacked.shape[4]

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Put each row's prefix in front of its keys and values (B,kv_heads,N,head_dim)."""
        prefix_keys, prefix_values = self.of_layer(layer)
        return torch.cat([prefix_keys, keys], 2), torch.cat([prefix_values, values], 2)

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B,kv_heads,P,head_dim) of one layer, a view when all rows share one prompt."""
        keys, values = self.stacked[layer]
        if len(keys) == 1:
            shape = (len(self.rows), *keys.shape[1:])
            return keys.expand(shape), values.expand(shape)
        if self.in_order:
            return keys, values
        return keys[self.rows], values[self.rows]

    def of_rows(self, layer: int, kind: int, rows: Tensor) -> Tensor:
        """Keys (kind 0) or values (1) of a layer for the rows (b,) of the batch, (1 or b, kv_heads, P, head_dim)."""
        stacked = self.stacked[layer, kind]
        return stacked if len(stacked) == 1 else stacked[self.rows[rows]]

    def visible(self) -> Tensor | None:
        """Which prefix positions a row may look at, (B,P) bool; None when all of them."""
        if len(self.lengths) == 1 or bool((self.lengths == self.length).all()):
            return None
        columns = torch.arange(self.length, device=self.lengths.device)
        return columns >= (self.length - self.lengths[self.rows])[:, None]

    def row_shifts(self) -> Tensor | None:
        """Position shift of each row (B,), or None when no prompt shifts positions."""
        return None if self.shifts is None else self.shifts[self.rows]


def stack_prefixes(
    prefixes: Sequence[Tensor], rows: Tensor, shifted: Sequence[bool] | None = None, in_order: bool = False
) -> PrefixBatch:
    """Stack prefixes (L,2,kv_heads,P_k,head_dim) of any lengths for a batch whose row i uses prompt rows[i]."""
    longest = max(prefix.shape[3] for prefix in prefixes)
    padded = [
        prefix if prefix.shape[3] == longest else functional.pad(prefix, (0, 0, longest - prefix.shape[3], 0))
        for prefix in prefixes
    ]
    lengths = torch.tensor([prefix.shape[3] for prefix in prefixes], device=rows.device)
    shifts = None
    if shifted is not None and any(shifted):
        shifts = lengths * torch.tensor(list(shifted), device=rows.device)
    return PrefixBatch(torch.stack(padded, 2), lengths, rows, shifts, in_order)


def attention_mask(query_rows: Tensor, width: int, prefix: PrefixBatch | None) -> Tensor | None:
    """Who sees whom: bool (1 or B, 1, Q, P+N), or None where plain causal attention is the same thing.

    `query_rows` (Q,) or (B,Q) are the positions, among N = `width`, of the queries. Rows are right-padded, so
    the causal rule alone keeps padding out; every query sees all of its own prefix.
    """
    plain = query_rows.ndim == 1 and len(query_rows) == width
    prefix_length = 0 if prefix is None else prefix.length
    if plain and prefix_length == 0:
        return None
    if query_rows.ndim == 1:
        query_rows = query_rows[None]
    causal = torch.arange(width, device=query_rows.device) <= query_rows[..., None]
    if prefix is None or prefix_length == 0:
        return causal[:, None]
    visible = prefix.visible()
    if visible is None:
        front = causal.new_ones(*causal.shape[:2], prefix_length)
    else:
        front = visible[:, None].expand(-1, causal.shape[1], -1)
        causal = causal.expand(len(front), -1, -1)
    return torch.cat([front, causal], 2)[:, None]
