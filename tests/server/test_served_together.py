"""A task of several prompts that answer together, served: the library's answers, and what it plans for them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import soundfile
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import TOKEN, clip_bytes, toy_artifact
from server.test_served_artifacts import files_of, zipped
from server.test_served_copies import rough_clip
from speechprompt.evaluation.occlusion import occlude_together, pooled
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.predictor import Predictor
from speechprompt.server.catalogue import readings_of
from toys import SPOKEN, together_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task of one prompt between two of several, one of which is read slot by slot."""
    folder = tmp_path / "prompts"
    kinds = {"decoding": "autoregressive", "method": "input"}
    three = [toy_artifact("a", ["word", "length"], seed=seed, **kinds) for seed in range(3)]
    two = [toy_artifact("c", ["word"], seed=seed) for seed in range(2)]
    together_of(*three).save(folder / "a")
    toy_artifact("b", ["length"]).save(folder / "b")
    together_of(*two).save(folder / "c")
    return folder


@pytest.mark.parametrize(("seconds", "copies"), [(1.0, 0), (1.0, 2), (23.0, 2)])
def test_answers_are_the_librarys(
    client: TestClient, folder: Path, tmp_path: Path, seconds: float, copies: int
) -> None:
    content = rough_clip(seconds)
    (tmp_path / "clip.wav").write_bytes(content)
    expected = Predictor(SPOKEN, [folder / name for name in "abc"], copies=copies).predict(
        tmp_path / "clip.wav"
    )
    form = {"task": ["a", "b", "c"], "copies": str(copies)}
    response = client.post("/v1/classify", files={"file": content}, data=form)
    assert response.status_code == 200, response.text
    found = response.json()["predictions"]
    assert [each["task"] for each in found] == ["a", "b", "c"]
    for ours, theirs in zip(found, expected, strict=True):
        for slot, answer in theirs.slots.items():
            assert ours["slots"][slot]["scores"] == pytest.approx(dict(answer.scores), abs=1e-5)
    first = Artifact.load(folder / "c", SPOKEN)
    alone = Predictor(SPOKEN, [toy_artifact("c", ["word"])], copies=copies).predict(tmp_path / "clip.wav")
    assert first.others
    assert dict(alone[0].slots["word"].scores) != pytest.approx(found[2]["slots"]["word"]["scores"], abs=1e-4)


def test_parts_that_matter_are_those_of_all_prompts(client: TestClient, folder: Path) -> None:
    content = clip_bytes(0.7)
    found = client.post("/v1/explain", files={"file": content}, data={"task": "c"}).json()
    artifact = Artifact.load(folder / "c", SPOKEN)
    waveform, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    [whole] = pooled(occlude_together(SPOKEN.lm, artifact.members, [SPOKEN.tokenizer.encode(waveform)], 7))
    assert [span["importance"] for span in found["spans"]] == pytest.approx(
        whole.importance("word"), abs=1e-4
    )


def test_every_prompt_counts_as_work(app: FastAPI, client: TestClient) -> None:
    tasks = list(app.state.service.catalogue.tasks.values())
    assert readings_of(tasks) == 6
    engine = app.state.service.engine
    alone = engine.planned_seconds(1.0, 0)
    each = engine.planned_seconds(1.0, 1) - alone
    assert engine.planned_seconds(1.0, 6) - alone == pytest.approx(6 * each)
    assert each > 0


def test_an_upload_may_hold_several(client: TestClient, folder: Path) -> None:
    sent = client.put(
        "/v1/tasks/other",
        content=zipped(files_of(folder / "c")),
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    assert sent.status_code in (200, 201), sent.text
    found = {name: client.get(f"/v1/tasks/{name}").json() for name in ("b", "c", "other")}
    assert found["other"]["revision"] == found["c"]["revision"]
    assert [found[name]["prompts"] for name in ("b", "c", "other")] == [1, 2, 2]
