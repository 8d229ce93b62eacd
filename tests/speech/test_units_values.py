"""Frames and units: two moves that undo each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechprompt.errors import UnitsError
from speechprompt.speech.units import Units, deduplicate, expand

frames = st.lists(st.integers(0, 5), max_size=200)


@given(frames)
def test_expand_undoes_deduplicate(ids: list[int]) -> None:
    np.testing.assert_array_equal(expand(deduplicate(ids)), ids)


@given(frames)
def test_durations_sum_to_frames_and_no_two_neighbours_are_equal(ids: list[int]) -> None:
    units = deduplicate(ids)
    assert units.durations is not None
    assert units.durations.sum() == len(ids)
    assert (units.durations >= 1).all()
    assert (units.ids[1:] != units.ids[:-1]).all()


@given(frames)
def test_deduplicating_units_again_changes_nothing(ids: list[int]) -> None:
    once = deduplicate(ids)
    np.testing.assert_array_equal(deduplicate(once.ids).ids, once.ids)


@pytest.mark.parametrize(
    ("ids", "durations", "f0"),
    [
        ([-1], None, None),
        ([1, 2], [1], None),
        ([1], [0], None),
        ([1], None, [0.0, 1.0]),
        ([1.5], None, None),
        ([[1], [2]], None, None),
        (["a"], None, None),
        (3, None, None),
    ],
)
def test_contradictory_units_are_refused(ids: object, durations: object, f0: object) -> None:
    with pytest.raises(UnitsError):
        Units(ids, durations, f0)  # type: ignore[arg-type]


def test_units_without_durations_cannot_be_expanded() -> None:
    with pytest.raises(UnitsError, match="durations"):
        expand(Units([1, 2]))


def test_equality_counts_every_stream() -> None:
    assert Units([1, 2], [3, 4]) == Units([1, 2], [3, 4])
    assert Units([1, 2], [3, 4]) != Units([1, 2])
    assert Units([1, 2], [3, 4]) != Units([1, 2], [3, 5])
    assert Units([1], None, [0.5]) != Units([1], None, [0.25])
