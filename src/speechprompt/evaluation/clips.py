"""A clip as a picture: its waveform, the units that the tokenizer heard in it, and what each did for the answer.

Plain values that JSON can hold, and their drawing as inline SVG whose colours are the page's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike

from speechprompt.evaluation.svg import shortened

WIDTH, WAVE, UNITS, AXIS = 440.0, 60.0, 26.0, 14.0
"""The drawing's measures in its own units, of which a phone shows about one a pixel."""
PEAK_COUNT = 220
ROOM_FOR_UNIT = 7.5
FAINTEST = 0.03
TICK_COUNT = 6

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ClipPicture:
    """What is drawn of one utterance.

    `edges` (N+1) are where its units begin and where the last one ends: in seconds where `has_seconds`, else in
    frames or units. `spans` (M) are ranges of units, `importance` (M) how far the log-odds (nats) of `label` fall
    without each; both are empty where nothing could be left out. `peaks` are the waveform's extents (0 to 1) over
    equal stretches of `length`, empty where there is no audio.
    """

    units: tuple[str, ...]
    edges: tuple[float, ...]
    spans: tuple[Span, ...] = ()
    importance: tuple[float, ...] = ()
    label: str = ""
    peaks: tuple[float, ...] = ()
    length: float = 0.0
    has_seconds: bool = False


def peaks_of(waveform: ArrayLike, count: int = PEAK_COUNT) -> tuple[float, ...]:
    """The largest magnitude in each of `count` equal stretches of a waveform (S,), relative to the largest of all."""
    samples = np.abs(np.asarray(waveform, dtype=np.float64))
    if not len(samples):
        return ()
    starts = np.unique(
        np.linspace(0, len(samples), min(count, len(samples)), endpoint=False).astype(np.int64)
    )
    extents = np.maximum.reduceat(samples, starts)
    loudest = float(extents.max()) or 1.0
    return tuple(round(float(value) / loudest, 3) for value in extents)


def draw_clip(picture: ClipPicture) -> str:
    """One `<svg>` element: spans shaded by what they did, the waveform on them, unit numbers below."""
    length = max(picture.length, picture.edges[-1]) or 1.0
    wave = WAVE if picture.peaks else 0.0
    axis = AXIS if picture.has_seconds else 0.0
    height = wave + UNITS + axis
    parts = [
        *_spans(picture, WIDTH / length, wave + UNITS),
        *_wave(picture, WIDTH * picture.length / length, wave),
        *_units(picture, WIDTH / length, wave),
        *(_ticks(length, height) if axis else ()),
    ]
    title = f"{'Waveform with its' if picture.peaks else 'Its'} {len(picture.units)} units"
    if picture.spans:
        title += f", shaded by what each did for {shortened(picture.label, 40)}"
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'style="font-family: var(--sans)"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _spans(picture: ClipPicture, scale: float, height: float) -> list[str]:
    """A rectangle a span, as opaque as its importance is beside the clip's largest; numbers on hovering."""
    largest = max((abs(value) for value in picture.importance), default=0.0) or 1.0
    drawn = []
    for (first, last), value in zip(picture.spans, picture.importance, strict=True):
        start, end = picture.edges[first], picture.edges[last]
        colour = "--accent" if value >= 0 else "--contrast"
        share = abs(value) / largest
        if share < FAINTEST:
            continue
        said = f"units {' '.join(picture.units[first:last])}: {value:+.2f} nats".replace("-", "\u2212")
        drawn.append(
            f'<rect x="{start * scale:.1f}" y="0" width="{(end - start) * scale:.1f}" height="{height:g}" '
            f'style="fill: var({colour})" fill-opacity="{0.55 * share:.2f}"><title>{escape(said)}</title></rect>'
        )
    return drawn


def _wave(picture: ClipPicture, width: float, height: float) -> list[str]:
    """The waveform's extent as one closed shape around the middle line."""
    if not picture.peaks:
        return []
    middle, step = height / 2, width / len(picture.peaks)
    extents = [max(value, 0.015) * (middle - 3) for value in picture.peaks]
    above = [f"{(i + 0.5) * step:.1f} {middle - value:.1f}" for i, value in enumerate(extents)]
    below = [f"{(i + 0.5) * step:.1f} {middle + value:.1f}" for i, value in enumerate(extents)][::-1]
    return [f'<path d="M{" L".join(above + below)}Z" style="fill: var(--ink)" fill-opacity=".72"/>']


def _units(picture: ClipPicture, scale: float, top: float) -> list[str]:
    """A stroke where each unit begins; its number where there is room, upright."""
    bottom = top + UNITS
    starts = [edge * scale for edge in picture.edges]
    strokes = "".join(f"M{x:.1f} {top:g}V{bottom:g}" for x in starts)
    drawn = [f'<path d="{strokes}" style="stroke: var(--rule)" stroke-width=".8" fill="none"/>']
    for unit, start, end in zip(picture.units, starts, starts[1:], strict=False):
        if end - start >= ROOM_FOR_UNIT:
            x, y = (start + end) / 2, bottom - 3
            drawn.append(
                f'<text x="{x:.1f}" y="{y:g}" transform="rotate(-90 {x:.1f} {y:g})" dominant-baseline="central" '
                f'font-size="7" style="fill: var(--ink)">{escape(unit)}</text>'
            )
    return drawn


def _ticks(length: float, height: float) -> list[str]:
    """Seconds below the drawing, at round numbers."""
    step = next((s for s in _round_steps() if length / s <= TICK_COUNT), length)
    drawn = []
    for number in range(int(length / step + 1e-9) + 1):
        x, anchor = number * step * WIDTH / length, "middle"
        if number == 0:
            anchor = "start"
        elif x > WIDTH - 12:
            anchor = "end"
        text = f"{number * step:g}" + ("\u202fs" if number == 0 else "")
        drawn.append(
            f'<text x="{x:.1f}" y="{height - 3:g}" text-anchor="{anchor}" font-size="8.5" '
            f'style="fill: var(--muted)">{text}</text>'
        )
    return drawn


def _round_steps() -> Sequence[float]:
    return [factor * power for power in (0.1, 1.0, 10.0, 100.0) for factor in (1, 2, 5)] + [1000.0]
