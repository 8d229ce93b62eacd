"""Clips that the server hears at other speeds too: the library's answers, what it costs, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import clip_bytes, toy_artifact
from speechprompt.prompting.predictor import Prediction, Predictor
from speechprompt.server.app import create_app
from speechprompt.server.client import Client
from speechprompt.server.engine import REQUEST_SECONDS
from speechprompt.server.settings import ServerSettings
from speechprompt.speech.unit_cache import UnitCache
from toys import SPOKEN, artifact_of, entry_of, together_of

NAMES = ["both", "length", "word"]


def rough_clip(seconds: float) -> bytes:
    """A wav file of noise whose loudness wanders from unit to unit, so that copies get other units."""
    random = np.random.default_rng(0)
    loud = np.repeat(10 ** random.uniform(-3.9, -0.4, int(50 * seconds)), 160)
    file = io.BytesIO()
    soundfile.write(file, random.standard_normal(len(loud)) * loud, 8000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize("seconds", [1.0, 23.0])
@pytest.mark.parametrize("copies", [0, 2, 4])
def test_answers_over_copies_are_the_librarys(
    client: TestClient, folder: Path, tmp_path: Path, seconds: float, copies: int
) -> None:
    content = rough_clip(seconds)
    (tmp_path / "clip.wav").write_bytes(content)
    paths = [folder / name for name in NAMES]
    expected = Predictor(SPOKEN, paths, copies=copies).predict(tmp_path / "clip.wav")
    once = Predictor(SPOKEN, paths).predict(tmp_path / "clip.wav")
    for _ in range(2):  # the second time from the cache
        response = client.post("/v1/classify", files={"file": content}, data={"copies": str(copies)})
        assert response.status_code == 200, response.text
        found = response.json()
        assert found["window_count"] == (3 if seconds > 20 else 1)
        assert found["unit_count"] == once[0].unit_count
        for ours, theirs, alone in zip(found["predictions"], expected, once, strict=True):
            assert ours["task"] == theirs.task
            assert ours["out_of_domain"] == pytest.approx(theirs.out_of_domain, abs=1e-4)
            for slot, answer in theirs.slots.items():
                assert ours["slots"][slot]["scores"] == pytest.approx(dict(answer.scores), abs=1e-5)
                assert (answer.scores == alone.slots[slot].scores) == (copies == 0)


def test_a_clip_too_short_to_hasten_is_heard_as_it_is(
    client: TestClient, folder: Path, tmp_path: Path
) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(1).standard_normal(161) * 0.1
    soundfile.write(file, noise, 8000, format="WAV", subtype="FLOAT")
    (tmp_path / "clip.wav").write_bytes(file.getvalue())
    [expected] = Predictor(SPOKEN, [folder / "word"], copies=2).predict(tmp_path / "clip.wav")
    asked = {"task": ["word"], "copies": "2"}
    response = client.post("/v1/classify", files={"file": file.getvalue()}, data=asked)
    assert response.status_code == 200, response.text
    [found] = response.json()["predictions"]
    assert found["slots"]["word"]["scores"] == pytest.approx(dict(expected.slots["word"].scores), abs=1e-5)


@pytest.mark.parametrize("copies", ["1", "2.5", "-2", "22", "many", "nan"])
def test_a_number_of_copies_that_cannot_be_is_refused(client: TestClient, copies: str) -> None:
    response = client.post("/v1/classify", files={"file": clip_bytes()}, data={"copies": copies})
    assert response.status_code == client.post("/v1/classify", data={"copies": "2"}).status_code == 422
    assert response.json()["detail"].startswith("copies is ")


def test_the_work_of_copies_is_planned(app: FastAPI) -> None:
    planned = app.state.service.engine.planned_seconds
    once, thrice = planned(3.0, 2) - REQUEST_SECONDS, planned(3.0, 6, 3) - REQUEST_SECONDS
    assert thrice == pytest.approx(3 * once)
    with TestClient(app) as client:
        form = {"copies": "20"}
        response = client.post(
            "/v1/classify?deadline_seconds=0.1", files={"file": clip_bytes(60.0)}, data=form
        )
    assert response.status_code == 413
    assert "ask for fewer tasks or less audio" in response.json()["detail"]


def test_the_client_asks_for_copies(address: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(rough_clip(1.0))
    [expected] = Predictor(SPOKEN, [folder / "word"], copies=2).predict(tmp_path / "clip.wav")
    with Client(address) as ours:
        [found] = ours.classify(tmp_path / "clip.wav", ["word"], copies=2).predictions
        assert ours.tasks().tasks[0].answer_copies == 0
        [once], [plain] = (
            ours.classify(tmp_path / "clip.wav", ["word"], copies=copies).predictions for copies in (0, None)
        )
    assert once == plain != found
    assert found.slots["word"].scores == pytest.approx(dict(expected.slots["word"].scores), abs=1e-5)


@pytest.fixture
def trained_to(tmp_path: Path) -> Path:
    """A folder of tasks that answer over no copies, two and four, the last with two prompts."""
    folder = tmp_path / "trained"
    for name, copies in (("none", 0), ("two", 2)):
        artifact = toy_artifact(name, ["word"], seed=copies)
        config = artifact.config.model_copy(update={"answer_copies": copies})
        replace(artifact, config=config).save(folder / name)
    several = together_of(*(artifact_of(entry_of(SPOKEN.lm, seed=seed)) for seed in (5, 6)))
    config = several.config.model_copy(update={"answer_copies": 4})
    replace(several, config=config).save(folder / "four")
    return folder


@pytest.fixture
def server(trained_to: Path) -> FastAPI:
    return create_app(SPOKEN, ServerSettings(artifacts=trained_to, watch_seconds=0))


def agree(found: list[dict[str, Any]], expected: list[Prediction]) -> bool:
    """Whether a server's answers are the library's, in the order of names."""
    ours = [x for each in found for slot in each["slots"].values() for _, x in sorted(slot["scores"].items())]
    theirs = [
        x
        for each in sorted(expected, key=lambda each: each.task)
        for slot in each.slots.values()
        for _, x in sorted(slot.scores.items())
    ]
    return ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("seconds", [1.0, 23.0])
def test_each_task_is_heard_as_it_was_trained_to_and_planned_so(
    server: FastAPI, trained_to: Path, tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, paths = rough_clip(seconds), [trained_to / name for name in ("none", "two", "four")]
    (tmp_path / "clip.wav").write_bytes(content)
    engine = server.state.service.engine
    plan, pieces = engine.planned_seconds, engine._pieces
    planned: list[tuple[int, ...]] = []
    done = {"encoder": 0, "lm": 0}

    def noted(clip_seconds: float, *counts: int) -> float:
        planned.append(counts)
        return float(plan(clip_seconds, *counts))

    def counted(stage: Any, works: Any, *rest: Any) -> Any:
        done[stage.name] += len(works)
        return pieces(stage, works, *rest)

    monkeypatch.setattr(engine, "planned_seconds", noted)
    monkeypatch.setattr(engine, "_pieces", counted)
    with TestClient(server) as client:
        for copies, plans in ((None, (1 + 3 + 2 * 5, 5)), (0, (4, 1)), (2, (12, 3))):
            engine.cache = engine.clips.cache = UnitCache()
            done |= {"encoder": 0, "lm": 0}
            data = {} if copies is None else {"copies": str(copies)}
            response = client.post("/v1/classify", files={"file": content}, data=data)
            assert response.status_code == 200, response.text
            found = response.json()
            told = Predictor(SPOKEN, paths, copies=copies).predict(tmp_path / "clip.wav")
            assert agree(found["predictions"], told)
            assert planned.pop() == plans
            windows = found["window_count"]
            assert (done["lm"], done["encoder"]) == (plans[0] * windows, plans[1] * windows)
        asked = client.post("/v1/classify", files={"file": content}, data={"task": "none"})
        assert asked.status_code == 200
        assert planned.pop() == (1, 1)
        listed = {task["name"]: task["answer_copies"] for task in client.get("/v1/tasks").json()["tasks"]}
    assert listed == {"none": 0, "two": 2, "four": 4}


def test_a_stream_hears_once_whatever_its_tasks_were_trained_to(server: FastAPI, trained_to: Path) -> None:
    waveform, _ = soundfile.read(io.BytesIO(rough_clip(1.0)), dtype="float32")
    samples = (np.clip(waveform, -1, 1) * 32767).astype("<i2")
    with (
        TestClient(server) as client,
        client.websocket_connect("/v1/stream?task=two&sample_rate=8000&window_seconds=1") as socket,
    ):
        socket.send_bytes(samples.tobytes())
        socket.send_text("end")
        told: list[dict[str, Any]] = []
        while not told or told[-1]["event"] != "end":
            told.append(socket.receive_json())
    [found] = next(event["predictions"] for event in told if event["event"] == "window")
    heard = samples.astype(np.float32) / np.float32(32768)
    once, thrice = (
        Predictor(SPOKEN, [trained_to / "two"], copies=copies).predict(heard) for copies in (0, None)
    )
    assert agree([found], once)
    assert not agree([found], thrice)
