"""Buckets: every row once, limits kept, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechprompt.speech.buckets import exact_length_groups, length_buckets

lengths = st.lists(st.integers(1, 300), max_size=300)


@given(lengths, st.integers(1, 40), st.none() | st.integers(0, 99), st.none() | st.integers(1, 2_000))
def test_every_row_once_and_both_limits_kept(
    sizes: list[int], batch_size: int, seed: int | None, max_units: int | None
) -> None:
    batches = length_buckets(sizes, batch_size, seed, max_units)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        if max_units is not None and len(batch) > 1:
            assert len(batch) * max(sizes[i] for i in batch) <= max_units


@given(lengths, st.integers(1, 40))
def test_without_a_seed_lengths_ascend(sizes: list[int], batch_size: int) -> None:
    flat = [sizes[i] for batch in length_buckets(sizes, batch_size) for i in batch]
    assert flat == sorted(sizes)


def test_a_seed_repeats_itself_and_another_differs() -> None:
    sizes = np.random.default_rng(0).integers(1, 200, 1_000).tolist()
    assert length_buckets(sizes, 16, seed=1) == length_buckets(sizes, 16, seed=1)
    assert length_buckets(sizes, 16, seed=1) != length_buckets(sizes, 16, seed=2)


def test_padding_is_a_fraction_of_that_of_random_batches() -> None:
    sizes = np.random.default_rng(0).integers(1, 200, 4_000)

    def padding(batches: list[list[int]]) -> int:
        return sum(int(len(b) * sizes[b].max() - sizes[b].sum()) for b in batches)

    shuffled = np.random.default_rng(1).permutation(4_000).reshape(-1, 16).tolist()
    assert padding(length_buckets(sizes.tolist(), 16, seed=0)) < 0.1 * padding(shuffled)


def test_an_empty_batch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        length_buckets([1], 0)


@given(lengths, st.none() | st.integers(1, 10))
def test_exact_groups_hold_one_length_each(sizes: list[int], batch_size: int | None) -> None:
    groups = exact_length_groups(sizes, batch_size)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        assert len({sizes[i] for i in group}) == 1
        assert batch_size is None or len(group) <= batch_size
    if batch_size is None:
        assert len(groups) == len(set(sizes))
