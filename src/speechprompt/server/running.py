"""The process: listen, serve, and stop without losing what was accepted."""

from __future__ import annotations

import logging

import uvicorn

from speechprompt.server.app import create_app
from speechprompt.server.front_door import log_as_json
from speechprompt.server.settings import ServerSettings
from speechprompt.spoken_lm import SpokenLM


def run_server(
    spoken_lm: SpokenLM, settings: ServerSettings, host: str, port: int, quiet: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT. Blocks. Side effects: sets the logging of this package and of uvicorn."""
    log_as_json(logging.WARNING if quiet else logging.INFO)
    config = uvicorn.Config(
        create_app(spoken_lm, settings),
        host=host,
        port=port,
        http="httptools",
        ws="websockets-sansio",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run()
