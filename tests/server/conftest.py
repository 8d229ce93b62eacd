"""Servers in this process over the toy spoken LM: one without a network, one on a loopback port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import TOKEN, toy_artifact
from speechprompt.server.app import create_app
from speechprompt.server.running import GracefulServer, configuration, listen
from speechprompt.server.settings import ServerSettings
from toys import SPOKEN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three artifacts of different kinds in a folder."""
    folder = tmp_path / "prompts"
    toy_artifact("word", ["word"], prompt_length=2, verbalizer="random").save(folder / "word")
    toy_artifact("both", ["word", "length"], method="input", decoding="autoregressive").save(folder / "both")
    toy_artifact("length", ["length"], recipe="paper", prompt_length=5).save(folder / "length")
    return folder


@pytest.fixture
def app(folder: Path) -> FastAPI:
    """The application over that folder, which it does not watch."""
    return create_app(SPOKEN, ServerSettings(artifacts=folder, token=TOKEN, watch_seconds=0))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the running application."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """The address of the running application, served as `speechprompt serve` does."""
    listening = listen("127.0.0.1", 0)
    server = GracefulServer(configuration(app), app.state.service)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not app.state.service.ready:
        thread.join(0.01)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()
