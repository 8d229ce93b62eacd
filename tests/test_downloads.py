from __future__ import annotations

import hashlib
import multiprocessing
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from speechprompt import downloads
from speechprompt.checkpoints import open_archive_members
from speechprompt.downloads import PUBLISHED, fetch, fetch_published, place
from speechprompt.errors import CheckpointError, DownloadError, UnknownName

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Script:
    """What the server does next: per request a dict of behaviours, the last one repeated."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.steps: list[dict[str, object]] = [{}]
        self.requests: list[dict[str, str]] = []

    def next(self) -> dict[str, object]:
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/models/km100/km.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        script: Script = self.server.script  # type: ignore[attr-defined]
        script.requests.append(dict(self.headers))
        step = script.next()
        if "redirect" in step:
            self.send_response(302)
            self.send_header("Location", str(step["redirect"]))
            self.end_headers()
            return
        if "code" in step:
            self.send_error(int(str(step["code"])))
            return
        self.send_file(step)

    def send_file(self, step: dict[str, object]) -> None:
        content = step.get("content", CONTENT)
        assert isinstance(content, bytes)
        start = 0
        tag = step.get("etag")
        asked = self.headers.get("Range")
        matches = self.headers.get("If-Range") in (None, tag)
        if asked and matches and not step.get("no_range"):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            told = start + int(str(step.get("range_error", 0)))
            self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if tag:
            self.send_header("ETag", str(tag))
        if not step.get("no_length"):
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = step.get("cut")
        self.wfile.write(content[start : int(str(cut)) if cut else None])

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        script = Script(http.server_address[1])
        http.script = script  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield script
        http.shutdown()
        thread.join()


def leftovers(path: Path) -> set[str]:
    return {p.name for p in path.parent.iterdir()} - {path.name, f"{path.name}.lock"}


def test_a_file_comes_once_and_whole(server: Script, fresh_home: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(
        server.url, sha256=SHA256.upper(), size=len(CONTENT), progress=lambda *step: seen.append(step)
    )
    assert path.read_bytes() == CONTENT
    assert path == fresh_home / "downloads" / "127.0.0.1" / "models" / "km100" / "km.bin"
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(server.url, sha256=SHA256) == path
    assert len(server.requests) == 1
    assert leftovers(path) == set()


@pytest.mark.parametrize("known", ["sha256", "etag"])
def test_a_cut_download_goes_on_where_it_stopped(server: Script, tmp_path: Path, known: str) -> None:
    tag = '"v1"' if known == "etag" else None
    server.steps = [{"cut": 300_000, "etag": tag}, {"etag": tag}]
    sha256 = SHA256 if known == "sha256" else None
    assert fetch(server.url, sha256, folder=tmp_path, wait_seconds=0).read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=300000-"
    assert server.requests[1].get("If-Range") == tag


def test_a_cut_download_goes_on_in_another_call(server: Script, tmp_path: Path) -> None:
    server.steps = [{"cut": 100_000}, {"cut": 200_000}, {}]
    with pytest.raises(DownloadError, match=r"2 attempts \(cut off after 200000 of 512000 bytes\)"):
        fetch(server.url, SHA256, folder=tmp_path, attempts=2, wait_seconds=0)
    assert not place(server.url, tmp_path).exists()
    path = fetch(server.url, SHA256, folder=tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=200000-"
    assert leftovers(path) == set()


@pytest.mark.parametrize(
    "second",
    [
        {"no_range": True},
        {"etag": '"v2"'},
        {"range_error": 7},
    ],
    ids=str,
)
def test_a_resume_that_the_server_does_not_do(
    server: Script, tmp_path: Path, second: dict[str, object]
) -> None:
    server.steps = [{"cut": 300_000, "etag": '"v1"'}, second, {}]
    assert fetch(server.url, folder=tmp_path, wait_seconds=0).read_bytes() == CONTENT


def test_nothing_is_resumed_without_a_guard(server: Script, tmp_path: Path) -> None:
    server.steps = [{"cut": 300_000, "content": bytes(512_000)}, {}]
    assert fetch(server.url, folder=tmp_path, wait_seconds=0).read_bytes() == CONTENT
    assert "Range" not in server.requests[1]


def test_a_part_that_is_longer_than_the_file(server: Script, tmp_path: Path) -> None:
    part = Path(f"{place(server.url, tmp_path)}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    assert fetch(server.url, SHA256, folder=tmp_path, wait_seconds=0).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_whole_part_needs_no_network(server: Script, tmp_path: Path) -> None:
    part = Path(f"{place(server.url, tmp_path)}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch(server.url, SHA256, len(CONTENT), folder=tmp_path).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize(("sha256", "asked"), [(SHA256, 0), (None, 1)])
def test_a_part_that_was_whole_when_its_process_ended_does_not_come_again(
    server: Script, tmp_path: Path, sha256: str | None, asked: int
) -> None:
    target = place(server.url, tmp_path)
    target.parent.mkdir(parents=True)
    Path(f"{target}.part").write_bytes(CONTENT)
    Path(f"{target}.validator").write_text('"v1"')
    server.steps = [{"etag": '"v1"'}]
    assert fetch(server.url, sha256, folder=tmp_path, wait_seconds=0).read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == ["bytes=512000-"] * asked
    assert leftovers(target) == set()


def test_a_part_of_another_size_than_the_server_states_comes_again(server: Script, tmp_path: Path) -> None:
    part = Path(f"{place(server.url, tmp_path)}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    part.with_suffix(".validator").write_text('"v1"')
    server.steps = [{"etag": '"v1"'}]
    assert fetch(server.url, folder=tmp_path, wait_seconds=0).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_what_the_error_about_a_bad_file_advises_brings_another(server: Script, tmp_path: Path) -> None:
    server.steps = [{"content": b"<html>busy</html>"}, {}]
    path = fetch(server.url, folder=tmp_path)
    with pytest.raises(CheckpointError, match="delete the file and fetch it again") as refused:
        open_archive_members(path, ["dict.txt"])
    assert str(path) in str(refused.value)
    path.unlink()
    assert fetch(server.url, folder=tmp_path).read_bytes() == CONTENT


def test_a_body_without_a_length(server: Script, tmp_path: Path) -> None:
    server.steps = [{"no_length": True}]
    assert fetch(server.url, SHA256, folder=tmp_path).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="more than the stated 1000 bytes"):
        fetch(f"{server.url}2", size=1000, folder=tmp_path)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"sha256": "0" * 64}, r"km\.bin came with sha256 .* instead of 000000000000…; nothing was kept"),
        ({"size": 5}, "offers 512000 bytes instead of 5"),
        ({"size": 600_000}, "offers 512000 bytes instead of 600000"),
    ],
)
def test_another_file_than_stated(
    server: Script, tmp_path: Path, stated: dict[str, int], message: str
) -> None:
    with pytest.raises(DownloadError, match=message):
        fetch(server.url, folder=tmp_path, **stated)  # type: ignore[arg-type]
    path = place(server.url, tmp_path)
    assert not path.exists()
    assert leftovers(path) == set()


def test_a_file_put_there_by_hand_is_checked(tmp_path: Path) -> None:
    url = "https://example.org/a/km.bin"
    path = place(url, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(url, SHA256, folder=tmp_path) == path
    path.write_bytes(b"other")
    with pytest.raises(DownloadError, match="delete it to fetch it again"):
        fetch(url, SHA256, folder=tmp_path)
    assert path.read_bytes() == b"other"


@pytest.mark.parametrize("code", [404, 403, 410])
def test_what_is_not_there_is_asked_for_once(server: Script, tmp_path: Path, code: int) -> None:
    server.steps = [{"code": code}]
    with pytest.raises(DownloadError, match=f"answers {code}"):
        fetch(server.url, folder=tmp_path, wait_seconds=0)
    assert len(server.requests) == 1


def test_what_passes_is_tried_again(server: Script, tmp_path: Path) -> None:
    server.steps = [{"code": 503}, {"code": 429}, {}]
    assert fetch(server.url, folder=tmp_path, wait_seconds=0).read_bytes() == CONTENT


def test_redirects(server: Script, tmp_path: Path) -> None:
    server.steps = [{"redirect": f"http://127.0.0.1:{server.port}/elsewhere"}, {}]
    assert fetch(server.url, folder=tmp_path).read_bytes() == CONTENT
    for target in ("file:///etc/hostname", "https://127.0.0.1/km.bin", "ftp://127.0.0.1/km.bin"):
        server.steps = [{"redirect": target}]
        with pytest.raises(DownloadError, match=r"redirects to|answers 302"):
            fetch(f"{server.url}-2", folder=tmp_path, wait_seconds=0)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://a.org/x",
        "/etc/hostname",
        "http://",
        "http://a.org/",
        "http://a.org/x/",
        "",
        "http://a.org/%2e%2e/x",
        "http://a.org/../x",
        "http://[a.org/x",
    ],
)
def test_addresses_that_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        place(url, tmp_path)


def test_places_are_apart_and_inside(tmp_path: Path) -> None:
    urls = [
        "http://a.org/50/km.bin",
        "http://a.org/100/km.bin",
        "http://b.org/50/km.bin",
        "http://a.org/50/km.bin?v=2",
    ]
    urls += ["http://a.org/x%2f..%2f..%2fy", "http://a.org/c:%5cx"]
    places = [place(url, tmp_path) for url in urls]
    assert len(set(places)) == len(urls)
    for path in places:
        assert path.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize("switch", ["SPEECHPROMPT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_says_where_to_put_the_file(
    server: Script, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(switch, "1")
    with pytest.raises(DownloadError, match=f"{switch} forbids the network; put the file at .*km.bin$"):
        fetch(server.url)
    assert server.requests == []
    monkeypatch.setenv(switch, "0")
    assert fetch(server.url).read_bytes() == CONTENT


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(DownloadError, match="could not be fetched in 2 attempts"):
        fetch("http://127.0.0.1:9/x", folder=tmp_path, attempts=2, wait_seconds=0)


def test_a_folder_that_cannot_be_written(server: Script, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(server.url, folder=tmp_path / "file")


def _fetch_in_process(url: str, folder: Path) -> bytes:
    return fetch(url, SHA256, folder=folder, wait_seconds=0).read_bytes()


def test_processes_that_want_the_same_file(server: Script, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        contents = pool.starmap(_fetch_in_process, [(server.url, tmp_path)] * 3)
    assert contents == [CONTENT] * 3
    assert len(server.requests) == 1


def test_what_another_process_finished_meanwhile(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waited(downloads.FileLock):  # type: ignore[misc, valid-type]
        def __enter__(self) -> Any:
            place(server.url, tmp_path).write_bytes(CONTENT)
            return super().__enter__()

    monkeypatch.setattr(downloads, "FileLock", Waited)
    assert fetch(server.url, SHA256, folder=tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_published_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({place(file.url) for file in PUBLISHED.values()}) == len(PUBLISHED)
    assert all(file.url.startswith("https://") and file.license for file in PUBLISHED.values())
    assert {"hubert-base-ls960", "hubert-base-l6-km100", "gslm-hubert100", "pgslm-discrete-prosody"} <= set(
        PUBLISHED
    )
    with pytest.raises(UnknownName, match="did you mean gslm-hubert100"):
        fetch_published("gslm-hubert10")
    with pytest.raises(DownloadError, match="hubert_base_ls960"):
        fetch_published("hubert-base-ls960")
    asked = {}
    monkeypatch.setattr(downloads, "fetch", lambda url, **rest: asked.update(url=url, **rest))
    fetch_published("hubert-base-l6-km100")
    assert asked["sha256"].startswith("f14a3104")
