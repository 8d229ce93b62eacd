"""What the server says about itself: the page at /docs, problems, headers, and the client in the package."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import clip_bytes
from speechprompt.errors import Overloaded, WorkError
from speechprompt.server.client import Client


def test_the_documents_need_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert re.findall(r'(?:src|href)="(?!/|#)[^"]*"', page.text) == []
    assert "<script" not in page.text
    assert " style=" not in page.text
    for path in ("/v1/classify", "/v1/tasks/{name}", "/v1/stream", 'id="problem-unknown-name"'):
        assert path in page.text
    assert client.get("/docs/style.css").headers["content-type"].startswith("text/css")
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/classify", "/v1/units", "/v1/tasks", "/v1/tasks/{name}", "/metrics"} <= set(paths)


def test_every_answer_has_an_id_and_the_security_headers(client: TestClient) -> None:
    for path in ("/healthz", "/docs", "/nowhere", "/v1/tasks/nothing"):
        response = client.get(path, headers={"x-request-id": "mine-1"})
        assert response.headers["x-request-id"] == "mine-1"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "unsafe" not in response.headers["content-security-policy"]
    forged = client.get("/healthz", headers={"x-request-id": "a b" * 100})
    assert re.fullmatch("[0-9a-f]{16}", forged.headers["x-request-id"])
    problem = client.get("/nowhere", headers={"x-request-id": "mine-2"}).json()
    assert problem["instance"] == "urn:request:mine-2"
    assert problem["status"] == 404


def test_a_failure_of_our_own_is_a_problem_without_its_details(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(seconds: float, tasks: int, copies: int) -> float:
        raise RuntimeError("secret")

    with TestClient(app, raise_server_exceptions=False) as client:
        app.state.service.engine.planned_seconds = broken
        with caplog.at_level(logging.CRITICAL):
            response = client.post("/v1/classify", files={"file": clip_bytes()})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text


def test_pages_of_other_sites_may_not_ask(client: TestClient) -> None:
    for headers in ({"origin": "https://elsewhere.example"}, {"sec-fetch-site": "cross-site"}):
        assert client.post("/v1/classify", files={"file": clip_bytes()}, headers=headers).status_code == 403
    said = client.post("/v1/classify", files={"file": clip_bytes()}, headers={"origin": "https://b.example"})
    assert "for 'testserver' and comes from 'https://b.example'" in said.json()["detail"]
    for own in (
        {"origin": "http://testserver"},
        {"origin": "http://testserver", "sec-fetch-site": "same-origin"},
        {
            "origin": "https://speech.example",
            "sec-fetch-site": "same-origin",
        },  # behind a proxy that hides Host
    ):
        assert client.post("/v1/classify", files={"file": clip_bytes()}, headers=own).status_code == 200


def through(client: TestClient) -> Client:
    ours = Client("http://testserver")
    ours._http = client  # type: ignore[assignment]
    return ours


def test_the_client_reads_what_the_server_says(client: TestClient, tmp_path: Path) -> None:
    ours = through(client)
    (tmp_path / "clip.wav").write_bytes(clip_bytes())
    answers = ours.classify(tmp_path / "clip.wav", ["word"], top_k=1)
    assert list(answers.predictions[0].slots["word"].scores) == [answers.predictions[0].slots["word"].label]
    assert len(ours.classify(clip_bytes()).predictions) == 3
    assert [task.name for task in ours.tasks().tasks] == ["both", "length", "word"]
    assert ours.units(clip_bytes()).frame_rate == 50
    with pytest.raises(WorkError, match="did you mean word"):
        ours.classify(clip_bytes(), ["wrod"])


def test_the_client_says_when_to_come_back() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(429, headers={"retry-after": "3"}, json={"detail": "later"})

    ours = Client()
    ours._http = httpx2.Client(transport=httpx2.MockTransport(refuse), base_url="http://x")
    with pytest.raises(Overloaded) as refused:
        ours.tasks()
    assert refused.value.retry_after_seconds == 3


@pytest.mark.parametrize(
    ("status", "content", "error", "match"),
    [
        (503, b"", Overloaded, "503"),
        (502, b"<html>Bad Gateway</html>", WorkError, "502 Bad Gateway"),
        (431, b"[]", WorkError, "431"),
        (None, b"", WorkError, "http://x gave no answer"),
    ],
)
def test_the_client_s_errors_are_ours(
    status: int | None, content: bytes, error: type[Exception], match: str
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if status is None:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(status, content=content)

    ours = Client()
    ours._http = httpx2.Client(transport=httpx2.MockTransport(answer), base_url="http://x")
    with pytest.raises(error, match=match):
        ours.tasks()


def test_the_client_needs_no_torch() -> None:
    code = (
        "import sys, speechprompt.server.client; print([n for n in ('torch', 'fastapi') if n in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
