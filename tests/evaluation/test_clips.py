"""Pictures of clips: every unit in its place, shades in proportion, well-formed whatever the values."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechprompt.evaluation.clips import WIDTH, ClipPicture, draw_clip, peaks_of

SPACE = "{http://www.w3.org/2000/svg}"


def picture(**changes: object) -> ClipPicture:
    values: dict[str, object] = {
        "units": ("5", "17", "3"),
        "edges": (0.0, 0.1, 0.3, 0.4),
        "spans": ((0, 1), (1, 3)),
        "importance": (2.0, -0.5),
        "label": "left",
        "peaks": (0.2, 1.0, 0.1),
        "length": 0.5,
        "has_seconds": True,
    }
    return ClipPicture(**{**values, **changes})  # type: ignore[arg-type]


def test_spans_lie_where_their_units_are_and_are_shaded_in_proportion() -> None:
    root = ElementTree.fromstring(draw_clip(picture()))
    first, second = root.iter(f"{SPACE}rect")
    scale = WIDTH / 0.5
    for rect, start, end in ((first, 0.0, 0.1), (second, 0.1, 0.4)):
        assert float(rect.get("x", "")) == pytest.approx(start * scale, abs=0.1)
        assert float(rect.get("width", "")) == pytest.approx((end - start) * scale, abs=0.1)
    assert (first.get("style"), second.get("style")) == ("fill: var(--accent)", "fill: var(--contrast)")
    assert float(first.get("fill-opacity", "")) == pytest.approx(
        4 * float(second.get("fill-opacity", "")), abs=0.05
    )
    assert [title.text for title in root.iter(f"{SPACE}title")][1:] == [
        "units 5: +2.00 nats",
        "units 17 3: \u22120.50 nats",
    ]
    texts = [text.text for text in root.iter(f"{SPACE}text")]
    assert texts[:3] == ["5", "17", "3"]
    assert texts[3:] == ["0\u202fs", "0.1", "0.2", "0.3", "0.4", "0.5"]


def test_units_alone_are_a_strip_without_seconds() -> None:
    bare = picture(peaks=(), length=0.0, has_seconds=False, spans=(), importance=(), edges=(0, 1, 2, 3))
    root = ElementTree.fromstring(draw_clip(bare))
    assert [text.text for text in root.iter(f"{SPACE}text")] == ["5", "17", "3"]
    assert not list(root.iter(f"{SPACE}rect"))
    assert float(root.get("viewBox", "").split()[3]) < 30


def test_numbers_are_left_out_where_there_is_no_room() -> None:
    count = 400
    many = picture(
        units=tuple(map(str, range(count))),
        edges=tuple(np.linspace(0, 8, count + 1).tolist()),
        spans=(),
        importance=(),
        length=8.0,
    )
    svg = draw_clip(many)
    assert re.findall(r">(\d+)</text>", svg) == ["2", "4", "6", "8"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3), st.text(max_size=50))
def test_any_values_make_well_formed_drawings(importance: list[float], label: str) -> None:
    spans = tuple((i, i + 1) for i in range(len(importance)))
    svg = draw_clip(picture(importance=tuple(importance), spans=spans, label=label))
    ElementTree.fromstring(svg)
    assert not re.search(r'[" M](nan|-?inf)\b', svg)


@given(st.integers(0, 2000), st.integers(1, 300))
def test_peaks_hold_the_loudest_sample_of_each_stretch(size: int, count: int) -> None:
    waveform = np.random.default_rng(size).normal(size=size)
    peaks = peaks_of(waveform, count)
    assert len(peaks) == min(size, count)
    if size:
        assert max(peaks) == 1.0
        stretches = np.array_split(np.abs(waveform), len(peaks)) if size % len(peaks) == 0 else None
        if stretches is not None:
            slow = [stretch.max() / np.abs(waveform).max() for stretch in stretches]
            assert peaks == pytest.approx(slow, abs=1e-3)


def test_silence_has_no_peaks_above_nothing() -> None:
    assert peaks_of(np.zeros(100), 10) == (0.0,) * 10
