"""The page at `/`: files that ship in this folder, under a policy that allows nothing from anywhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",
}


router = APIRouter(include_in_schema=False)


def page_files() -> Mapping[str, bytes]:
    """Every file of the page by name: a request can name these and nothing else."""
    return {path.name: path.read_bytes() for path in Path(__file__).parent.iterdir() if path.suffix in TYPES}


@cache
def _served() -> Mapping[str, tuple[bytes, str]]:
    """Each file's bytes and their tag, read once."""
    return {
        name: (content, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
        for name, content in page_files().items()
    }


def _answer(request: Request, name: str) -> Response:
    content, tag = _served()[name]
    headers = {**HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[Path(name).suffix], headers=headers)


@router.get("/")
@router.head("/")
async def index(request: Request) -> Response:
    """The page."""
    return _answer(request, INDEX)


@router.get("/page/{name}")
@router.head("/page/{name}")
async def file(request: Request, name: str) -> Response:
    """A file of the page."""
    if name == INDEX or name not in _served():
        raise HTTPException(404, "the page has no such file")
    return _answer(request, name)
