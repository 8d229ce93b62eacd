"""One server's parts, made together and handed to the routes."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from starlette.requests import HTTPConnection

from speechprompt.errors import NotAllowed, SpeechPromptError
from speechprompt.server.artifacts_folder import ArtifactsFolder
from speechprompt.server.catalogue import Catalogue
from speechprompt.server.engine import Engine
from speechprompt.server.gate import Gate
from speechprompt.server.metrics import Metrics
from speechprompt.server.room import Room
from speechprompt.server.settings import ServerSettings
from speechprompt.spoken_lm import SpokenLM

logger = logging.getLogger(__name__)

DECODERS = 2
"""Threads that decode uploads."""


class Service:
    """Catalogue, artifacts on disk, engine, gate and metrics of one server; `app.state.service` of its application.

    `artifacts.register(artifact, name)` keeps a freshly trained artifact and serves it at once.
    """

    def __init__(self, spoken_lm: SpokenLM, settings: ServerSettings) -> None:
        self.spoken_lm, self.settings = spoken_lm, settings
        self.metrics = Metrics()
        self.catalogue = Catalogue(spoken_lm)
        self.artifacts = ArtifactsFolder(self.catalogue, settings.artifacts)
        self.engine = Engine(spoken_lm, settings, self.metrics)
        self.gate = Gate()
        self.decoders = ThreadPoolExecutor(DECODERS, "decoder")
        self.ready, self.draining = False, False
        self.failure: Exception | None = None
        self.streams = Room(settings.streams, "streams")
        self.bodies = Room(max(settings.held_bytes, settings.body_bytes), "bytes for bodies")
        self._stop = threading.Event()
        self._gauges()

    def _gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("tasks", "Tasks that are served", lambda: len(self.catalogue.tasks))
        gauge("artifacts_refused", "Folders that could not be served", lambda: len(self.artifacts.refused))
        gauge("accepted", "Requests accepted and not yet answered", lambda: self.gate.accepted)
        gauge("backlog_seconds", "Time that the accepted work will take", lambda: self.gate.backlog_seconds)
        gauge("encoder_queue", "Windows that wait for the encoder", lambda: self.engine.encoder.queued)
        gauge("lm_queue", "Rows that wait for the LM", lambda: self.engine.lm.queued)
        gauge("streams", "Open streams", lambda: self.streams.held)
        gauge("body_bytes", "Bytes kept for bodies of requests", lambda: self.bodies.held)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load, serve while the context lasts, then finish what was accepted. `failure` is why it could not load."""
        try:
            await asyncio.to_thread(self.engine.start)
            await asyncio.to_thread(self.artifacts.scan)
        except Exception as error:
            self.failure = error
            raise
        watcher = asyncio.create_task(self._watch())
        self.ready = True
        try:
            yield
        finally:
            self.draining = True
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            await asyncio.to_thread(self.engine.close)
            self.decoders.shutdown()

    async def _watch(self) -> None:
        """Keep the catalogue in step with the folder."""
        while self.settings.watch_seconds:
            await asyncio.sleep(self.settings.watch_seconds)
            try:
                await asyncio.to_thread(self.artifacts.scan)
            except SpeechPromptError as error:
                logger.warning("the artifacts cannot be watched", extra={"reason": str(error)})
            except Exception:
                logger.exception("the artifacts cannot be watched")

    def client_of(self, connection: HTTPConnection) -> str:
        """Whom fairness counts this connection for."""
        header = self.settings.client_header
        named = connection.headers.getlist(header)[-1:] if header else []
        for said in named:  # what the nearest proxy said, not what it was told
            if client := said.rpartition(",")[2].strip()[:100]:
                return client
        return connection.client.host if connection.client else "local"

    def check_token(self, connection: HTTPConnection) -> None:
        """NotAllowed unless the request carries the server's bearer token."""
        token = self.settings.token
        if token is None:
            raise NotAllowed("this server was started without a token, so its tasks cannot be changed", 403)
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise NotAllowed("changing tasks needs the server's token: Authorization: Bearer TOKEN")

    def check_origin(self, connection: HTTPConnection) -> None:
        """NotAllowed for what a page of another site sends through a user's browser.

        Browsers say so themselves; where one does not, its Origin must name this Host (which a proxy has to pass on).
        """
        site = connection.headers.get("sec-fetch-site", "none")
        origin, host = connection.headers.get("origin"), connection.headers.get("host", "")
        if site == "same-origin":
            return
        if site != "none" or (origin and origin.partition("://")[2] != host):
            raise NotAllowed(
                f"pages of other sites may not use this server: the request is for '{host}' and comes from "
                f"'{origin or site}'; a proxy in front must pass the Host header on",
                403,
            )


def service_of(connection: HTTPConnection) -> Service:
    """The service behind a request."""
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service
