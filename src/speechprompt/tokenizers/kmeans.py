"""Centres that turn features into units: the nearest one, by one matrix product in fp32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from speechprompt.checkpoints import read_kmeans_centres
from speechprompt.errors import CheckpointError


class KMeans:
    """Centres (K,D) of features. Always fp32: half-precision distances change units."""

    def __init__(self, centres: Tensor) -> None:
        """CheckpointError unless `centres` is a table (K,D) of finite numbers."""
        if centres.ndim != 2 or not centres.numel() or not centres.is_floating_point():
            raise CheckpointError(
                f"k-means centres of shape {tuple(centres.shape)}; they must be a table (K,D)"
            )
        if not centres.isfinite().all():
            raise CheckpointError("k-means centres that are not all finite numbers")
        self.centres = centres.detach().float().contiguous()
        self._half_norms = self.centres.square().sum(1) / 2

    @classmethod
    def from_file(cls, path: str | Path) -> KMeans:
        """Centres of a scikit-learn k-means that joblib wrote (the published km.bin), without running its pickle.

        CheckpointError when it is damaged or something else.
        """
        return cls(read_kmeans_centres(path))

    def __len__(self) -> int:
        return len(self.centres)

    @torch.no_grad()
    def assign(self, features: Tensor) -> Tensor:
        """The nearest centre of each frame: features (T,D) -> ids (T,) int64. Ties go to the lowest id."""
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), and |x|^2 is the same for every centre
        return (self._half_norms - features.float() @ self.centres.T).argmin(-1)

    def to(self, device: torch.device | str) -> KMeans:
        """The same centres on another device."""
        return KMeans(self.centres.to(device))
