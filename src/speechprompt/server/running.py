"""The process: listen, serve, and stop without losing what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import httptools
import uvicorn
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from uvicorn.lifespan.off import LifespanOff
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from speechprompt.errors import Overloaded, SpeechPromptError, WorkError
from speechprompt.server.app import create_app
from speechprompt.server.front_door import (
    ARRIVAL,
    headers_of_every_answer,
    log_as_json,
    new_request_id,
    record,
)
from speechprompt.server.problems import problem_of
from speechprompt.server.service import Service
from speechprompt.server.settings import ServerSettings
from speechprompt.spoken_lm import SpokenLM

logger = logging.getLogger(__name__)

HEAD_BYTES, HEAD_SECONDS = 64 * 2**10, 10.0
"""What the line and headers of a request may weigh and take to arrive; its trailers may weigh as much."""
TOO_LARGE = b"431 Request Header Fields Too Large"
LEFTOVER_SECONDS = 10.0
"""How long what is left of a body may still arrive once its request is answered."""
IDLE_SECONDS = 5
"""How long a connection is kept without a request."""
UNREAD_SECONDS = 30.0
"""How long something that was sent may wait for a client to read it."""
CONNECTIONS = 1000
WORK = ("/v1/classify", "/v1/units", "/v1/explain")
"""Routes behind the gate."""
DEADLINE = re.compile(rb"deadline_seconds=([0-9]{1,4}(?:\.[0-9]{1,6})?)(?:&|$)")
SWITCH_SECONDS = 0.0005
"""How long a thread keeps the interpreter from others: the stages, which let go of it in every operation of torch,
would else wait five milliseconds each time that the event loop is busy refusing."""
STREAM_MESSAGE_BYTES = 2**20


def run_server(
    spoken_lm: SpokenLM, settings: ServerSettings, host: str, port: int, quiet: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT. Blocks. WorkError when the address is taken; what loading raises.

    Side effects: sets the logging of this package and of uvicorn, and the handlers of both signals.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    log_as_json(logging.WARNING if quiet else logging.INFO)
    app = create_app(spoken_lm, settings)
    listening = listen(host, port)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it is done
        signal.signal(number, lambda *_: None)
    GracefulServer(configuration(app), app.state.service).run([listening])
    if app.state.service.failure is not None:
        raise app.state.service.failure


def configuration(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves this application."""
    settings: ServerSettings = app.state.service.settings
    longest = max(settings.deadline_seconds, settings.longest_deadline_seconds)
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws=BoundedStreamProtocol,
        ws_max_size=STREAM_MESSAGE_BYTES,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(longest + UNREAD_SECONDS),
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. WorkError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise WorkError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port or --host"
        ) from None
    # an answer's head and body are sent apart: without this, a kept connection waits 40 ms for an acknowledgement
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class GracefulServer(uvicorn.Server):
    """Says where it listens; when told to stop, first tells balancers, and then answers what it accepted."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and load meanwhile, so that probes are answered from the beginning."""
        lifespan, self.lifespan = self.lifespan, LifespanOff(self.config)  # which uvicorn would wait for
        await super().startup(sockets)
        self.lifespan = lifespan
        self._loading = asyncio.create_task(self._load(sockets or []))

    async def _load(self, sockets: list[socket.socket]) -> None:
        log = logging.getLogger("uvicorn.error")
        log.addFilter(self._is_news)
        try:
            await self.lifespan.startup()
        finally:
            log.removeFilter(self._is_news)
        if self.lifespan.should_exit:
            self.should_exit = True
        for listening in sockets if not self.should_exit else []:
            host, port = listening.getsockname()[:2]
            logger.info(
                "serving",
                extra={"url": f"http://{host}:{port}/", "tasks": len(self._service.catalogue.tasks)},
            )

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Not the traceback of an error of ours, which ends the process with its own sentence."""
        ours = isinstance(self._service.failure, SpeechPromptError)
        return not (ours and record.getMessage().startswith("Traceback"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Not ready from now on; after `drain_seconds` no new connections; then the rest is answered."""
        self._service.draining = True
        accepted = self._service.gate.accepted
        logger.info("stopping", extra={"accepted": accepted})
        if self._service.ready:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(self._service.settings.drain_seconds)
        await super().shutdown(sockets)
        logger.info("stopped", extra={"left": self._service.gate.accepted})


class ReadInTime(asyncio.Protocol):
    """A connection that ends when its client does not read what it was sent."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have writing paused as long as anything waits, also while the connection is being closed."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Something waits to be read."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self._end_unread)

    def resume_writing(self) -> None:
        """Everything is on its way."""
        self._read()
        super().resume_writing()

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _end_unread(self) -> None:
        if self.transport.get_write_buffer_size():  # else a stream has taken over, and its client has read
            self.transport.abort()


class BoundedStreamProtocol(ReadInTime, WebSocketsSansIOProtocol):
    """WebSocket to clients that read."""


class BoundedProtocol(ReadInTime, HttpToolsProtocol):
    """HTTP whose head and trailers are bounded, and what it waits for in time; httptools itself takes any."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes, self._in_head = 0, True
        self._offered, self._in_body = False, False
        self._trailer_bytes, self._in_trailers = 0, False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock of the first head; one connection too many ends here."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > CONNECTIONS:
            self._refuse(b"503 Service Unavailable")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the head or the trailers are over their limit."""
        self._unset_keepalive_if_required()
        self._trailer_bytes += len(data)  # from 0 where they begin
        try:
            self._parse(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(TOO_LARGE)
        elif self._in_trailers and self._trailer_bytes > HEAD_BYTES:
            if self.cycle.response_started or self.pipeline:
                self.transport.close()
            else:
                self._refuse(TOO_LARGE)
        elif not self._in_body and self.cycle.response_complete:
            self._expect_request()

    def _parse(self, data: bytes) -> None:
        """Parse; a head that offers another protocol than WebSocket again without the offer (RFC 9110, 7.8).

        httptools takes what follows such a head for the other protocol, whatever is answered.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._offered:
                    raise
                rest = rest[upgrade.args[0] :]
                head = self._head_without_offer()
                # where the client closes after this request, the old parser has ended
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._unset_keepalive_if_required()  # a refusal in the same packet has set it
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field; those of trailers are left out, since the routes have read the head."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole; the request begins, unless the head is to be parsed again."""
        self._stop_clock()
        self._in_head, self._in_body = False, True
        offered = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        self._offered = offered and not self._should_upgrade()
        if not self._offered:
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk begins; until something is in it, it may be the last, which trailers follow."""
        self._trailer_bytes, self._in_trailers = 0, True

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._in_trailers = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        self._stop_clock()
        self._in_body = self._in_trailers = False
        if not self._offered:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile; later, since a row of refusals would else end inside one another."""
        if not self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            if self._in_body and not self.transport.is_closing():
                self._start_clock(LEFTOVER_SECONDS, self.transport.close)
            return
        self.server_state.total_requests += 1
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.loop.call_soon(self._start_asgi_task, *self.pipeline.pop())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start a request; one that there is no time for is answered here, at a tenth of what the routes cost."""
        if self.transport.is_closing():
            return
        refusal = self._weighed(cycle) if cycle.scope["path"] in WORK else None
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        cycle.response_started = cycle.response_complete = True
        self.transport.write(refusal)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _weighed(self, cycle: RequestResponseCycle) -> bytes | None:
        """Keep room for a request, or a whole 429 response when the gate has none for this client."""
        scope: Any = cycle.scope
        service: Service = self.config.app.state.service  # type: ignore[union-attr]
        if not service.ready:
            return None  # the front door says so
        given = DEADLINE.search(scope["query_string"])
        deadline = float(given[1]) if given else service.settings.deadline_seconds
        try:
            scope[ARRIVAL] = service.gate.arrive(service.client_of(HTTPConnection(scope)), deadline)
        except Overloaded as error:
            scope["request_id"] = new_request_id(scope)
            response = problem_of(error, scope["request_id"])
            response.headers.update(headers_of_every_answer(scope["request_id"]))
            cycle.keep_alive = cycle.keep_alive and not service.draining
            if not cycle.keep_alive:
                response.headers["connection"] = "close"
            record(service, scope, scope["path"], response.status_code, 0.0)
            head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
            return b"HTTP/1.1 429 Too Many Requests\r\n" + head + b"\r\n" + bytes(response.body)
        return None

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._start_clock(HEAD_SECONDS, self._refuse, b"408 Request Timeout")

    def _expect_request(self) -> None:
        """Keep the connection for a while: every byte that comes ends uvicorn's own clock."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _start_clock(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Let so much time pass for what is expected now: one thing at a time."""
        self._stop_clock()
        self._timer = self.loop.call_later(seconds, callback, *arguments)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _refuse(self, status: bytes) -> None:
        self._stop_clock()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()
