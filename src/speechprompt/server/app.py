"""The application: routes, problems and the front door around one service.

To add routes, write a module with a `router` and include it here; `service_of(request)` is what they work with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import speechprompt
from speechprompt.server import (
    classify,
    documentation,
    explain,
    operations,
    page,
    streaming,
    tasks,
    teaching,
)
from speechprompt.server.description import describe
from speechprompt.server.front_door import FrontDoor
from speechprompt.server.problems import install_problems
from speechprompt.server.service import Service
from speechprompt.server.settings import ServerSettings
from speechprompt.spoken_lm import SpokenLM


def create_app(spoken_lm: SpokenLM, settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI application that serves the artifacts of `settings.artifacts` on one spoken LM.

    Models load when it starts; it answers what it accepted before it ends.
    """
    service = Service(spoken_lm, settings or ServerSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="speechprompt",
        version=speechprompt.__version__,
        summary="One frozen spoken language model, many small trained prompts, one speech classifier per prompt.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    install_problems(app)
    for room in (classify, explain, tasks, teaching, operations, streaming, documentation, page):
        app.include_router(room.router)
    app.add_middleware(FrontDoor, service=service)
    return app
