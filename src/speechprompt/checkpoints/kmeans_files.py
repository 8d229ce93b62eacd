"""Centres of a k-means file that joblib or pickle wrote, whatever its scikit-learn, without running it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt.checkpoints.archives import expanded, opened, reading
from speechprompt.checkpoints.inert_pickle import BoundedStream, InertUnpickler, Opaque
from speechprompt.checkpoints.tree import Finisher
from speechprompt.checkpoints.values import VALUES, array_of, array_shape


def read_kmeans_centres(source: str | Path | bytes) -> Tensor:
    """Centres (K,D), float32. CheckpointError when the file is damaged or holds no fitted k-means."""
    with reading(source, "a k-means file"), opened(source) as (file, _):
        centres = _centres(read_joblib(expanded(file.read())))
        if centres.ndim != 2 or not centres.size or centres.dtype.kind != "f":
            raise ValueError(f"centres of shape {centres.shape} and type {centres.dtype}")
        if not np.isfinite(centres).all():
            raise ValueError("centres that are not finite numbers")
        return torch.from_numpy(centres.astype(np.float32, order="C"))


def _centres(tree: Any) -> np.ndarray:
    centres = tree.get("cluster_centers_") if isinstance(tree, Opaque) else None
    if not isinstance(centres, np.ndarray):
        raise ValueError("it holds no fitted k-means")
    return centres


def read_joblib(content: bytes) -> Any:
    """The tree of an uncompressed joblib file (0.10 and newer) or plain pickle. Any Exception means damage."""
    stream = BoundedStream(io.BytesIO(content), len(content))

    def built(thing: Any) -> Any:
        """Arrays lie in the stream right behind the wrapper that describes them."""
        if isinstance(thing, Opaque) and thing.name.endswith("joblib.numpy_pickle.NumpyArrayWrapper"):
            return _array_behind(thing, stream)
        return thing

    return Finisher().finish(InertUnpickler(stream, VALUES, built=built).load())


def _array_behind(wrapper: Opaque, stream: BoundedStream) -> Any:
    dtype, shape = wrapper["dtype"], array_shape(wrapper["shape"])
    if wrapper.get("numpy_array_alignment_bytes") is not None:
        stream.exactly(stream.exactly(1)[0])
    content = stream.exactly(math.prod(shape) * dtype.numpy().itemsize)
    return array_of(content, dtype, shape, wrapper["order"])
