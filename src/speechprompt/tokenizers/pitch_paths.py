"""What a pitch tracker does along time, for many clips at once: best paths, medians, filling of gaps.

Everything takes (B,T,...) with a validity mask (B,T), and no clip's result depends on its padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STRETCH = 16
"""Frames that a best path is cut into."""


def best_path(local: Tensor, transition: Tensor, valid: Tensor) -> Tensor:
    """The cheapest sequence of candidates, (B,T) int64, over local costs (B,T,C) and transitions (B,T,C,C).

    `transition[:, t, i, j]` is the cost of going from candidate i of frame t-1 to j of frame t. Time is cut into
    blocks of `STRETCH` frames, which run side by side from every candidate before them; then they are joined. Where
    blocks begin depends on no neighbour, so that sums round alike in any batch. Behind a clip's end a path stays
    where it is, at no cost.
    """
    rows, count, candidates = local.shape
    steps = transition + local[:, :, None]
    steps[:, 0] = local[:, 0, None]
    steps = torch.where(valid[..., None, None], steps, _identity(candidates, steps))
    size = STRETCH
    blocks = -(-count // size)
    padded = _identity(candidates, steps).expand(rows, blocks * size - count, -1, -1)
    steps = torch.cat([steps, padded], 1).view(rows * blocks, size, candidates, candidates)
    costs, pointers = _run(steps[:, 0], steps[:, 1:])
    joints, before = _run(steps.new_zeros(rows, 1, candidates), costs.view(rows, blocks, candidates, -1))
    last = joints[:, 0].argmin(-1)
    entries = []
    for pointer in reversed(before):
        entries.append(last)
        last = pointer[:, 0].gather(-1, last[:, None])[:, 0]
    ends = torch.stack(entries[::-1], 1).flatten()
    starts = torch.stack([last, *entries[:0:-1]], 1).flatten()
    path = [ends]
    for pointer in reversed(pointers):
        # each block goes back along the paths that began where the block before it ends
        own = pointer.gather(1, starts[:, None, None].expand(-1, 1, candidates))[:, 0]
        path.append(own.gather(-1, path[-1][:, None])[:, 0])
    return torch.stack(path[::-1], 1).view(rows, blocks * size)[:, :count]


def _identity(candidates: int, like: Tensor) -> Tensor:
    """The matrix of staying: nothing for the same candidate, infinity for another."""
    return torch.full((candidates, candidates), torch.inf, device=like.device).fill_diagonal_(0)


def _run(costs: Tensor, steps: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Cheapest costs from each of S starts (R,S,C) through steps (R,K,C,C), and where each came from."""
    pointers = []
    for k in range(steps.shape[1]):
        cheapest = (costs[..., None] + steps[:, k, None]).min(2)
        costs = cheapest.values
        pointers.append(cheapest.indices)
    return costs, pointers


def median(values: Tensor, width: int) -> Tensor:
    """Running median over `width` (odd) of values (B,T), with zeros beyond the ends."""
    margin = width // 2
    windows = functional.pad(values, (margin, margin)).unfold(1, width, 1)
    return windows.sort(-1).values[..., margin]


def sliding_maximum(values: Tensor, reach: int) -> Tensor:
    """Maximum of values (F,M) over 2 * reach + 1 rows around each, -inf beyond the ends."""
    best, width = functional.pad(values, (0, 0, reach, reach), value=-torch.inf), 1
    while width < 2 * reach + 1:
        step = min(width, 2 * reach + 1 - width)
        best = torch.maximum(best[:-step], best[step:])
        width += step
    return best


def compressed(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen frames of values (B,T,...) moved to the front, and how many there are (B,)."""
    order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)
    counts = chosen.sum(1)
    order = order[:, : max(1, int(counts.max()))]
    shape = (*order.shape, *values.shape[2:])
    index = order.reshape(*order.shape, *[1] * (values.ndim - 2)).expand(shape)
    return values.gather(1, index), counts


def spread(values: Tensor, chosen: Tensor) -> Tensor:
    """The inverse of `compressed`: values (B,V) back at the chosen frames of (B,T), zeros elsewhere."""
    places = (chosen.cumsum(1) - 1).clamp(0, values.shape[1] - 1)
    return torch.where(chosen, values.gather(1, places), 0)


def filled(values: Tensor, known: Tensor) -> Tensor:
    """Straight lines between known frames of (B,T); before the first and after the last, their value."""
    frames = torch.arange(values.shape[1], device=values.device).expand_as(values)
    last = values.shape[1] - 1
    before = torch.where(known, frames, -1).cummax(1).values
    after = torch.where(known, frames, last + 1).flip(1).cummin(1).values.flip(1)
    left, right = before.clamp(min=0), after.clamp(max=last)
    left, right = torch.where(before < 0, right, left), torch.where(after > last, left, right)
    share = (frames - left) / (right - left).clamp(min=1)
    return values.gather(1, left) * (1 - share) + values.gather(1, right) * share


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (B,) of values (B,T) under a mask, 0 where it is empty.

    Summed in double precision: how a row is summed depends on its padding, and its mean must not.
    """
    total = torch.where(mask, values, 0).sum(1, dtype=torch.float64)
    return (total / mask.sum(1).clamp(min=1)).to(values.dtype)
