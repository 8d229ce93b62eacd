"""Phonemes whose order is known are placed where a model's guesses say, and nowhere out of order."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from speechprompt.pretraining.alignment import align


def _guesses(frames: int, phonemes: int, seed: int) -> Tensor:
    scores = torch.randn(frames, phonemes, generator=torch.Generator().manual_seed(seed)) * 3
    return scores.log_softmax(-1)


def _best_of_all(guesses: Tensor, order: list[int]) -> tuple[list[int], float]:
    """Every way to place an order, silence around it or not, tried one by one."""
    best, found = -np.inf, []
    frames = len(guesses)
    for silent in ((0, 0), (1, 0), (0, 1), (1, 1)):
        states = [*([0] if silent[0] else []), *order, *([0] if silent[1] else [])]
        for cuts in combinations(range(1, frames), len(states) - 1):
            lengths = np.diff([0, *cuts, frames])
            path = np.repeat(states, lengths).tolist()
            score = float(guesses[torch.arange(frames), torch.tensor(path)].mean())
            if score > best:
                best, found = score, path
    return found, best


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_ways_to_place_an_order(seed: int) -> None:
    clips = [_guesses(frames, 5, 10 * seed + frames) for frames in (7, 4, 9)]
    orders = [[3, 1, 3], [2], [4, 4, 2]]
    paths, fits = align(clips, orders, 0)
    for guesses, order, path, fit in zip(clips, orders, paths, fits, strict=True):
        expected, best = _best_of_all(guesses, order)
        assert path.tolist() == expected
        assert fit == pytest.approx(best, abs=1e-5)


def test_a_clip_of_its_own_is_placed_as_among_others() -> None:
    clips = [_guesses(frames, 6, frames) for frames in (5, 30, 12)]
    orders = [[1, 2], [5, 4, 3, 2, 1], [3]]
    together, fits = align(clips, orders, 0)
    for clip, order, path, fit in zip(clips, orders, together, fits, strict=True):
        [alone], [own] = align([clip], [order], 0)
        assert alone.tolist() == path.tolist()
        assert own == pytest.approx(fit)


def test_a_clip_too_short_for_its_phonemes_fits_nowhere() -> None:
    [short, exact], [bad, good] = align([_guesses(2, 5, 0), _guesses(3, 5, 1)], [[1, 2, 3], [1, 2, 3]], 0)
    assert bad == -np.inf
    assert short.tolist() == [0, 0]
    assert exact.tolist() == [1, 2, 3]
    assert np.isfinite(good)


def test_an_order_that_cannot_fit_costs_nothing() -> None:
    guesses = _guesses(3, 5, 0)
    [path, other], [fit, own] = align([guesses, guesses], [[1] * 10_000_000, [2]], 0)
    assert (path.tolist(), fit) == ([0, 0, 0], -np.inf)
    assert other.tolist() == align([guesses], [[2]], 0)[0][0].tolist()
    assert np.isfinite(own)


def test_nothing_to_place() -> None:
    assert align([], [], 0) == ([], [])
