"""Artifacts come, change and go while the server runs; what is no artifact never reaches the catalogue."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.material import TOKEN, clip_bytes, toy_artifact
from speechprompt.errors import ArtifactError
from speechprompt.prompting.artifact import CONFIG, TENSORS
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


def test_unpacking_takes_known_files_only(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    unpack(
        zipped({**files_of(folder / "word", "x/"), "x/evil.py": b"", "__MACOSX/._a": b""}), tmp_path / "out"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(files_of(folder / "word"))
    with pytest.raises(ArtifactError, match="not a zip"):
        unpack(b"hello", tmp_path / "out")
