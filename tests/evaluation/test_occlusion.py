"""Leaving out a span says what it did: equal to asking again by hand, whatever shares the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechprompt.errors import UnitsError
from speechprompt.evaluation.occlusion import (
    Occlusion,
    occlude,
    pooled,
    span_seconds,
    spans_of,
    without_span,
)
from speechprompt.prompting.calibration import Calibration
from speechprompt.speech.units import Units, deduplicate, expand
from toys import SPOKEN, entry_of, scores_alone, some_units

LM = SPOKEN.lm
FRAMES = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_batched_scores_are_those_of_single_runs(recipe: str) -> None:
    decoding = {"decoding": "autoregressive"} if recipe == "paper" else {}
    entry = entry_of(LM, recipe, **decoding)
    utterances = [deduplicate(row.ids) for row in some_units([9, 2, 30, 1, 80])]
    found = occlude(LM, entry, utterances, most_spans=20)
    assert [len(one.spans) for one in found] == [
        min(len(row), 20) if len(row) > 1 else 0 for row in utterances
    ]
    for units, one in zip(utterances, found, strict=True):
        alone = scores_alone(LM, entry, units)
        for slot, scores in alone.items():
            torch.testing.assert_close(one.scores[slot], scores, rtol=1e-5, atol=1e-5)
            assert one.without[slot].shape == (len(one.spans), len(scores))
        for place, (first, last) in enumerate(one.spans):
            left = deduplicate(np.concatenate([units.ids[:first], units.ids[last:]]))
            again = scores_alone(LM, entry, Units(left.ids))
            for slot, scores in again.items():
                torch.testing.assert_close(one.without[slot][place], scores, rtol=1e-5, atol=1e-5)


@given(FRAMES, st.data())
def test_what_is_left_is_what_deduplication_of_the_other_frames_gives(
    frames: list[int], data: st.DataObject
) -> None:
    units = deduplicate(frames)
    first = data.draw(st.integers(0, len(units) - 1))
    last = data.draw(st.integers(first + 1, len(units)))
    assert units.durations is not None
    times = np.concatenate([[0], np.cumsum(units.durations)])
    kept = np.delete(expand(units), np.s_[times[first] : times[last]])
    assert without_span(units, (first, last)) == deduplicate(kept)
    bare = without_span(Units(units.ids), (first, last))
    assert bare.durations is None
    assert np.array_equal(bare.ids, deduplicate(kept).ids)


@given(FRAMES, st.integers(2, 12), st.booleans())
def test_spans_cover_the_utterance_in_order(frames: list[int], most: int, has_durations: bool) -> None:
    units = deduplicate(frames)
    units = units if has_durations else Units(units.ids)
    spans = spans_of(units, most)
    if len(units) < 2:
        assert spans == ()
        return
    assert 2 <= len(spans) <= most
    assert [i for first, last in spans for i in range(first, last)] == list(range(len(units)))
    assert all(first < last for first, last in spans)
    if len(units) <= most:
        assert len(spans) == len(units)


def test_neighbours_that_meet_share_their_pitch_by_duration() -> None:
    units = Units([5, 7, 5], [1, 9, 3], np.array([0.4, 9.0, 0.8], np.float32))
    left = without_span(units, (1, 2))
    assert left == Units([5], [4], np.array([0.7], np.float32))
    assert units.ids.tolist() == [5, 7, 5]
    assert units.durations is not None
    assert units.durations.tolist() == [1, 9, 3]


def test_times_come_from_durations() -> None:
    units = Units([5, 7, 5], [1, 9, 3])
    assert span_seconds(units, [(0, 2), (2, 3)], 50.0) == [(0.0, 0.2), (0.2, 0.26)]
    with pytest.raises(UnitsError, match="no durations"):
        span_seconds(Units([1]), [(0, 1)], 50.0)


def test_importance_is_the_fall_of_the_log_odds() -> None:
    def logs(*shares: float) -> torch.Tensor:
        return torch.tensor(shares).log()

    one = Occlusion(
        ((0, 1), (1, 2)),
        {"slot": logs(0.8, 0.1, 0.1)},
        {"slot": torch.stack([logs(0.5, 0.25, 0.25), logs(0.9, 0.1, 1e-9)])},
    )
    expected = [np.log(0.8 / 0.2), np.log(0.8 / 0.2) - np.log(0.9 / 0.1)]
    assert one.importance("slot") == pytest.approx(expected, abs=1e-5)
    assert one.importance("slot", label=1)[0] == pytest.approx(np.log(1 / 9) - np.log(1 / 3), abs=1e-5)
    cooler = one.importance("slot", calibration=Calibration({"slot": 2.0}))
    assert cooler[0] == pytest.approx(
        np.log(0.8**0.5 / (2 * 0.1**0.5)) - np.log(0.5**0.5 / (2 * 0.25**0.5)), abs=1e-5
    )


def test_windows_are_pooled_as_a_prediction_pools_them() -> None:
    entry = entry_of(LM)
    windows = some_units([12, 7])
    found = pooled(occlude(LM, entry, windows))
    for w, window in enumerate(found):
        other = scores_alone(LM, entry, windows[1 - w])
        for place, span in enumerate(window.spans):
            left = scores_alone(LM, entry, without_span(windows[w], span))
            for slot in other:
                expected = (left[slot] + other[slot]) / 2
                torch.testing.assert_close(window.without[slot][place], expected, rtol=1e-5, atol=1e-5)
                assert torch.equal(window.scores[slot], found[0].scores[slot])


def test_what_cannot_be_left_out_is_refused() -> None:
    with pytest.raises(UnitsError, match="without units"):
        occlude(LM, entry_of(LM), [Units(np.zeros(0, np.int64))])
    with pytest.raises(UnitsError, match="no span 2 to 2"):
        without_span(Units([1, 2, 3]), (2, 2))
    with pytest.raises(ValueError, match="2 or more"):
        spans_of(Units([1, 2]), 1)
