"""Probabilities that mean what they say: a temperature a slot, and a threshold below which to abstain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

TEMPERATURES = torch.logspace(-1, 1, 81).tolist()
"""Searched from 0.1 to 10; a grid, because the likelihood is cheap and need not be smooth on small splits."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperature of each slot, and the least product of scores that counts as an answer (0: never abstain)."""

    temperatures: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.0

    def apply(self, slot: str, log_probabilities: Tensor) -> Tensor:
        """Calibrated probabilities (..., C) from log-probabilities (..., C)."""
        return self.cooled(slot, log_probabilities).exp()

    def cooled(self, slot: str, log_probabilities: Tensor) -> Tensor:
        """Calibrated log-probabilities (..., C), finite where the given ones are."""
        return (log_probabilities.float() / self.temperatures.get(slot, 1.0)).log_softmax(-1)


def fit_temperature(log_probabilities: Tensor, targets: Tensor) -> float:
    """The temperature that makes `targets` (n,) most likely under `log_probabilities` (n,C).

    1.0 when there are fewer than 20 utterances: too few to tell. Source: Guo et al. 2017.
    """
    if len(targets) < 20:
        return 1.0
    scores = log_probabilities.float()
    costs = [
        float(torch.nn.functional.cross_entropy(scores / temperature, targets))
        for temperature in TEMPERATURES
    ]
    return float(TEMPERATURES[min(range(len(costs)), key=costs.__getitem__)])


def threshold_for(
    scores: Tensor, right: Tensor, coverage: float | None = None, error: float | None = None
) -> float:
    """A threshold on `scores` (n,) that answers `coverage` of utterances, or keeps errors among answers at `error`.

    `right` (n,) bool says which answers were right. Without either bound the threshold is 0; an error rate that
    no threshold reaches gives a threshold above every score.
    """
    ordered, order = scores.double().sort(descending=True)
    if coverage is not None:
        kept = max(1, round(coverage * len(ordered)))
        return float(ordered[kept - 1])
    if error is None:
        return 0.0
    mistakes = (~right[order]).float().cumsum(0) / torch.arange(1, len(ordered) + 1)
    ends = torch.cat([ordered[1:] < ordered[:-1], torch.tensor([True])])  # equal scores are answered together
    fine = ((mistakes <= error) & ends).nonzero()
    return float(ordered[int(fine[-1])]) if len(fine) else float(ordered[0]) + 1e-6
