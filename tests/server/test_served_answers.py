"""What the routes answer: the same as the library, and an error that helps where there is no answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import soundfile
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import clip_bytes
from speechprompt.prompting.predictor import Predictor, WindowScores
from speechprompt.server.engine import Row
from toys import SPOKEN


def test_answers_are_the_librarys(client: TestClient, folder: Path, tmp_path: Path) -> None:
    content = clip_bytes(1.0)
    (tmp_path / "clip.wav").write_bytes(content)
    names = ["both", "length", "word"]
    expected = Predictor(SPOKEN, [folder / name for name in names]).predict(tmp_path / "clip.wav")
    response = client.post("/v1/classify", files={"file": ("clip.wav", content)})
    assert response.status_code == 200, response.text
    found = response.json()
    assert found["duration_seconds"] == pytest.approx(1.0)
    assert [answer["task"] for answer in found["predictions"]] == names
    for ours, theirs in zip(found["predictions"], expected, strict=True):
        assert ours["score"] == pytest.approx(theirs.score, abs=1e-5)
        assert ours["out_of_domain"] == pytest.approx(theirs.out_of_domain, abs=1e-4)
        for slot, answer in theirs.slots.items():
            assert ours["slots"][slot]["label"] == answer.label
            assert ours["slots"][slot]["scores"] == pytest.approx(dict(answer.scores), abs=1e-5)


def test_an_unknown_task_is_a_404_with_the_nearest_names(client: TestClient) -> None:
    response = client.post("/v1/classify", files={"file": clip_bytes()}, data={"task": ["wrod"]})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["nearest"] == ["word"]
    assert "did you mean word" in response.json()["detail"]
    assert client.get("/v1/tasks/lenght").json()["nearest"] == ["length"]


@pytest.mark.parametrize(
    ("route", "known"),
    [
        ("classify", "file, sample_rate, task, top_k, copies"),
        ("units", "file, sample_rate"),
        ("explain", "file, sample_rate, task, slot"),
    ],
)
def test_a_misspelt_part_of_a_form_is_told(client: TestClient, route: str, known: str) -> None:
    for data, files in (({"taks": "word"}, {}), ({}, {"taks": ("a.wav", clip_bytes())})):
        response = client.post(f"/v1/{route}", files={"file": clip_bytes(), **files}, data=data)
        assert response.status_code == 422
        assert (
            response.json()["detail"] == f"the form has a part 'taks', which is unknown here; known: {known}"
        )


def test_forms_are_described_as_closed(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for route in ("classify", "units", "explain", "teaching"):
        body = paths[f"/v1/{route}"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert body["additionalProperties"] is False


def test_the_catalogue_and_the_probes(client: TestClient) -> None:
    listed = client.get("/v1/tasks").json()
    assert [task["name"] for task in listed["tasks"]] == ["both", "length", "word"]
    assert listed["spoken_lm"] == SPOKEN.name
    assert client.get("/v1/tasks/word").json()["prompt_length"] == 2
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert "default-src 'none'" in client.get("/healthz").headers["content-security-policy"]
    client.post("/v1/classify", files={"file": clip_bytes()}, data={"task": ["word"]})
    text = client.get("/metrics").text
    assert 'speechprompt_answers_total{task="word"} 1.0' in text
    assert 'speechprompt_requests_total{route="/v1/classify",status="200"} 1.0' in text


def test_units_are_the_tokenizers(client: TestClient, tmp_path: Path) -> None:
    content = clip_bytes(0.5)
    (tmp_path / "clip.wav").write_bytes(content)
    waveform, _ = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    found = client.post("/v1/units", files={"file": ("c.wav", content)}).json()
    expected = SPOKEN.tokenizer.encode(waveform)
    assert found["windows"] == [{"ids": expected.ids.tolist(), "durations": expected.durations.tolist()}]


def test_a_full_server_says_when_to_come_back(app: FastAPI, address: str) -> None:
    gate = app.state.service.gate
    files = {"file": clip_bytes()}
    with httpx2.Client(base_url=address, timeout=30) as http:
        with gate.enter("127.0.0.1", time.monotonic() + 60) as ticket:
            ticket.settle(5.0)
            for _ in range(3):  # on one connection, whose unread bodies must not confuse it
                refused = http.post("/v1/classify", files=files)
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.headers["content-type"] == "application/problem+json"
                assert refused.json()["retry_after_seconds"] >= 1
            assert http.get("/v1/tasks").status_code == 200
            patient = http.post("/v1/classify?deadline_seconds=100", files=files)
            assert patient.status_code == 200
        assert http.post("/v1/classify", files=files).status_code == 200
    text = httpx2.get(f"{address}/metrics").text
    assert 'speechprompt_requests_total{route="/v1/classify",status="429"} 3.0' in text


def test_the_work_of_a_client_that_hangs_up_is_dropped(
    app: FastAPI, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, begun, go_on = app.state.service.engine, threading.Event(), threading.Event()
    score = engine.lm._run

    def slow(rows: Sequence[Row]) -> Sequence[WindowScores]:
        begun.set()
        assert go_on.wait(30)
        return score(rows)

    engine.lm._run = slow
    with httpx2.Client(base_url=address, timeout=30) as patient, ThreadPoolExecutor(1) as threads:
        first = threads.submit(patient.post, "/v1/classify", files={"file": clip_bytes(1.0)})
        assert begun.wait(30)
        with pytest.raises(httpx2.TimeoutException):  # its rows wait behind the first client's
            httpx2.post(f"{address}/v1/classify", files={"file": clip_bytes(2.0)}, timeout=1.0)
        until = time.monotonic() + 30
        while app.state.service.engine.lm.queued == 0 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)  # until the server has seen that the connection is closed
        go_on.set()
        assert first.result().status_code == 200
        while app.state.service.gate.accepted and time.monotonic() < until:
            time.sleep(0.01)
    text = httpx2.get(f"{address}/metrics").text
    assert 'speechprompt_requests_total{route="/v1/classify",status="408"} 1.0' in text
    assert not [record for record in caplog.records if record.exc_info]
