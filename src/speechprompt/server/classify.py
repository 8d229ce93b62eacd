"""The routes that hear a clip: POST /v1/classify and POST /v1/units."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from speechprompt.errors import UsageError
from speechprompt.prompting.clips import Clip
from speechprompt.prompting.loaded import speeds_of
from speechprompt.server.catalogue import EVERY_TASK, readings_of
from speechprompt.server.description import problems
from speechprompt.server.front_door import ARRIVAL
from speechprompt.server.gate import Ticket
from speechprompt.server.presenting import task_answer, window_units
from speechprompt.server.problems import request_id_of
from speechprompt.server.schemas import Answers, UnitsAnswer
from speechprompt.server.service import Service, service_of
from speechprompt.server.uploads import Upload, decode, read_upload
from speechprompt.speech.audio import RATES
from speechprompt.speech.speeds import MOST_ANSWER_COPIES

router = APIRouter(tags=["clips"])

PROBLEMS = problems(403, 404, 413, 415, 429, 504)
Deadline = Annotated[
    float | None,
    Query(ge=0.1, le=3600, description="seconds to answer in; by default what the server was started with"),
]


class UnitsForm(BaseModel):
    """The form of POST /v1/units."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(
        description="the clip: wav, flac, ogg, opus, mp3, with the media extra webm, m4a, mp4; raw 16-bit mono PCM "
        "only with its sample_rate",
        json_schema_extra={"format": "binary", "contentMediaType": "application/octet-stream"},
    )
    sample_rate: int | None = Field(
        None,
        ge=RATES[0],
        le=RATES[1],
        description="Hz; only with raw 16-bit mono PCM, which it makes of the file",
    )


class ClassifyForm(UnitsForm):
    """The form of POST /v1/classify."""

    task: list[str] = Field(
        [EVERY_TASK], description="tasks to ask, repeated; * is all of them", max_length=10_000
    )
    top_k: int | None = Field(None, ge=1, le=10_000, description="labels of a slot to show; by default all")
    copies: int | None = Field(
        None,
        ge=0,
        le=MOST_ANSWER_COPIES,
        multiple_of=2,
        description="hear the clip at so many other speeds too and answer with the mean: steadier, at as many times "
        "the work; by default at as many as each task was trained to answer over",
    )


def form_body(form: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a multipart form that the route reads itself."""
    content = {"multipart/form-data": {"schema": form.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


@dataclass(frozen=True, slots=True)
class HeardClip:
    """A clip on its way: its units, its notices and its place in the accepted work."""

    clip: Clip
    notices: tuple[str, ...]
    ticket: Ticket


@asynccontextmanager
async def heard_clip(
    service: Service,
    request: Request,
    upload: Upload,
    readings: int,
    deadline: float,
    speeds: Sequence[float] = (),
) -> AsyncIterator[HeardClip]:
    """Accept, decode and encode an upload, also at other speeds, for the LM to read so often.

    It stays accepted while the context lasts.
    """
    client = service.client_of(request)
    with service.gate.enter(client, deadline, has_room=True) as ticket, _noticed(request, ticket):
        rate = service.spoken_lm.tokenizer.sample_rate
        loop = asyncio.get_running_loop()
        waveform, notices = await loop.run_in_executor(
            service.decoders, decode, upload, rate, service.settings
        )
        ticket.settle(service.engine.planned_seconds(len(waveform) / rate, readings, 1 + len(speeds)))
        yield HeardClip(await service.engine.encode(waveform, ticket, speeds), notices, ticket)


@contextmanager
def _noticed(request: Request, ticket: Ticket) -> Iterator[None]:
    """Drop the work of a client that hangs up while the context lasts."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        ticket.abandon()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def deadline_of(service: Service, asked: float | None) -> float:
    """When (monotonic) a request that arrives now must be answered. UsageError over the server's longest."""
    longest = service.settings.longest_deadline_seconds
    if asked is not None and asked > longest:
        raise UsageError(
            f"deadline_seconds is {asked:g}; this server answers within {longest:g} s or not at all"
        )
    return asyncio.get_running_loop().time() + (asked or service.settings.deadline_seconds)


async def received(service: Service, request: Request, asked: float | None, form: type[BaseModel]) -> Upload:
    """The upload of a request that may be answered in time. Overloaded before it is read, UsageError, TooLarge."""
    seconds = asked or service.settings.deadline_seconds
    arrival = request.scope.get(ARRIVAL) or service.gate.arrive(service.client_of(request), seconds)
    try:
        return await read_upload(request, service.settings, form)
    finally:
        arrival.leave()


@router.post(
    "/v1/classify", response_model=Answers, responses=PROBLEMS, openapi_extra=form_body(ClassifyForm)
)
async def classify(request: Request, deadline_seconds: Deadline = None) -> Response:
    """Ask any tasks about one clip, which is encoded once."""
    service = service_of(request)
    service.check_origin(request)
    deadline = deadline_of(service, deadline_seconds)
    upload = await received(service, request, deadline_seconds, ClassifyForm)
    tasks = service.catalogue.chosen(upload.all("task") or [EVERY_TASK])
    top_k = upload.number("top_k", 1, 10_000)
    copies = _copies(upload)
    speeds, readings = speeds_of((task.prompt for task in tasks), copies), readings_of(tasks, copies)
    async with heard_clip(service, request, upload, readings, deadline, speeds) as heard:
        predictions = await service.engine.ask(heard.clip, tasks, heard.ticket, copies)
    answers = Answers.model_construct(
        request_id=request_id_of(request),
        duration_seconds=heard.clip.duration_seconds,
        unit_count=sum(map(len, heard.clip.windows)),
        window_count=len(heard.clip.windows),
        notices=list(heard.notices),
        predictions=[
            task_answer(found, task.revision, None if top_k is None else int(top_k))
            for found, task in zip(predictions, tasks, strict=True)
        ],
    )
    for task in tasks:
        service.metrics.answered(task.name)
    request.scope["log"] = {"tasks": len(tasks), "seconds": round(heard.clip.duration_seconds, 3)}
    return Response(answers.model_dump_json(), media_type="application/json")


def _copies(upload: Upload) -> int | None:
    """At how many other speeds the clip is to be heard; None leaves it to each task. UsageError."""
    given = upload.number("copies", 0, MOST_ANSWER_COPIES)
    if given is not None and given % 2:
        raise UsageError(f"copies is {given:g}; it must be even: as many slower as faster")
    return None if given is None else int(given)


@router.post("/v1/units", response_model=UnitsAnswer, responses=PROBLEMS, openapi_extra=form_body(UnitsForm))
async def units(request: Request, deadline_seconds: Deadline = None) -> UnitsAnswer:
    """The units of one clip."""
    service = service_of(request)
    service.check_origin(request)
    deadline = deadline_of(service, deadline_seconds)
    upload = await received(service, request, deadline_seconds, UnitsForm)
    async with heard_clip(service, request, upload, 0, deadline) as heard:
        return UnitsAnswer(
            request_id=request_id_of(request),
            tokenizer=service.spoken_lm.tokenizer_name,
            frame_rate=service.spoken_lm.tokenizer.frame_rate,
            duration_seconds=heard.clip.duration_seconds,
            notices=list(heard.notices),
            windows=window_units(heard.clip),
        )
