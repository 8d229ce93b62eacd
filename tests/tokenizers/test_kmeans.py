from __future__ import annotations

import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import MiniBatchKMeans

from speechprompt.errors import CheckpointError
from speechprompt.tokenizers.kmeans import KMeans


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.integers(0, 40))
def test_the_nearest_centre(seed: int, centres: int, width: int, frames: int) -> None:
    random = np.random.default_rng(seed)
    table, features = random.normal(size=(centres, width)), random.normal(size=(frames, width))
    distances = ((features[:, None] - table[None]) ** 2).sum(-1)
    ids = KMeans(torch.tensor(table)).assign(torch.tensor(features)).numpy()
    assert ids.shape == (frames,)
    chosen = np.take_along_axis(distances, ids[:, None], 1)[:, 0] if frames else distances.min(1, initial=0)
    assert np.allclose(chosen, distances.min(1) if frames else [], atol=1e-4)


def test_ties_go_to_the_lowest_id() -> None:
    centres = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert KMeans(centres).assign(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])).tolist() == [1, 1, 1]


def test_half_precision_features_are_compared_in_fp32() -> None:
    """In bfloat16 the two distances would be equal."""
    centres = torch.tensor([[100.25, 0.0], [100.0, 0.0]])
    assert KMeans(centres).assign(torch.tensor([[100.0, 0.0]]).bfloat16()).tolist() == [1]


def test_reads_what_scikit_learn_fitted(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    model = MiniBatchKMeans(7, random_state=0, n_init=1, batch_size=200).fit(frames)
    joblib.dump(model, tmp_path / "km.bin")
    read = KMeans.from_file(tmp_path / "km.bin")
    assert len(read) == 7
    assert np.array_equal(read.assign(torch.from_numpy(frames)).numpy(), model.predict(frames))


@pytest.mark.parametrize(
    "centres", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(2, 2, 2), torch.ones(2, 2, dtype=torch.int64)]
)
def test_centres_that_are_no_table(centres: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"\(K,D\)"):
        KMeans(centres)


def test_centres_that_are_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="finite"):
        KMeans(torch.tensor([[float("inf"), 0.0]]))
    (tmp_path / "km.bin").write_bytes(pickle.dumps({"cluster_centers_": [[1.0]]}))
    with pytest.raises(CheckpointError, match=r"km\.bin"):
        KMeans.from_file(tmp_path / "km.bin")
