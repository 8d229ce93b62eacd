"""What a pitch tracker does along time, for many clips at once: best paths, medians, filling of gaps.

Everything takes (B,T,...) with a validity mask (B,T), paths their candidates first, so that frames lie side by side in
memory. No clip's result depends on its padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STRETCH = 16
"""Frames that a best path is cut into."""

FAR = 1e9
"""The cost of a way that is not to be gone."""


def best_path(local: Tensor, transition: Tensor, valid: Tensor) -> Tensor:
    """The cheapest sequence of candidates, (B,T) int64, over local costs (C,B,T) and transitions (C,C,B,T) from 0 on.

    `transition[i, j, :, t]` is the cost of going from candidate i of frame t-1 to j of frame t. Time is cut into
    blocks of `STRETCH` frames, which run side by side from every candidate before them; then they are joined. Where
    blocks begin depends on no neighbour, so that sums round alike in any batch. Behind a clip's end a path stays
    where it is, at no cost.
    """
    candidates, rows, count = local.shape
    local = local - local.amin(0)
    steps = transition + local
    steps[..., 0] = local[..., 0]
    stay = (FAR - FAR * torch.eye(candidates, device=local.device))[..., None, None]
    steps.mul_(valid).add_(stay * ~valid)
    blocks = -(-count // STRETCH)
    missing = stay.expand(-1, -1, rows, blocks * STRETCH - count)
    steps = torch.cat([steps, missing], -1).view(candidates, candidates, rows * blocks, STRETCH)
    steps = steps.permute(3, 0, 1, 2).contiguous()
    costs, pointers = _run(steps[0].transpose(0, 1), steps[1:])
    joining = costs.view(candidates, candidates, rows, blocks).permute(3, 1, 0, 2)
    joints, before = _run(costs.new_zeros(candidates, 1, rows), joining)
    last, entries = joints[:, 0].argmin(0), []
    for pointer in reversed(before):
        entries.append(last)
        last = pointer[:, 0].gather(0, last[None])[0].long()
    ends = torch.stack(entries[::-1], 1).flatten()
    starts = torch.stack([last, *entries[:0:-1]], 1).flatten()
    path = [ends]
    for pointer in reversed(pointers):
        # each block goes back along the paths that began where the block before it ends
        own = pointer.gather(1, starts.expand(candidates, 1, -1))[:, 0]
        path.append(own.gather(0, path[-1][None])[0].long())
    return torch.stack(path[::-1], 1).view(rows, blocks * STRETCH)[:, :count]


def _run(costs: Tensor, steps: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Cheapest costs from each of S starts (C,S,R) through steps (K,C,C,R), and where each came from.

    Floats from 0 on are ordered as their bits are: the last three bits give way to the candidate's number, so that
    each minimum brings its own. Ten times faster than a minimum with indices, and as exact but for 2^-20.
    """
    pointers, digits = [], (1 << (len(costs) - 1).bit_length()) - 1
    numbers = torch.arange(len(costs), dtype=torch.int32, device=costs.device)[:, None, None, None]
    for step in steps:
        ways = (costs[:, None] + step[:, :, None]).view(torch.int32)
        cheapest = ways.bitwise_and_(~digits).bitwise_or_(numbers).amin(0)
        pointers.append(cheapest & digits)
        costs = cheapest.bitwise_and_(~digits).view(torch.float32)
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
