"""Errors as RFC 9457 problems, from the one error tree that the CLI uses too."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from speechprompt.errors import NotAllowed, Overloaded, SpeechPromptError, UnknownName

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What every error answers (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="which problem it is; the page of that address explains it")
    title: str
    status: int
    detail: str = Field(description="what, where, what to do next")
    instance: str = Field(description="the request's id")


def kind_of(error: type[SpeechPromptError]) -> str:
    """`UnknownName` -> `unknown-name`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", error.__name__).lower()


def problem(request_id: str, status: int, detail: str, kind: str = "", **members: Any) -> JSONResponse:
    """One problem document as a response."""
    title = HTTPStatus(status).phrase
    content = {
        "type": f"/docs#problem-{kind}" if kind else "about:blank",
        "title": kind.replace("-", " ").capitalize() if kind else title,
        "status": status,
        "detail": " ".join(detail.split())[:2000],
        "instance": f"urn:request:{request_id}",
        **members,
    }
    return JSONResponse(content, status, media_type=MEDIA_TYPE)


def problem_of(error: SpeechPromptError, request_id: str) -> JSONResponse:
    """The problem that an error of this package is, with Retry-After or WWW-Authenticate where one helps."""
    members: dict[str, Any] = {}
    if isinstance(error, UnknownName):
        members["nearest"] = list(error.nearest)
    if isinstance(error, Overloaded):
        members["retry_after_seconds"] = error.retry_after_seconds
    response = problem(request_id, error.http_status, str(error), kind_of(type(error)), **members)
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, NotAllowed) and error.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def request_id_of(request: Request) -> str:
    """The id that the front door gave this request."""
    return str(request.scope.get("request_id", "-"))


def install_problems(app: FastAPI) -> None:
    """Answer every exception of a route with a problem."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SpeechPromptError)
        return problem_of(error, request_id_of(request))

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = problem(request_id_of(request), error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def of_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(request_id_of(request), 422, f"{where}: {first['msg']}", "usage-error")

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return problem(request_id_of(request), 500, "the server failed; its log has this request's id")

    app.add_exception_handler(SpeechPromptError, ours)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, unexpected)
