"""What mattered: the route's parts are those of the library, on the scale of the clip."""

from __future__ import annotations

import io

import pytest
import soundfile
from fastapi.testclient import TestClient

from server.material import clip_bytes
from speechprompt.evaluation.occlusion import occlude, pooled, span_seconds
from speechprompt.prompting.artifact import Artifact
from toys import SPOKEN


@pytest.mark.parametrize(("seconds", "windows"), [(0.7, 1), (12.0, 2)])
def test_parts_are_the_librarys(client: TestClient, folder: object, seconds: float, windows: int) -> None:
    content = clip_bytes(seconds)
    form = {"task": "both", "slot": "length"}
    found = client.post("/v1/explain", files={"file": ("clip.wav", content)}, data=form).json()
    artifact = Artifact.load(f"{folder}/both", SPOKEN)
    waveform, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    size = len(waveform) // windows
    units = [SPOKEN.tokenizer.encode(waveform[i * size : (i + 1) * size]) for i in range(windows)]
    most = min(round(seconds / windows / 0.1), 64 // windows)
    expected = pooled(occlude(SPOKEN.lm, artifact.entry, units, most))
    calibration = artifact.config.calibration
    worth = [value for part in expected for value in part.importance("length", calibration=calibration)]
    starts = [
        i * seconds / windows + start
        for i, (row, part) in enumerate(zip(units, expected, strict=True))
        for start, _ in span_seconds(row, part.spans, 50.0)
    ]
    assert [span["importance"] for span in found["spans"]] == pytest.approx(worth, abs=1e-4)
    assert [span["start_seconds"] for span in found["spans"]] == pytest.approx(starts)
    assert [unit["id"] for unit in found["units"]] == [int(i) for row in units for i in row.ids]
    assert found["units"][-1]["end_seconds"] == pytest.approx(seconds, abs=0.03)
    answer = client.post("/v1/classify", files={"file": content}, data={"task": ["both"]}).json()
    assert found["label"] == answer["predictions"][0]["slots"]["length"]["label"]


def test_what_cannot_be_explained(client: TestClient) -> None:
    def refused(status: int, word: str, **form: object) -> None:
        found = client.post("/v1/explain", files={"file": clip_bytes()}, data=form)
        assert found.status_code == status
        assert word in found.json()["detail"]

    refused(404, "did you mean word", task="wrod")
    refused(404, "unknown slot 'x'; known: word", task="word", slot="x")
    refused(422, "0 parts 'task'")
    refused(422, "2 parts 'task'", task=["word", "both"])
