"""Rows of a padded batch side by side, group by group of like length, and buffers that outlive a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprompt.lms.prefix import PrefixBatch

KEYS_MULTIPLE = 32
"""Softmax over bfloat16 takes twice to three times as long where a row is not whole vectors."""
SCORES_A_GROUP = 4_000_000
"""Attention scores (utterances x heads x rows x keys) that a group holds: a tenth of it, which would stay in the
cache, loses more to the number of calls than it gains."""
SCORES_A_PIECE = 400_000
"""Attention scores of long utterances that are there at once, so that they stay in the cache."""
SPREAD = 1.2
"""By how much the longest utterance of a group may exceed its shortest."""


@dataclass(frozen=True, slots=True)
class Group:
    """Utterances `rows` (b,) of the batch, `width` rows each, from row `first` of the packed batch on.

    `mask` (1 or b, 1, width, keys) is what attention adds to its scores, 0 or -inf; `keys` counts prefix, rows and
    padding up to a multiple of `KEYS_MULTIPLE`.
    """

    rows: Tensor
    first: int
    width: int
    mask: Tensor

    @property
    def count(self) -> int:
        """Utterances."""
        return len(self.rows)

    @property
    def keys(self) -> int:
        """Keys that a query is compared with."""
        return self.mask.shape[3]

    def rows_of(self, packed: Tensor) -> Tensor:
        """Its part of a packed (T,D) as (b,width,D), a view."""
        part = packed[self.first : self.first + self.count * self.width]
        return part.view(self.count, self.width, -1)

    def of(self, packed: Tensor, heads: int) -> Tensor:
        """Its part of a packed (T,D) as (b,H,width,head_dim), a view."""
        part = packed[self.first : self.first + self.count * self.width]
        return part.view(self.count, self.width, heads, -1).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the rows of a padded batch (B,W,D) lie in a packed one (T,D); `starts` (B,) is each utterance's first."""

    groups: list[Group]
    starts: Tensor
    size: int

    @classmethod
    def of(cls, lengths: Tensor, prefixes: PrefixBatch, heads: int, dtype: torch.dtype) -> Packing:
        """For utterances of `lengths` (B,) rows, their special ones included."""
        order = lengths.argsort(stable=True)
        starts = torch.empty_like(lengths)
        groups: list[Group] = []
        first = 0
        visible = prefixes.visible()
        for place, count, width in _cuts(lengths[order].tolist(), heads, prefixes.length):
            rows = order[place : place + count]
            seen = None if visible is None else visible[rows]
            groups.append(Group(rows, first, width, _mask(width, prefixes.length, seen, dtype)))
            starts[rows] = torch.arange(first, first + count * width, width)
            first += count * width
        return cls(groups, starts, first)

    def order(self) -> Tensor:
        """Where each utterance (B,) lies among those of all groups, one after another."""
        return torch.cat([group.rows for group in self.groups]).argsort()

    def pack(self, x: Tensor) -> Tensor:
        """(B,W,D) -> (T,D)."""
        if len(self.groups) == 1 and self.groups[0].width == x.shape[1]:
            return x[self.groups[0].rows].flatten(0, 1)
        return torch.cat([x[group.rows, : group.width].flatten(0, 1) for group in self.groups])


def _cuts(lengths: list[int], heads: int, prefix: int) -> list[tuple[int, int, int]]:
    """First utterance, count and width of each group of utterances in ascending order of length."""
    cuts: list[tuple[int, int, int]] = []
    first = 0
    for i, length in enumerate(lengths):
        scores = (i + 1 - first) * heads * length * (length + prefix)
        if i > first and (length > SPREAD * lengths[first] + 2 or scores > SCORES_A_GROUP):
            cuts.append((first, i - first, lengths[i - 1]))
            first = i
    return [*cuts, (first, len(lengths) - first, lengths[-1])]


def _mask(width: int, prefix: int, visible: Tensor | None, dtype: torch.dtype) -> Tensor:
    """0 where a query may look, -inf elsewhere: (1 or b, 1, width, keys)."""
    keys = math.ceil((prefix + width) / KEYS_MULTIPLE) * KEYS_MULTIPLE
    mask = torch.full((width, keys), float("-inf"), dtype=dtype).triu_(prefix + 1)[None, None]
    if visible is None:
        return mask
    mask = mask.repeat(len(visible), 1, 1, 1)
    mask[..., :prefix].masked_fill_(~visible[:, None, None], float("-inf"))
    return mask


class Workspace:
    """Named buffers that are kept from step to step: fresh memory costs a quarter of a small matrix product."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int], Tensor] = {}

    def take(self, name: str, layer: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor; the next call with this name and layer gives the same memory."""
        size = math.prod(shape)
        found = self._buffers.get((name, layer))
        if found is None or found.dtype != dtype or len(found) < size:
            with torch.inference_mode(False):  # a buffer made while predicting serves training as well
                found = self._buffers[name, layer] = torch.empty(size + size // 4, dtype=dtype)
        return found[:size].view(shape)

    @property
    def size_bytes(self) -> int:
        """Memory of all buffers."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())
