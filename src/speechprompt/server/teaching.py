"""Routes that teach: a few labelled clips in, a served task a minute later. Allowed like PUT, by the token."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from speechprompt.errors import TooLarge, UsageError
from speechprompt.prompting.artifact import Artifact
from speechprompt.server.artifacts_folder import NAME, check_name
from speechprompt.server.classify import form_body
from speechprompt.server.description import problems
from speechprompt.server.lessons import LabelledClip, Lesson, Lessons, TeachingLimits
from speechprompt.server.service import Service, service_of
from speechprompt.server.uploads import display_name, read_parts

LONGEST_LABEL = 64


class LessonStatus(BaseModel):
    """One lesson: what it teaches, how far it is, and in the end how well it learned or why it did not."""

    id: str
    name: str
    labels: dict[str, int] = Field(description="clips a label")
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    stage: str = Field(description="waiting, loading, encoding, training, checking or done")
    step: int
    steps: int
    loss: float | None = Field(description="of the prompt that hears every clip, in nats")
    remaining_seconds: float | None = Field(description="of training, at the pace so far")
    problem: str | None = Field(description="why it failed")
    held_out: dict[str, Any] | None = Field(description="answers to clips while they were hidden, in numbers")

    @classmethod
    def of(cls, lesson: Lesson) -> LessonStatus:
        """As it stands now."""
        return cls.model_validate(lesson, from_attributes=True)


class TeachingRules(BaseModel):
    """What this server teaches, to whom, and the lessons that have not ended."""

    enabled: bool = Field(description="false: the server was started without a token")
    token_required: bool
    limits: dict[str, float]
    jobs: list[LessonStatus]


class LessonForm(BaseModel):
    """The form of POST /v1/teaching."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="what the task will be called", pattern=NAME.pattern)
    label: list[str] = Field(description="the label of each clip, in the order of the clips")
    clip: list[str] = Field(
        description="audio, three clips of each label or more",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )
    replace: Literal["true", "false"] = Field(
        "false", description="allow a task, folder or lesson of this name to be replaced"
    )


@asynccontextmanager
async def _teaching(app: FastAPI) -> AsyncIterator[None]:
    """Lessons live as long as the application, and end with it."""
    app.state.lessons = None
    try:
        yield
    finally:
        if app.state.lessons is not None:
            await app.state.lessons.close()


router = APIRouter(prefix="/v1/teaching", tags=["teaching"], lifespan=_teaching)
GUARDED: dict[str, Any] = {"security": [{"token": []}]}


def lessons_of(request: Request) -> Lessons:
    """The lessons of a server, made when first asked for."""
    state = request.app.state
    if state.lessons is None:
        service = service_of(request)
        state.lessons = Lessons(plan_of(service), keeper(service), TeachingLimits())
    assert isinstance(state.lessons, Lessons)
    return state.lessons


def plan_of(service: Service) -> dict[str, Any]:
    """What a teacher needs to know of this server."""
    spoken_lm = service.spoken_lm
    return {
        "spoken_lm": str(spoken_lm.folder.resolve() if spoken_lm.folder else spoken_lm.name),
        "device": str(spoken_lm.lm.device),
        "threads": max(1, torch.get_num_threads() // 2),
    }


def keeper(service: Service) -> Callable[[Path, str, bool], Mapping[str, Any]]:
    """What ends a lesson: read the artifact back, serve it and keep it; its held-out numbers. Blocks."""

    def keep(folder: Path, name: str, replace: bool) -> Mapping[str, Any]:
        artifact = Artifact.load(folder, service.spoken_lm)
        service.artifacts.register(artifact, name, force=replace)
        found: Mapping[str, Any] = artifact.metrics["held_out"]
        return found

    return keep


@router.get("")
async def rules(request: Request) -> TeachingRules:
    """What may be taught here, and the lessons that have not ended."""
    lessons = lessons_of(request)
    return TeachingRules(
        enabled=service_of(request).settings.token is not None,
        token_required=True,
        limits=asdict(lessons.limits),
        jobs=[LessonStatus.of(lesson) for lesson in lessons.lessons.values() if not lesson.ended],
    )


@router.post(
    "",
    status_code=202,
    responses=problems(401, 403, 409, 413, 422, 429),
    openapi_extra={**form_body(LessonForm), **GUARDED},
)
async def begin(request: Request, response: Response) -> LessonStatus:
    """Teach a task: train a prompt on every clip, judge it on clips hidden in turn, serve it and keep it.

    Location tells the progress. The clips are deleted when the lesson ends.
    """
    service, lessons = service_of(request), lessons_of(request)
    service.check_token(request)
    lessons.check_room()
    parts = await read_parts(request, service.settings, LessonForm)
    fields = [(part.name, part.content.decode("utf-8", "replace")) for part in parts if part.filename is None]
    files = [part for part in parts if part.filename is not None and part.name == "clip"]
    name, replace = dict(fields).get("name", ""), dict(fields).get("replace") == "true"
    check_name(name)
    labels = [value.strip() for field, value in fields if field == "label"]
    _check_counts(labels, len(files), lessons.limits)
    if not replace:
        service.artifacts.check_free(name)
    clips = [
        LabelledClip(label, display_name(file.filename), bytes(file.content))
        for label, file in zip(labels, files, strict=True)
    ]
    lesson = lessons.begin(name, clips, replace)
    response.headers["Location"] = f"/v1/teaching/{lesson.id}"
    return LessonStatus.of(lesson)


@router.get("/{identity}", responses=problems(404))
async def status(request: Request, identity: str) -> LessonStatus:
    """How far a lesson is."""
    return LessonStatus.of(lessons_of(request).lesson(identity))


@router.delete("/{identity}", responses=problems(401, 403, 404), openapi_extra=GUARDED)
async def cancel(request: Request, identity: str) -> LessonStatus:
    """Stop a lesson and keep nothing of it; one that is being kept or has ended goes its way."""
    service_of(request).check_token(request)
    return LessonStatus.of(await lessons_of(request).cancel(identity))


def _check_counts(labels: list[str], clips: int, limits: TeachingLimits) -> None:
    """UsageError or TooLarge for a lesson that could not be taught, before any clip is read."""
    if len(labels) != clips:
        raise UsageError(f"{clips} clips but {len(labels)} labels; send a label for each clip, in order")
    if clips > limits.most_clips:
        raise TooLarge(f"{clips} clips are over the limit of {limits.most_clips}; send fewer")
    counts = Counter(labels)
    for label, count in counts.items():
        if not label or len(label) > LONGEST_LABEL or not label.isprintable():
            raise UsageError(f"a label has 1 to {LONGEST_LABEL} printable characters; got {label[:100]!r}")
        if count < limits.fewest_clips:
            raise UsageError(
                f"'{label}' has {count} clips; send at least {limits.fewest_clips} of each label"
            )
    if len(counts) < 2:
        raise UsageError("a task needs at least two labels")
    if len(counts) > limits.most_labels:
        raise TooLarge(f"{len(counts)} labels are over the limit of {limits.most_labels}; send fewer")
