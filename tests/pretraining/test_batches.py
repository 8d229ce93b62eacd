from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speechprompt.pretraining.batches import Batches, bucketed


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 64))
def test_every_row_is_in_exactly_one_bucket(lengths: list[int], budget: int) -> None:
    batches = bucketed(lengths, range(len(lengths)), budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


def test_batches_depend_on_seed_and_step_alone() -> None:
    lengths = [4 + i % 7 for i in range(12)]
    straight = list(map(Batches(lengths, 30, 0).at, range(12)))
    assert straight[11] == Batches(lengths, 30, 0).at(11)
    assert straight != list(map(Batches(lengths, 30, 1).at, range(12)))
