"""What a pitch tracker does along time, for many clips at once: best paths, medians, filling of gaps.

Everything takes (B,T,...) with a validity mask (B,T), and no clip's result depends on its padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def best_path(local: Tensor, transition: Tensor, valid: Tensor) -> Tensor:
    """The cheapest sequence of candidates, (B,T) int64, over local costs (B,T,C) and transitions (B,T,C,C).

    `transition[:, t, i, j]` is the cost of going from candidate i of frame t-1 to j of frame t. All prefixes and
    all suffixes are added up in log2(T) steps of (min, +) products: a frame's candidate is the one through which
    the cheapest whole path leads.
    """
    steps = transition + local[:, :, None]
    candidates = local.shape[-1]
    inside = valid & functional.pad(valid, (1, 0))[:, :-1]
    identity = torch.full((candidates, candidates), torch.inf, device=local.device).fill_diagonal_(0)
    steps = torch.where(inside[:, :, None, None], steps, identity)
    first = torch.where(valid[:, :1], local[:, 0], 0)[:, None, :, None]
    forward = (first + _prefixes(steps)).amin(2)
    after = functional.pad(steps[:, 1:], (0, 0, 0, 0, 0, 1))
    after[:, -1] = identity
    backward = _prefixes(after.flip(1).transpose(2, 3)).flip(1).amin(2)
    return (forward + backward).argmin(-1)


def _prefixes(matrices: Tensor) -> Tensor:
    """Products m_0 m_1 ... m_t in (min, +) of matrices (B,T,C,C), for every t."""
    reach = 1
    while reach < matrices.shape[1]:
        earlier, later = matrices[:, :-reach], matrices[:, reach:]
        joined = (earlier[..., None] + later[..., None, :, :]).amin(-2)
        matrices = torch.cat([matrices[:, :reach], joined], 1)
        reach *= 2
    return matrices


def median(values: Tensor, width: int) -> Tensor:
    """Running median over `width` (odd) of values (B,T), with zeros beyond the ends."""
    margin = width // 2
    windows = functional.pad(values, (margin, margin)).unfold(1, width, 1)
    return windows.sort(-1).values[..., margin]


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
    """Mean (B,) of values (B,T) under a mask, 0 where it is empty."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)
