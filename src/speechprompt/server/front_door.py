"""What every request passes: an id, security headers, a line in the log, a count."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from contextlib import ExitStack
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechprompt.server.problems import problem
from speechprompt.server.room import RETRY_SECONDS
from speechprompt.server.service import Service

logger = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing from elsewhere, nothing inline."""
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
UNKNOWN_ROUTE = "other"
ARRIVAL = "speechprompt.arrival"
"""Where a connection's scope has the room that the gate keeps for it."""
LEAVING = "speechprompt.leaving"
"""Where a connection's scope has what ends with it: an ExitStack."""
PROBES = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds, so not worth a line each."""


class FrontDoor:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope["request_id"] = request_id = new_request_id(scope)
        began, status = time.monotonic(), 101 if scope["type"] == "websocket" else 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if self.service.draining:
                    headers["connection"] = "close"
                for name, value in headers_of_every_answer(request_id).items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            with ExitStack() as leaving:
                scope[LEAVING] = leaving
                app = self.app if self.service.ready or scope["path"] in PROBES else _not_ready
                await app(scope, receive, sending)
        finally:
            if ARRIVAL in scope:
                scope[ARRIVAL].leave()
            route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
            record(self.service, scope, route, status, time.monotonic() - began)


def new_request_id(scope: Scope) -> str:
    """The id that the client gives its request, if it is one, else one of our own."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def headers_of_every_answer(request_id: str) -> dict[str, str]:
    """What an answer has whatever it is about."""
    return {"x-request-id": request_id, **SECURITY_HEADERS}


def record(service: Service, scope: Scope, route: str, status: int, seconds: float) -> None:
    """Count a request that was answered, and log it."""
    service.metrics.request(route, status, seconds)
    logger.log(
        logging.DEBUG if route in PROBES else logging.INFO,
        "request",
        extra={
            "request_id": scope["request_id"],
            "method": scope.get("method", "WS"),
            "path": scope["path"][:200],
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            **scope.get("log", {}),
        },
    )


async def _not_ready(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before everything is loaded."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013})
        return
    response = problem(scope["request_id"], 503, "the server is loading; try again when /readyz says so")
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    await response(scope, receive, send)


_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "color_message"}


class JsonLines(logging.Formatter):
    """A log record as one line of JSON; what callers pass as `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(level: int = logging.INFO) -> None:
    """Send this package's and uvicorn's log to stderr, a JSON document a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("speechprompt", "uvicorn"):
        chosen = logging.getLogger(name)
        chosen.handlers, chosen.propagate = [handler], False
        chosen.setLevel(level)
