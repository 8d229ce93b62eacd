"""The page at /docs: the OpenAPI document, made readable on the server. No script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FileSystemLoader

from speechprompt.errors import SpeechPromptError
from speechprompt.server.problems import kind_of

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent / "documentation"
_pages = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)


@router.get("/docs")
async def documentation(request: Request) -> Response:
    """The page."""
    schema = request.app.openapi()
    page = _pages.get_template("page.html").render(
        info=schema["info"],
        operations=list(_operations(schema)),
        problems=sorted({kind_of(kind): kind for kind in _kinds(SpeechPromptError)}.items()),
        server=str(request.base_url),
    )
    return Response(page, media_type="text/html")


@router.get("/docs/style.css")
async def style() -> Response:
    """How the page looks."""
    return Response((FOLDER / "style.css").read_text(encoding="utf-8"), media_type="text/css")


def _kinds(root: type[SpeechPromptError]) -> Iterator[type[SpeechPromptError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


def _operations(schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body: dict[str, dict[str, Any]] = operation.get("requestBody", {}).get("content", {})
            yield {
                "method": method.upper(),
                "path": path,
                "about": operation.get("description", ""),
                "parameters": operation.get("parameters", []),
                "media": next(iter(body), None),
                "fields": list(_fields(schema, next(iter(body.values()), {}).get("schema", {}))),
                "responses": [
                    {
                        "status": status,
                        "about": response.get("description", ""),
                        "fields": list(_fields(schema, _content(response))),
                    }
                    for status, response in operation["responses"].items()
                ],
                "secured": bool(operation.get("security")),
            }


def _content(response: Mapping[str, Any]) -> Mapping[str, Any]:
    content = response.get("content", {})
    return content.get("application/json", {}).get("schema", {}) if content else {}


def _fields(schema: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Name, type and description of every property of a schema; references are followed one step."""
    found = _resolved(schema, given)
    for name, value in found.get("properties", {}).items():
        needed = "" if name in found.get("required", []) else "optional"
        yield {"name": name, "type": _type(value), "needed": needed, "about": value.get("description", "")}


def _resolved(schema: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    name = given.get("$ref", "").rpartition("/")[2]
    found = schema["components"]["schemas"][name] if name else given
    assert isinstance(found, Mapping)
    return found


def _type(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "anyOf" in value:
        return " or ".join(_type(option) for option in value["anyOf"])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), Mapping):
        return f"mapping to {_type(value['additionalProperties'])}"
    return str(value.get("format") or value.get("type", "anything"))
