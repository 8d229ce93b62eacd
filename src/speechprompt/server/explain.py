"""Which parts of a clip an answer rests on: POST /v1/explain asks about the clip without each part in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from speechprompt.errors import UnknownName, UsageError
from speechprompt.evaluation.occlusion import (
    Occlusion,
    Span,
    pooled,
    span_seconds,
    spans_of,
    without_span,
)
from speechprompt.prompting.clips import Clip
from speechprompt.prompting.predictor import WindowScores
from speechprompt.server.catalogue import ServedTask, readings_of
from speechprompt.server.classify import (
    PROBLEMS,
    Deadline,
    UnitsForm,
    deadline_of,
    form_body,
    heard_clip,
    received,
)
from speechprompt.server.engine import Engine
from speechprompt.server.gate import Ticket
from speechprompt.server.problems import request_id_of
from speechprompt.server.service import service_of
from speechprompt.server.uploads import Upload

router = APIRouter(tags=["clips"])

PART_SECONDS = 0.1
"""About one sound of speech: long enough to hear again, short enough to say which."""
MOST_PARTS = 64
"""Of one clip; a longer clip has coarser parts, two a window at least."""


class ExplainForm(UnitsForm):
    """The form of POST /v1/explain."""

    task: str = Field(description="the task whose answer to explain")
    slot: str | None = Field(None, description="one of its slots; by default the first")


class PlacedUnit(BaseModel):
    """One unit of a clip, and when it sounds."""

    id: int
    start_seconds: float
    end_seconds: float


class PlacedSpan(BaseModel):
    """A part of a clip, and what it is worth to the answer."""

    start_seconds: float
    end_seconds: float
    importance: float = Field(
        description="nats by which the label's log-odds fall without this part; above zero it speaks for the label"
    )


class Explanation(BaseModel):
    """A slot's answer to a clip, the clip's units, and the parts that the answer rests on."""

    request_id: str
    task: str
    slot: str
    label: str
    duration_seconds: float
    units: list[PlacedUnit]
    spans: list[PlacedSpan]


@router.post("/v1/explain", responses=PROBLEMS, openapi_extra=form_body(ExplainForm))
async def explain(request: Request, deadline_seconds: Deadline = None) -> Explanation:
    """Leave every part of a clip out in turn, and say how far a task's answer falls without it."""
    service = service_of(request)
    service.check_origin(request)
    deadline = deadline_of(service, deadline_seconds)
    upload = await received(service, request, deadline_seconds, ExplainForm)
    task = service.catalogue.task(_only(upload, "task"))
    slots = task.config.slots
    slot = _only(upload, "slot") if upload.all("slot") else next(iter(slots))
    if slot not in slots:
        raise UnknownName("slot", slot, slots)
    async with heard_clip(service, request, upload, MOST_PARTS * readings_of([task]), deadline) as heard:
        windows = await _without_parts(service.engine, heard.clip, task, slot, heard.ticket)
    frame_rate = service.spoken_lm.tokenizer.frame_rate
    return Explanation(
        request_id=request_id_of(request),
        task=task.name,
        slot=slot,
        label=slots[slot][int(windows[0].scores[slot].argmax())],
        duration_seconds=heard.clip.duration_seconds,
        units=_placed_units(heard.clip, frame_rate),
        spans=_placed_spans(heard.clip, windows, task, slot, frame_rate),
    )


def _only(upload: Upload, field: str) -> str:
    """The single value of a field. UsageError when it is missing or repeated."""
    values = upload.all(field)
    if len(values) != 1:
        raise UsageError(f"the form has {len(values)} parts '{field}'; send one")
    return values[0]


async def _without_parts(
    engine: Engine, clip: Clip, task: ServedTask, slot: str, ticket: Ticket
) -> list[Occlusion]:
    """Each window's scores whole and without each of its parts; rows share the LM's batches with everybody's."""
    seconds = clip.duration_seconds / len(clip.windows)
    most = max(2, min(round(seconds / PART_SECONDS), MOST_PARTS // len(clip.windows)))
    plans = [spans_of(window, most) for window in clip.windows]
    asked = [
        units
        for window, spans in zip(clip.windows, plans, strict=True)
        for units in (window, *(without_span(window, span) for span in spans))
    ]
    scores = await engine.score(task, asked, seconds, ticket)
    windows, place = [], 0
    for spans in plans:
        last = place + 1 + len(spans)
        windows.append(_occlusion(spans, scores[place:last], slot))
        place = last
    return pooled(windows)


def _occlusion(spans: Sequence[Span], scores: Sequence[WindowScores], slot: str) -> Occlusion:
    """One window's, of its scores whole and without each span."""
    whole, *without = (each.slots[slot] for each in scores)
    table = torch.stack(without) if without else whole.new_zeros(0, len(whole))
    return Occlusion(tuple(spans), {slot: whole}, {slot: table})


def _placed_units(clip: Clip, frame_rate: float) -> list[PlacedUnit]:
    placed = []
    for (offset, _), window in zip(clip.spans(), clip.windows, strict=True):
        single = [(i, i + 1) for i in range(len(window))]
        for unit, (start, end) in zip(window.ids, span_seconds(window, single, frame_rate), strict=True):
            placed.append(PlacedUnit(id=int(unit), start_seconds=offset + start, end_seconds=offset + end))
    return placed


def _placed_spans(
    clip: Clip, windows: Sequence[Occlusion], task: ServedTask, slot: str, frame_rate: float
) -> list[PlacedSpan]:
    placed = []
    for (offset, _), window, found in zip(clip.spans(), clip.windows, windows, strict=True):
        worth = found.importance(slot, calibration=task.config.calibration)
        times = span_seconds(window, found.spans, frame_rate)
        for value, (start, end) in zip(worth, times, strict=True):
            placed.append(
                PlacedSpan(start_seconds=offset + start, end_seconds=offset + end, importance=round(value, 5))
            )
    return placed
