"""How far a clip is from what a prompt was trained on: Mahalanobis distance of its state at the separator.

Chosen by measurement (LOG.md, 2026-11-25): the LM's bits a unit tell digits from other speech and sounds at an
AUROC of .04 to .72, this distance at .90 to 1.0. The covariance is kept as its strongest directions and one
variance for all others, which costs an artifact 10 kB instead of 150.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 16
MOST_MEANS = 32
"""Groups with a mean of their own; where there are more, all share one."""
FITTED_ON = 2048
"""Training utterances that are looked at."""
QUANTILE = 0.95
FEWEST = 40
"""Utterances below which nothing is fitted."""


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """Means (M,D) and directions (D,r) in half precision, variances (r+1,) fp32: the last is of all other directions.

    `limit` is the distance that 95 of 100 validation utterances stay below.
    """

    means: Tensor
    directions: Tensor
    variances: Tensor
    limit: float

    def distances(self, hidden: Tensor) -> Tensor:
        """Distance of states (b,D) to the nearest mean, in units of `limit`: (b,), above 1 is unusual."""
        return self._raw(hidden) / self.limit

    def _raw(self, hidden: Tensor) -> Tensor:
        offsets = hidden.float()[:, None] - self.means.float()  # (b,M,D)
        along = offsets @ self.directions.float()
        rest = (offsets.square().sum(-1) - along.square().sum(-1)).clamp(min=0)
        squared = (along.square() / self.variances[:-1]).sum(-1) + rest / self.variances[-1]
        return squared.min(1).values.sqrt()

    def to(self, device: torch.device | str) -> Domain:
        """The same on a device: where the states are that it is asked about."""
        means, directions, variances = (x.to(device) for x in (self.means, self.directions, self.variances))
        return Domain(means, directions, variances, self.limit)

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, by name."""
        return {
            "means": self.means,
            "directions": self.directions,
            "variances": self.variances,
            "limit": torch.tensor([self.limit]),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], width: int) -> Domain:
        """From `tensors()` for an LM of width D. KeyError or ValueError when they do not fit each other."""
        means, directions, variances = (tensors[name] for name in ("means", "directions", "variances"))
        limit = float(tensors["limit"])
        shapes = means.ndim == directions.ndim == 2 and means.shape[1] == directions.shape[0] == width
        if not shapes or not len(means) or variances.shape != (directions.shape[1] + 1,):
            raise ValueError("the tensors of its domain do not fit each other")
        finite = all(bool(torch.isfinite(x).all()) for x in (means, directions, variances))
        if not (finite and float(variances.min()) > 0 and 0 < limit < float("inf")):
            raise ValueError("its domain holds values that are no distances")
        # clones: a tensor of a file keeps all of the file in memory
        return cls(means.half().clone(), directions.half().clone(), variances.float().clone(), limit)


def fit_domain(train: Tensor, groups: Tensor, *valid: Tensor) -> Domain | None:
    """The domain of training states (n,D) whose labels are `groups` (n,), its limit that of validation (m,D).

    Validation that was heard several times has as many states, and the mean of their distances counts, as in answers.
    None for fewer than 40 utterances in either: too few to tell.
    """
    if min(len(train), len(valid[0])) < FEWEST:
        return None
    train = train.float()
    names, place = groups.unique(return_inverse=True)
    if len(names) > MOST_MEANS:
        names, place = names[:1], torch.zeros_like(place)
    means = torch.stack([train[place == k].mean(0) for k in range(len(names))]).half()
    offsets = train - means.float()[place]
    values, vectors = torch.linalg.eigh(offsets.T @ offsets / len(offsets))
    kept = min(DIRECTIONS, train.shape[1] - 1)
    strongest, rest = values.flip(0)[:kept], values.flip(0)[kept:].mean(0, keepdim=True)
    variances = torch.cat([strongest, rest]).clamp(min=1e-6 * max(float(values.max()), 1e-6))
    domain = Domain(means, vectors.flip(1)[:, :kept].half(), variances, 1.0)
    limit = float(torch.stack([domain._raw(heard) for heard in valid]).mean(0).quantile(QUANTILE))
    return Domain(domain.means, domain.directions, domain.variances, max(limit, 1e-6))
