"""What a server has only so much of: who is refused, who is not, and that it is given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from server.material import TOKEN, clip_bytes
from speechprompt.errors import Overloaded
from speechprompt.server.app import create_app
from speechprompt.server.room import Room
from speechprompt.server.service import Service
from speechprompt.server.settings import ServerSettings
from toys import SPOKEN

BODY_BYTES = 40_000


def test_no_client_gets_over_half_of_what_there_is() -> None:
    room = Room(10, "places")
    with room.place("a", 5):
        with pytest.raises(Overloaded, match="half of the 10 places"), room.place("a"):
            pass
        with room.place("b", 3), room.place("b", 2):
            with pytest.raises(Overloaded, match="all 10 places are taken"), room.place("c"):
                pass
            assert room.held == 10
    assert room.held == 0
    with room.place("a", 10):  # as large as all of it, while nobody has any
        assert room.held == 10


@pytest.fixture
def few_bytes(folder: Path) -> ServerSettings:
    """A server that holds two bodies of the largest size."""
    return ServerSettings(
        artifacts=folder, token=TOKEN, watch_seconds=0, body_bytes=BODY_BYTES, held_bytes=2 * BODY_BYTES
    )


def chunks(content: bytes) -> Iterator[bytes]:
    """A body whose size is not announced."""
    yield content


def test_bodies_are_held_within_a_limit(few_bytes: ServerSettings) -> None:
    app = create_app(SPOKEN, few_bytes)
    service: Service = app.state.service
    clip = {"file": clip_bytes(0.3)}
    with TestClient(app) as client:
        whole = client.build_request("POST", "/v1/units", files=clip)
        headers = {"content-type": whole.headers["content-type"]}
        with service.bodies.place("others", 2 * BODY_BYTES - len(whole.read())):
            assert client.post("/v1/units", files=clip).status_code == 200
            unannounced = client.post("/v1/units", content=chunks(whole.read()), headers=headers)
            assert unannounced.status_code == 429  # it may be as large as a body may be
        with service.bodies.place("others", 2 * BODY_BYTES - 100):
            for method, path in (
                ("POST", "/v1/classify"),
                ("POST", "/v1/teaching"),
                ("PUT", "/v1/tasks/word"),
            ):
                allowed = {"authorization": f"Bearer {TOKEN}", **headers}
                refused = client.request(method, path, content=whole.read(), headers=allowed)
                assert refused.status_code == 429, path
                assert refused.json()["type"] == "/docs#problem-overloaded"
                assert int(refused.headers["retry-after"]) > 0
        assert client.post("/v1/units", content=chunks(whole.read()), headers=headers).status_code == 200
        assert "speechprompt_body_bytes 0.0" in client.get("/metrics").text
    assert service.gate.accepted == 0


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (["spoofed", "203.0.113.7"], "203.0.113.7"),
        (["spoofed, 203.0.113.7"], "203.0.113.7"),
        (["a", "spoofed, 203.0.113.7 "], "203.0.113.7"),
        (["spoofed", ""], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_the_client_is_who_the_nearest_proxy_says(headers: list[str], client: str) -> None:
    service = Service(SPOKEN, ServerSettings(client_header="X-Forwarded-For"))
    raw = [(b"x-forwarded-for", value.encode()) for value in headers]
    scope = {"type": "http", "headers": raw, "client": ("10.0.0.1", 1)}
    assert service.client_of(HTTPConnection(scope)) == client
