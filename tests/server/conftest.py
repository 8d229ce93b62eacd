"""A server in this process over the toy spoken LM, and clips to send it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import TOKEN, toy_artifact
from speechprompt.server.app import create_app
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
