"""Centres of frames, fitted by mini-batch k-means on a spread-out sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from speechprompt.errors import TrainingError

Features = NDArray[np.float32]


def fit_centres(clips: Iterator[Features], count: int, frames: int = 300_000, seed: int = 0) -> Features:
    """`count` centres (count, D) of the frames (T,D) of clips, from a uniform sample of at most `frames`.

    TrainingError when there are fewer frames than centres.
    """
    sample = reservoir(clips, frames, seed)
    if len(sample) < count:
        raise TrainingError(
            f"{len(sample)} frames cannot have {count} centres; bring more speech or ask for fewer"
        )
    model = MiniBatchKMeans(count, batch_size=8192, n_init=1, max_iter=6, random_state=seed)
    centres: Features = model.fit(sample).cluster_centers_.astype(np.float32)
    return centres


def reservoir(clips: Iterator[Features], size: int, seed: int = 0) -> Features:
    """A uniform sample of at most `size` frames from clips of unknown number, in bounded memory."""
    rng = np.random.default_rng(seed)
    kept: Features | None = None
    keys = np.zeros(0)
    waiting: list[Features] = []
    for clip in clips:
        waiting.append(clip)
        if sum(map(len, waiting)) > size:
            kept, keys = _thinned(kept, keys, waiting, size, rng)
            waiting = []
    kept, _ = _thinned(kept, keys, waiting, size, rng)
    return kept


def _thinned(
    kept: Features | None,
    keys: NDArray[np.float64],
    waiting: list[Features],
    size: int,
    rng: np.random.Generator,
) -> tuple[Features, NDArray[np.float64]]:
    """Frames with the `size` smallest of their random keys."""
    parts = [part for part in (kept, *waiting) if part is not None]
    frames = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    keys = np.concatenate([keys, rng.random(len(frames) - len(keys))])
    smallest = np.argsort(keys)[:size]
    return frames[smallest], keys[smallest]


def nearest_centres(frames: Features, centres: Features) -> NDArray[np.int64]:
    """The nearest centre of each frame (T,D): ids (T,)."""
    distances = (centres**2).sum(1) / 2 - frames @ centres.T
    nearest: NDArray[np.int64] = distances.argmin(1)
    return nearest
