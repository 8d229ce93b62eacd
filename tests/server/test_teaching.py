"""Lessons: clips in, a served task out; refused, cancelled, queued and failed ones leave nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import TOKEN, clip_bytes, toy_artifact
from speechprompt.errors import ArtifactError
from speechprompt.experiments.demo import FOLDER
from speechprompt.prompting.artifact import CONFIG, Artifact
from speechprompt.server import lessons as lessons_module
from speechprompt.server import teacher
from speechprompt.server.app import create_app
from speechprompt.server.lessons import ARTIFACT, LabelledClip, Lesson, Lessons, TeachingLimits
from speechprompt.server.settings import ServerSettings
from speechprompt.server.teaching import keeper, plan_of
from speechprompt.spoken_lm import SpokenLM

ALLOWED = {"Authorization": f"Bearer {TOKEN}"}
WAITING_TEACHER = (sys.executable, "-c", "import sys; sys.stdin.read()")
BROKEN_TEACHER = (sys.executable, "-c", "raise SystemExit('out of ideas')")


def demo_clips(label: str, count: int = 3) -> list[Path]:
    """Clips of the demo corpus, one language and one command."""
    return sorted((FOLDER / "clips").glob(f"english_{label}_espeak-ng_*.ogg"))[:count]


def form(labels: tuple[str, ...] = ("left", "stop"), count: int = 3, **fields: Any) -> dict[str, Any]:
    """A lesson as keyword arguments of `post`."""
    rows = [(label, clip) for label in labels for clip in demo_clips(label, count)]
    return {
        "data": {"name": "direction", "label": [label for label, _ in rows], **fields},
        "files": [("clip", (clip.name, clip.read_bytes())) for _, clip in rows],
        "headers": ALLOWED,
    }


def ended(client: TestClient, lesson: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    """The lesson once nothing more changes."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found: dict[str, Any] = client.get(f"/v1/teaching/{lesson['id']}").json()
        if found["state"] not in ("waiting", "running"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"the lesson did not end: {found}")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where lessons put their clips."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(lessons_module.tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def quick(app: FastAPI, scratch: Path) -> Iterator[TestClient]:
    """A client of a server whose teacher only waits, and of which one lesson may wait."""
    with TestClient(app) as client:
        limits = TeachingLimits(most_waiting=1, most_clips=8)
        app.state.lessons = Lessons({}, keeper(app.state.service), limits, WAITING_TEACHER)
        yield client


def test_a_lesson_ends_in_a_task_that_is_served_and_kept(tmp_path: Path, scratch: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    app = create_app(SpokenLM.load("tiny"), ServerSettings(artifacts=folder, token=TOKEN, watch_seconds=0))
    with TestClient(app) as client:
        service = app.state.service
        app.state.lessons = Lessons({**plan_of(service), "steps": 8}, keeper(service))
        begun = client.post("/v1/teaching", **form())
        assert begun.status_code == 202, begun.text
        assert begun.headers["location"] == f"/v1/teaching/{begun.json()['id']}"
        assert begun.json()["labels"] == {"left": 3, "stop": 3}
        assert len(client.get("/v1/teaching").json()["jobs"]) == 1
        found = ended(client, begun.json())
        assert found["state"] == "done", found
        assert found["held_out"]["clips"] == 6
        assert found["step"] == found["steps"] == 8
        clip = demo_clips("stop")[0]
        answer = client.post("/v1/classify", files={"file": clip.read_bytes()}, data={"task": ["direction"]})
        assert answer.json()["predictions"][0]["slots"]["label"]["label"] == "stop"
        assert client.get("/v1/tasks").json()["tasks"][0]["metrics"]["held_out"] == found["held_out"]
        assert client.get("/v1/teaching").json()["jobs"] == []
    assert not list(scratch.iterdir())
    kept = Artifact.load(folder / "direction", SpokenLM.load("tiny"))
    assert kept.config.tokenizer_fingerprint == SpokenLM.load("tiny").tokenizer.fingerprint
    assert str(scratch) not in kept.config.model_dump_json()


def test_who_may_not_teach_and_what_cannot_be_taught(quick: TestClient) -> None:
    def refused(status: int, *words: str, **changes: Any) -> None:
        found = quick.post("/v1/teaching", **{**form(), **changes})
        assert found.status_code == status, found.text
        assert all(word in found.json()["detail"] for word in words), found.json()

    refused(401, "token", headers={})
    refused(401, "token", headers={"Authorization": "Bearer another-token-here"})
    refused(422, "name", **form(name="../evil"))
    refused(422, "at least two labels", **form(labels=("left",)))
    refused(422, "at least 3 of each", **form(count=2))
    refused(422, "6 clips but 1 labels", **form(label=["left"]))
    refused(422, "printable", **form(label=["left\n\0"] * 3 + ["stop"] * 3))
    refused(413, "over the limit", **form(labels=("left", "stop", "up")))
    refused(409, "task 'word' already exists; choose another name, or send replace=true", **form(name="word"))
    refused(422, "part 'nmae', which is unknown here; known: name, label, clip, replace", **form(nmae="x"))
    refused(422, "multipart", files=[], data=None, json={"name": "x"})
    assert quick.get("/v1/teaching").json()["jobs"] == []
    assert quick.get("/v1/teaching/nothing").status_code == 404


def test_what_is_there_is_not_taught_over(app: FastAPI, folder: Path, scratch: Path) -> None:
    (folder / "word" / CONFIG).write_bytes(b"of another time")
    with TestClient(app) as client:
        app.state.lessons = Lessons({}, keeper(app.state.service), None, WAITING_TEACHER)
        assert list(client.get("/v1/tasks").json()["refused"]) == ["word"]

        def status(name: str, **fields: str) -> int:
            return int(client.post("/v1/teaching", **form(name=name, **fields)).status_code)

        assert [status("word"), status("word", replace="true")] == [409, 202]
        assert [status("new"), status("new"), status("new", replace="true")] == [202, 409, 202]
        detail = client.post("/v1/teaching", **form(name="new")).json()["detail"]
        assert detail.startswith(
            "a lesson for task 'new' already exists; choose another name, or send replace"
        )


@pytest.mark.parametrize(("replace", "state"), [("false", "failed"), ("true", "done")])
def test_a_task_that_came_during_the_lesson_is_not_taught_over(
    app: FastAPI, scratch: Path, monkeypatch: pytest.MonkeyPatch, replace: str, state: str
) -> None:
    service = app.state.service
    taught = dataclasses.replace(toy_artifact("late", ["length"]), metrics={"held_out": {"clips": 6}})

    async def teach(lessons: Lessons, lesson: Lesson) -> None:
        taught.save(lesson.folder / ARTIFACT)
        service.artifacts.register(toy_artifact("late", ["word"]), "late")

    monkeypatch.setattr(Lessons, "_teach", teach)
    with TestClient(app) as client:
        found = ended(client, client.post("/v1/teaching", **form(name="late", replace=replace)).json())
        assert found["state"] == state, found
        assert state == "done" or "task 'late' already exists; choose another name" in found["problem"]
        slots = client.get("/v1/tasks/late").json()["slots"]
        assert list(slots) == (["length"] if state == "done" else ["word"])


def test_a_server_without_a_token_teaches_nobody(folder: Path) -> None:
    from toys import SPOKEN

    with TestClient(create_app(SPOKEN, ServerSettings(artifacts=folder, watch_seconds=0))) as client:
        assert client.get("/v1/teaching").json()["enabled"] is False
        assert client.post("/v1/teaching", **form()).status_code == 403


def test_one_at_a_time_a_bounded_queue_and_cancelling(quick: TestClient, scratch: Path) -> None:
    running, waiting = (quick.post("/v1/teaching", **form(name=name)).json() for name in ("one", "two"))
    full = quick.post("/v1/teaching", **form(name="three"))
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) > 0
    assert quick.delete(f"/v1/teaching/{running['id']}").status_code == 401
    for lesson in (waiting, running):
        gone = quick.delete(f"/v1/teaching/{lesson['id']}", headers=ALLOWED)
        assert gone.json()["state"] == "cancelled"
        again = quick.delete(f"/v1/teaching/{lesson['id']}", headers=ALLOWED)
        assert again.json()["state"] == "cancelled"
    assert not list(scratch.iterdir())
    assert {task["name"] for task in quick.get("/v1/tasks").json()["tasks"]} == {"both", "length", "word"}


@pytest.mark.parametrize(("problem", "state"), [("", "done"), ("another model", "failed")])
def test_a_lesson_that_is_being_kept_is_past_cancelling(scratch: Path, problem: str, state: str) -> None:
    keeping, cancelled = threading.Event(), threading.Event()
    kept: list[str] = []

    def keep(folder: Path, name: str, replace: bool) -> dict[str, int]:
        keeping.set()
        assert cancelled.wait(30)
        assert folder.parent.is_dir()
        if problem:
            raise ArtifactError(problem)
        kept.append(name)
        return {"clips": 6}

    async def cancel() -> Lesson:
        lessons = Lessons({}, keep, teacher=(sys.executable, "-c", "pass"))
        lesson = lessons.begin("door", [LabelledClip("open", "open.wav", b"x")])
        await asyncio.to_thread(keeping.wait, 30)
        cancels = [asyncio.create_task(lessons.cancel(lesson.id)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not lesson.ended
        cancelled.set()
        await asyncio.gather(*cancels)
        return lesson

    lesson = asyncio.run(cancel())
    assert (lesson.state, lesson.problem) == (state, problem or None)
    assert kept == (["door"] if state == "done" else [])
    assert not list(scratch.iterdir())


def test_ending_the_server_ends_its_lessons(app: FastAPI, scratch: Path) -> None:
    with TestClient(app) as client:
        app.state.lessons = lessons = Lessons({}, keeper(app.state.service), None, WAITING_TEACHER)
        client.post("/v1/teaching", **form())
    assert [lesson.state for lesson in lessons.lessons.values()] == ["cancelled"]
    assert not list(scratch.iterdir())


def test_a_teacher_that_falls_takes_nothing_down(
    app: FastAPI, scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(app) as client:
        app.state.lessons = Lessons({}, keeper(app.state.service), None, BROKEN_TEACHER)
        found = ended(client, client.post("/v1/teaching", **form()).json())
        assert found["state"] == "failed"
        assert "its log has the reason" in found["problem"]
        assert client.get("/readyz").status_code == 200
    assert "out of ideas" in caplog.text
    assert not list(scratch.iterdir())


def test_a_bad_clip_is_named_as_the_person_knows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [(tmp_path / f"{i:04d}", f"left {i}.wav") for i in range(2)]
    clips[0][0].write_bytes(clip_bytes())
    clips[1][0].write_bytes(clip_bytes()[:30])
    rows = [{"path": str(path), "label": "left", "name": name} for path, name in clips]
    plan = {"spoken_lm": "tiny", "device": "cpu", "threads": 1, "name": "x", "seconds": 30.0, "clips": rows}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert teacher.main(tmp_path) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "'left 1.wav' of left" in said["problem"]
    assert str(tmp_path) not in said["problem"]


def test_an_artifact_of_another_model_is_not_kept(app: FastAPI, tmp_path: Path) -> None:
    artifact = toy_artifact("foreign", ["word"])
    folder = artifact.save(tmp_path / "foreign")
    config = json.loads((folder / "prompt_config.json").read_text())
    (folder / "prompt_config.json").write_text(json.dumps({**config, "lm_fingerprint": "another"}))
    with TestClient(app) as client:
        with pytest.raises(Exception, match="another"):
            keeper(app.state.service)(folder, "foreign", True)
        assert client.get("/v1/tasks/foreign").status_code == 404


def test_a_teacher_loads_the_served_folder_and_not_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lm = SimpleNamespace(device=torch.device("cuda", 1))
    plan = plan_of(SimpleNamespace(spoken_lm=SimpleNamespace(folder=Path("tiny"), name="tiny@1", lm=lm)))
    assert (plan["spoken_lm"], plan["device"]) == (str(tmp_path / "tiny"), "cuda:1")


def test_a_lesson_that_cannot_be_written_leaves_nothing(
    quick: TestClient, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        quick.app.state.lessons.begin("word", [LabelledClip("yes", "a.wav", b"clip")])
    assert not list(scratch.iterdir())
