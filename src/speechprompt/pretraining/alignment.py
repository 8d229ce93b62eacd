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
    fewer frames than phonemes gets `silence` everywhere and minus infinity, whatever its order costs to place.
    """
    if not guesses:
        return [], []
    device = guesses[0].device
    fits = [len(order) <= len(row) for order, row in zip(orders, guesses, strict=True)]
    said = [order if fit else () for order, fit in zip(orders, fits, strict=True)]
    states = [torch.tensor([silence, *order, silence], device=device) for order in said]
    counts = torch.tensor([len(row) for row in states], device=device)
    lengths = torch.tensor([len(row) for row in guesses], device=device)
    names = pad_sequence(states, batch_first=True, padding_value=silence)
    scores = pad_sequence([row.float() for row in guesses], batch_first=True)
    costs = scores.gather(2, names[:, None].expand(-1, scores.shape[1], -1))
    behind = torch.arange(names.shape[1], device=device) >= counts[:, None]
    path, totals = _best_path(costs.masked_fill(behind[:, None], _NEVER), lengths, counts)
    ids = names.gather(1, path).cpu().numpy().astype(np.int16)
    means = (totals / lengths).tolist()
    return (
        [row[: len(clip)].copy() for row, clip in zip(ids, guesses, strict=True)],
        [mean if fit else -np.inf for mean, fit in zip(means, fits, strict=True)],
    )


def _best_path(costs: Tensor, lengths: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """States (B,T) that begin with the first or second, end with the last or the one before, and skip none.

    `costs` (B,T,S): log-probability of each of a clip's `counts` states in each of its `lengths` frames. Returns the
    sums on the paths (B,), too; frames behind a clip's end are on no path and repeat its last state.
    """
    best = costs[:, 0].clone()
    best[:, 2:] = _NEVER
    moves, ends = [], [best]
    for frame in costs[:, 1:].unbind(1):
        onward = torch.nn.functional.pad(best, (1, 0), value=_NEVER)[:, :-1]
        moves.append(onward > best)
        best = torch.maximum(onward, best) + frame
        ends.append(best)
    rows = torch.arange(len(costs), device=costs.device)
    final = torch.stack(ends, 1)[rows, lengths - 1]
    last, before = final[rows, counts - 1], final[rows, counts - 2]
    state = torch.where(last > before, counts - 1, counts - 2)
    path = [state]
    for t in range(len(moves), 0, -1):
        state = state - (moves[t - 1][rows, state] & (t < lengths)).long()
        path.append(state)
    return torch.stack(path[::-1], 1), torch.maximum(last, before)
