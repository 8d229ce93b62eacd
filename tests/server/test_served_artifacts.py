"""Artifacts come, change and go while the server runs; what is no artifact never reaches the catalogue."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import struct
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import TOKEN, clip_bytes, toy_artifact
from speechprompt.errors import ArtifactError
from speechprompt.prompting.artifact import CARD, CONFIG, METRICS, TENSORS
from speechprompt.server.app import create_app
from speechprompt.server.archive import unpack
from speechprompt.server.service import Service
from speechprompt.server.settings import ServerSettings
from toys import SPOKEN

ALLOWED = {"authorization": f"Bearer {TOKEN}"}


def zipped(files: Mapping[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content, **options)
    return buffer.getvalue()


def files_of(folder: Path, under: str = "") -> dict[str, bytes]:
    return {under + path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def names(client: TestClient) -> list[str]:
    return [task["name"] for task in client.get("/v1/tasks").json()["tasks"]]


def test_put_replace_and_delete(client: TestClient, folder: Path) -> None:
    content = zipped(files_of(folder / "word", "word/"))
    put = client.put("/v1/tasks/new", content=content, headers=ALLOWED)
    assert put.status_code == 200, put.text
    assert (folder / "new" / CONFIG).is_file()
    assert "new" in names(client)
    replaced = client.put("/v1/tasks/new", content=zipped(files_of(folder / "length")), headers=ALLOWED)
    assert replaced.json()["revision"] != put.json()["revision"]
    answer = client.post("/v1/classify", files={"file": clip_bytes()}, data={"task": "new"}).json()
    assert answer["predictions"][0]["revision"] == replaced.json()["revision"]
    assert client.delete("/v1/tasks/new", headers=ALLOWED).status_code == 204
    assert not (folder / "new").exists()
    assert client.delete("/v1/tasks/new", headers=ALLOWED).status_code == 404
    assert names(client) == ["both", "length", "word"]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}]
)
def test_changes_need_the_token(client: TestClient, headers: dict[str, str]) -> None:
    for response in (
        client.put("/v1/tasks/word", content=b"", headers=headers),
        client.delete("/v1/tasks/word", headers=headers),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert "word" in names(client)


def test_without_a_token_nothing_can_be_changed(folder: Path) -> None:
    with TestClient(create_app(SPOKEN, ServerSettings(artifacts=folder, watch_seconds=0))) as client:
        assert client.delete("/v1/tasks/word", headers=ALLOWED).status_code == 403


def hostile_zips(folder: Path) -> dict[str, bytes]:
    good = files_of(folder / "word")
    bomb = {**good, TENSORS: bytes(65 * 2**20)}
    encrypted = bytearray(zipped(good))
    for place in range(len(encrypted) - 8):
        if encrypted[place : place + 4] == b"PK\x01\x02":
            encrypted[place + 8] |= 1
    many = zipped({f"{i}.txt": b"" for i in range(2000)})
    return {
        "nothing": b"",
        "no zip": b"PK" * 500,
        "truncated": zipped(good)[:-30],
        "end only": struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 46, 2**31, 0),
        "bomb": zipped(bomb),
        "path out": zipped({**good, "../word/prompt_config.json": b"{}"}),
        "absolute path": zipped({"/etc/prompt_config.json": b"{}"}),
        "windows path": zipped({**good, "C:\\prompt_config.json": b"{}"}),
        "two folders": zipped(
            {**files_of(folder / "word", "a/"), **files_of(folder / "length", "b/")} | {"c/README.md": b""}
        ),
        "encrypted": bytes(encrypted),
        "many files": many,
        "lzma": zipped(good, compress_type=zipfile.ZIP_LZMA),
        "no config": zipped({TENSORS: good[TENSORS]}),
        "deep json": zipped({**good, CONFIG: b"[" * 100_000}),
        "foreign": zipped({**good, CONFIG: good[CONFIG].replace(SPOKEN.lm.fingerprint.encode(), b"other")}),
        "not tensors": zipped({**good, TENSORS: b"\xff" * 100}),
    }


def test_what_is_no_artifact_is_refused_and_the_old_one_stays(client: TestClient, folder: Path) -> None:
    before = client.get("/v1/tasks/word").json()["revision"]
    for name, content in hostile_zips(folder).items():
        response = client.put("/v1/tasks/word", content=content, headers=ALLOWED)
        assert response.status_code == 422, (name, response.text)
        assert response.json()["type"] == "/docs#problem-artifact-error", name
        assert str(folder) not in response.text, name
    assert client.get("/v1/tasks/word").json()["revision"] == before
    assert sorted(path.name for path in folder.iterdir()) == ["both", "length", "word"]


@pytest.mark.parametrize("place", ["nowhere", "scratch", "unpacking", "keeping"])
def test_what_cannot_be_written_is_a_problem_with_a_reason(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    content = zipped(files_of(folder / "word"))
    if place == "nowhere":
        shutil.rmtree(folder)
    else:
        broken = {
            "scratch": (tempfile, "mkdtemp"),
            "unpacking": (Path, "write_bytes"),
            "keeping": (Path, "write_text"),
        }
        monkeypatch.setattr(*broken[place], full)
    response = client.put("/v1/tasks/new", content=content, headers=ALLOWED)
    reason = "No such file or directory" if place == "nowhere" else "No space left on device"
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "/docs#problem-artifact-error"
    assert response.json()["detail"] == f"could not write new: {reason}"
    assert names(client) == ["both", "length", "word"]
    assert place == "nowhere" or sorted(path.name for path in folder.iterdir()) == names(client)


@pytest.mark.parametrize("name", ["..", "a%2Fb", ".hidden", "a b", "*", "x" * 101])
def test_names_that_are_no_folders_are_refused(client: TestClient, folder: Path, name: str) -> None:
    content = zipped(files_of(folder / "word"))
    response = client.put(f"/v1/tasks/{name}", content=content, headers=ALLOWED)
    assert response.status_code in (404, 405, 422)
    assert sorted(path.name for path in folder.iterdir()) == ["both", "length", "word"]


def test_a_zip_over_the_limit_is_refused_before_it_is_read(app: FastAPI, client: TestClient) -> None:
    response = client.put("/v1/tasks/word", content=bytes(26 * 2**20), headers=ALLOWED)
    assert response.status_code == 413


def test_the_folder_is_watched(app: FastAPI, client: TestClient, folder: Path) -> None:
    service: Service = app.state.service
    before = client.get("/v1/tasks/word").json()["revision"]
    toy_artifact("word", ["length"], prompt_length=4).save(folder / "word", force=True)
    toy_artifact("late", ["word"]).save(folder / "late")
    (folder / "broken").mkdir()
    (folder / "broken" / CONFIG).write_text("{}")
    (folder / "both" / CONFIG).unlink()
    service.artifacts.scan()
    listed = client.get("/v1/tasks").json()
    assert [task["name"] for task in listed["tasks"]] == ["late", "length", "word"]
    assert client.get("/v1/tasks/word").json()["revision"] != before
    assert list(listed["refused"]) == ["broken"]
    assert str(folder) not in listed["refused"]["broken"]


def test_a_damaged_change_leaves_the_old_one_until_it_is_whole(
    app: FastAPI, client: TestClient, folder: Path
) -> None:
    service: Service = app.state.service
    before = client.get("/v1/tasks/word").json()["revision"]
    whole = (folder / "word" / TENSORS).read_bytes()
    (folder / "word" / TENSORS).write_bytes(whole[:100])
    service.artifacts.scan()
    listed = client.get("/v1/tasks").json()
    assert "word" in listed["refused"]
    assert client.get("/v1/tasks/word").json()["revision"] == before
    (folder / "word" / TENSORS).write_bytes(whole)
    os.utime(folder / "word" / TENSORS, ns=(1, 1))
    service.artifacts.scan()
    assert client.get("/v1/tasks").json()["refused"] == {}


def test_a_trained_artifact_is_served_at_once(app: FastAPI, client: TestClient, folder: Path) -> None:
    service: Service = app.state.service
    task = service.artifacts.register(toy_artifact("taught", ["word"]), "taught")
    answer = client.post("/v1/classify", files={"file": clip_bytes()}, data={"task": "taught"}).json()
    assert answer["predictions"][0]["revision"] == task.revision
    assert (folder / "taught" / CONFIG).is_file()
    service.artifacts.scan()
    assert "taught" in names(client)


@pytest.fixture
def closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this user may not look into, also where the tests run as root."""
    found = folder / "lost+found"
    found.mkdir()

    def refusing(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, **options: Any) -> Any:
            if found in path.parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return plain(path, **options)

        return call

    for name in ("stat", "read_bytes"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    return found


def test_a_folder_that_may_not_be_read_is_refused_alone(closed: Path, app: FastAPI) -> None:
    with TestClient(app) as client:
        assert names(client) == ["both", "length", "word"]
        reason = client.get("/v1/tasks").json()["refused"][closed.name]
    assert reason == f"{closed.name}/{CONFIG} cannot be read: Permission denied"


def test_the_folder_is_watched_after_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(SPOKEN, ServerSettings(artifacts=folder, watch_seconds=0.01))
    service: Service = app.state.service
    scans, plain = iter(range(1000)), service.artifacts.scan
    again = threading.Event()

    def scan() -> None:
        number = next(scans)
        if number == 1:
            raise OSError("a disk that fell off")
        plain()
        if number > 1:
            again.set()

    monkeypatch.setattr(service.artifacts, "scan", scan)
    with TestClient(app):
        assert again.wait(30)
    assert "a disk that fell off" in caplog.text


FOREIGN_METRICS = {
    "surrogate": b'{"x": "\\ud800"}',
    "depth": b'{"x": ' + b"[" * 300 + b"]" * 300 + b"}",
}


@pytest.mark.parametrize("content", FOREIGN_METRICS.values(), ids=FOREIGN_METRICS)
def test_metrics_that_cannot_be_shown_are_refused(
    app: FastAPI, client: TestClient, folder: Path, content: bytes
) -> None:
    packed = zipped({**files_of(folder / "word"), METRICS: content})
    response = client.put("/v1/tasks/new", content=packed, headers=ALLOWED)
    assert response.status_code == 422, response.text
    assert METRICS in response.json()["detail"]
    assert not (folder / "new").exists()
    shutil.copytree(folder / "word", folder / "copied")
    (folder / "copied" / METRICS).write_bytes(content)
    (folder / "both").rename(folder / os.fsdecode(b"\xff"))
    app.state.service.artifacts.scan()
    listed = client.get("/v1/tasks").json()
    assert [task["name"] for task in listed["tasks"]] == ["length", "word"]
    assert list(listed["refused"]) == ["copied", "\\udcff"]


@pytest.mark.parametrize(
    "accuracy",
    ["high", {"estimate": 0.5}, {"estimate": "a", "low": 0, "high": 1}, None, True, 10**400],
    ids=["word", "part", "letters", "none", "truth", "huge"],
)
def test_foreign_metrics_are_kept_but_not_in_words(
    client: TestClient, folder: Path, accuracy: object
) -> None:
    metrics = {"valid": {"accuracy": 0.25}, "test": {"accuracy": accuracy}}
    packed = zipped({**files_of(folder / "word"), METRICS: json.dumps(metrics).encode()})
    response = client.put("/v1/tasks/new", content=packed, headers=ALLOWED)
    assert response.status_code == 200, response.text
    assert response.json()["metrics"] == metrics
    card = (folder / "new" / CARD).read_text()
    assert "valid: accuracy 0.250" in card
    assert "test: accuracy" not in card


@pytest.mark.parametrize("name", ["mein prompt", "schön", "linked"])
def test_a_deleted_task_does_not_come_back(
    app: FastAPI, client: TestClient, folder: Path, tmp_path: Path, name: str
) -> None:
    if name == "linked":
        shutil.copytree(folder / "word", tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
    else:
        shutil.copytree(folder / "word", folder / name)
    scan = app.state.service.artifacts.scan
    scan()
    assert name in names(client)
    assert client.delete(f"/v1/tasks/{name}", headers=ALLOWED).status_code == 204
    scan()
    assert names(client) == ["both", "length", "word"]
    assert not os.path.lexists(folder / name)
    assert (tmp_path / "elsewhere" / CONFIG).is_file() == (name == "linked")


def test_a_folder_that_cannot_be_deleted_is_served_on(
    app: FastAPI, client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    response = client.delete("/v1/tasks/word", headers=ALLOWED)
    assert response.status_code == 422, response.text
    assert "could not be deleted" in response.json()["detail"]
    assert "word" in names(client)


def test_unpacking_takes_known_files_only(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    unpack(
        zipped({**files_of(folder / "word", "x/"), "x/evil.py": b"", "__MACOSX/._a": b""}), tmp_path / "out"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(files_of(folder / "word"))
    with pytest.raises(ArtifactError, match="not a zip"):
        unpack(b"hello", tmp_path / "out")
