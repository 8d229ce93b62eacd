"""Where the phonemes of a clip lie, when only their order is known: the best path through a model's guesses.

Knows log-probabilities and ids; knows no audio, no model and no manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

_NEVER = -1e9


@torch.no_grad()
def align(
    guesses: Sequence[Tensor], orders: Sequence[Sequence[int]], silence: int
) -> tuple[list[NDArray[np.int16]], list[float]]:
    """The phoneme of every frame of clips that say `orders`, silence before, after and nowhere else.

    `guesses`: log-probabilities (T,P) of a clip's frames, on any device; every phoneme has a frame or more, silence
    may have none. Returns ids (T,) a clip, and the mean log-probability of its frames on that path; a clip of
    fewer frames than phonemes gets `silence` everywhere and minus infinity.
    """
    if not guesses:
        return [], []
    device = guesses[0].device
    states = [torch.tensor([silence, *order, silence], device=device) for order in orders]
    counts = torch.tensor([len(row) for row in states], device=device)
    lengths = torch.tensor([len(row) for row in guesses], device=device)
    names = pad_sequence(states, batch_first=True, padding_value=silence)
    scores = pad_sequence([row.float() for row in guesses], batch_first=True)
    costs = scores.gather(2, names[:, None].expand(-1, scores.shape[1], -1))
    places = torch.arange(names.shape[1], device=device)
    costs = costs.masked_fill((places >= counts[:, None])[:, None], _NEVER)
    best = costs[:, 0].masked_fill(places > 1, _NEVER)
    came, ends = [], [best]
    for t in range(1, scores.shape[1]):
        onward = torch.nn.functional.pad(best, (1, 0), value=_NEVER)[:, :-1]
        moved = onward > best
        best = torch.where(moved, onward, best) + costs[:, t]
        came.append(moved)
        ends.append(best)
    rows = torch.arange(len(states), device=device)
    final = torch.stack(ends, 1)[rows, lengths - 1]
    last, before = final[rows, counts - 1], final[rows, counts - 2]
    place = torch.where(last > before, counts - 1, counts - 2)
    totals = torch.maximum(last, before) / lengths
    path = [place]
    for t in range(scores.shape[1] - 2, -1, -1):
        # frames behind a clip's end are on no path
        back = came[t][rows, place] & (t + 1 < lengths)
        place = torch.where(t + 1 < lengths, place - back.long(), path[0])
        path.append(place)
    ids = names.gather(1, torch.stack(path[::-1], 1)).cpu().numpy().astype(np.int16)
    fits = [
        float(total) if len(order) <= len(row) and total > _NEVER / 2 else -np.inf
        for total, order, row in zip(totals.tolist(), orders, guesses, strict=True)
    ]
    rows_of = zip(ids, guesses, fits, strict=True)
    return [
        row[: len(g)].copy() if np.isfinite(fit) else np.full(len(g), silence, np.int16)
        for row, g, fit in rows_of
    ], fits
