"""The OpenAPI document: FastAPI's, with every error as the problem that it is and the token as a security scheme."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from speechprompt.server.problems import MEDIA_TYPE, Problem

PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
ABOUT = {
    401: "the token is missing or another",
    403: "not for this caller",
    404: "not there; names the nearest",
    409: "it is there already",
    413: "over a limit on bytes, length or decoding time",
    415: "a format that this installation cannot decode",
    422: "what was sent does not fit",
    429: "too much work for now; Retry-After says when to come back",
    504: "not answered by its deadline",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's `responses` say of its errors."""
    return {
        status: {"description": ABOUT[status], "content": {MEDIA_TYPE: PROBLEM}}
        for status in (*statuses, 422)
    }


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, built once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        components = document["components"]
        components["schemas"]["Problem"] = Problem.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema
