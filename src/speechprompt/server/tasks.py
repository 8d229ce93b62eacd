"""The routes of the catalogue: list, look at, put and delete tasks."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from speechprompt.server.description import problems
from speechprompt.server.presenting import about, details, printable
from speechprompt.server.schemas import TaskDetails, Tasks
from speechprompt.server.service import service_of
from speechprompt.server.uploads import body_of

router = APIRouter(tags=["tasks"])

Name = Annotated[str, Path(max_length=200, description="the task's name")]


@router.get("/v1/tasks")
async def list_tasks(request: Request) -> Tasks:
    """Every task that is served, and the folders that are not, with the reason."""
    service = service_of(request)
    spoken_lm = service.spoken_lm
    return Tasks(
        spoken_lm=spoken_lm.name,
        tokenizer=spoken_lm.tokenizer_name,
        license=spoken_lm.license,
        tasks=[about(task) for task in service.catalogue.tasks.values()],
        refused={printable(name): printable(why) for name, why in service.artifacts.refused.items()},
    )


@router.get("/v1/tasks/{name}", responses=problems(404))
async def get_task(request: Request, name: Name) -> TaskDetails:
    """One task, with all that is known about it."""
    return details(service_of(request).catalogue.task(name))


@router.put(
    "/v1/tasks/{name}",
    responses=problems(401, 403, 413, 429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        "security": [{"token": []}],
    },
)
async def put_task(request: Request, name: Name) -> TaskDetails:
    """Add or replace a task: the zipped artifact folder, validated before the first request meets it."""
    service = service_of(request)
    service.check_token(request)
    content = await body_of(request, service.settings)
    return details(await asyncio.to_thread(service.artifacts.install, name, content))


@router.delete(
    "/v1/tasks/{name}",
    status_code=204,
    responses=problems(401, 403, 404),
    openapi_extra={"security": [{"token": []}]},
)
async def delete_task(request: Request, name: Name) -> Response:
    """Stop serving a task and delete its artifact."""
    service = service_of(request)
    service.check_token(request)
    await asyncio.to_thread(service.artifacts.delete, name)
    service.metrics.forget(name)
    return Response(status_code=204)
