"""Clips that the server hears at other speeds too: the library's answers, what it costs, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import clip_bytes
from speechprompt.prompting.predictor import Predictor
from speechprompt.server.client import Client
from speechprompt.server.engine import REQUEST_SECONDS
from toys import SPOKEN

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
    once, thrice = planned(3.0, 2) - REQUEST_SECONDS, planned(3.0, 2, 2) - REQUEST_SECONDS
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
    assert found.slots["word"].scores == pytest.approx(dict(expected.slots["word"].scores), abs=1e-5)
