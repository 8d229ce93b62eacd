"""What a connection meets before any route: a server that still loads, and refusals by the gate."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI

from server.material import TOKEN, clip_bytes
from speechprompt.errors import ArtifactError, Overloaded
from speechprompt.server import running
from speechprompt.server.running import BoundedProtocol, GracefulServer, configuration, listen, run_server
from speechprompt.server.settings import ServerSettings
from toys import SPOKEN

REFUSED = b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n"
PROBE = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
LAST = b"connection: close\r\n\r\n"
DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def connected(address: str) -> socket.socket:
    """A connection that the server has not heard anything of."""
    place = urlsplit(address)
    return socket.create_connection((str(place.hostname), place.port or 0), timeout=20)


def answered(address: str, requests: bytes) -> bytes:
    """Send raw requests and read until the server closes, with our side left open."""
    answers = b""
    with connected(address) as connection:
        connection.sendall(requests)
        while part := connection.recv(65536):
            answers += part
    return answers


def heard(connection: socket.socket, until: bytes) -> bytes:
    """What comes from the server, to the packet in which so much of it has come."""
    answers = b""
    while until not in answers:
        part = connection.recv(65536)
        assert part, answers
        answers += part
    return answers


def statuses_of(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", answers)]


@pytest.fixture
def full(app: FastAPI, address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server whose gate lets nobody in, and that leaves idle connections open."""

    def arrive(*_: object) -> None:
        raise Overloaded("no room", 3)

    monkeypatch.setattr(app.state.service.gate, "arrive", arrive)
    monkeypatch.setattr(BoundedProtocol, "timeout_keep_alive_handler", lambda _: None)
    return address


def test_a_refusal_has_an_id_its_headers_and_a_line_in_the_log(
    full: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "speechprompt"):
        given = httpx2.post(f"{full}/v1/classify", headers={"x-request-id": "mine-1"})
        forged = httpx2.post(f"{full}/v1/classify", headers={"x-request-id": "a b"})
    assert given.status_code == forged.status_code == 429
    assert given.headers["x-request-id"] == "mine-1"
    assert given.headers["retry-after"] == "3"
    assert given.json()["instance"] == "urn:request:mine-1"
    assert given.headers["x-content-type-options"] == "nosniff"
    ours = forged.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", ours)
    logged = [vars(record) for record in caplog.records if record.getMessage() == "request"]
    assert [(line["request_id"], line["status"]) for line in logged] == [("mine-1", 429), (ours, 429)]


def test_a_refusal_closes_where_it_is_asked_to(full: str) -> None:
    answer = answered(full, REFUSED + LAST)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"connection: close\r\n" in answer


@pytest.mark.parametrize(
    "requests",
    [[PROBE] + 1000 * [REFUSED], 20 * [PROBE, REFUSED], 20 * [REFUSED, PROBE, PROBE, REFUSED]],
    ids=["refused", "in turn", "in pairs"],
)
def test_requests_in_one_packet_are_answered_in_order(full: str, requests: list[bytes]) -> None:
    answer = answered(full, b"\r\n".join(requests) + b"\r\n" + PROBE + LAST)
    assert statuses_of(answer) == [429 if request is REFUSED else 200 for request in requests] + [200]


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


def upload(more: bytes = OFFER) -> tuple[bytes, bytes]:
    """Head, with more fields, and body of a request about one clip."""
    request = httpx2.Request("POST", "http://x/v1/classify", files={"file": clip_bytes()})
    body, kind = request.read(), request.headers["content-type"].encode()
    fields = b"content-type: %s\r\ncontent-length: %d\r\n" % (kind, len(body))
    return b"POST /v1/classify HTTP/1.1\r\nhost: x\r\n" + fields + more + b"\r\n", body


@pytest.mark.parametrize(
    "offer",
    [OFFER, OFFER.upper(), OFFER.replace(b"h2c", b"websocket, h2c")],
    ids=["h2c", "loud", "several"],
)
def test_an_offer_of_another_protocol_is_ignored(address: str, offer: bytes) -> None:
    whole = b"".join(upload(offer))
    probe = PROBE + offer + b"\r\n"
    assert statuses_of(answered(address, 2 * (whole + 2 * probe) + whole + PROBE + LAST)) == 8 * [200]


def test_an_offer_over_a_connection_that_ends_is_ignored(address: str) -> None:
    offer = OFFER.replace(b"Upgrade", b"close, Upgrade")
    answers = answered(address, b"".join(upload(offer)))
    assert statuses_of(answers) == [200]
    assert b"connection: close\r\n" in answers


def test_a_body_that_comes_after_an_offer_is_read(address: str) -> None:
    head, body = upload(OFFER + b"expect: 100-continue\r\n")
    with connected(address) as connection:
        for _ in range(2):
            connection.sendall(head)
            assert statuses_of(heard(connection, b"\r\n\r\n")) == [100]
            connection.sendall(body)
            assert statuses_of(heard(connection, b'"predictions"')) == [200]


def test_a_tunnel_is_refused(address: str) -> None:
    for more in (b"", OFFER):
        answers = answered(address, b"CONNECT /healthz HTTP/1.1\r\nhost: x\r\n" + more + LAST)
        assert statuses_of(answers) == [405]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of time that a test can wait for; before `address` among the arguments of a test."""
    monkeypatch.setattr(running, "LEFTOVER_SECONDS", 0.3)
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.3)


def ends(connection: socket.socket, still_sent: bytes = b"") -> bool:
    """Whether the server closes within three seconds, in which it gets a little every now and then."""
    connection.settimeout(0.05)
    for _ in range(60):
        try:
            if not connection.recv(65536):
                return True
        except TimeoutError:
            connection.sendall(still_sent)
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    "request_head", [PROBE, REFUSED.replace(b"content-length: 0\r\n", b"")], ids=["answered", "refused"]
)
def test_a_body_does_not_outlast_its_answer(hasty: None, full: str, request_head: bytes) -> None:
    with connected(full) as connection:
        connection.sendall(request_head + b"content-length: 100000\r\n\r\n")
        heard(connection, b"\r\n\r\n")
        assert ends(connection, b"z")


@pytest.mark.parametrize(
    "left",
    [b"zz", b"zz\r\n", b"zz" + PROBE + b"\r\n", b"zz" + PROBE + b"\r\n\r\n"],
    ids=["body", "line", "request", "request and line"],
)
def test_a_connection_is_idle_once_a_body_has_followed_its_answer(
    hasty: None, address: str, left: bytes
) -> None:
    with connected(address) as connection:
        connection.sendall(PROBE + b"content-length: 2\r\n\r\n")
        heard(connection, b"}")
        connection.sendall(left)
        assert ends(connection)


def test_a_stream_on_a_kept_connection_is_not_idle(hasty: None, address: str) -> None:
    with connected(address) as connection:
        connection.sendall(PROBE + b"\r\n")
        heard(connection, b"}")
        connection.sendall(HANDSHAKE)
        heard(connection, b'"ready"')
        connection.settimeout(0.6)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def chunked(path: bytes, *chunks: bytes, trailers: bytes = b"") -> bytes:
    """A request whose body comes in chunks and ends with fields; without the line after them."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n" % path
    return head + b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailers


@pytest.mark.parametrize("trailers", [b"a: " + 2**20 * b"b", 2**18 * b"a: b\r\n"], ids=["one", "many"])
@pytest.mark.parametrize(("path", "statuses"), [(b"/healthz", [405]), (b"/v1/classify", [100, 431])])
def test_trailers_without_end_are_refused(
    address: str, path: bytes, statuses: list[int], trailers: bytes
) -> None:
    with connected(address) as connection:
        request = chunked(path, b"--x\r\n").replace(b"host: x\r\n", b"host: x\r\nexpect: 100-continue\r\n")
        connection.sendall(request)
        answers = heard(connection, b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            connection.sendall(trailers)
        connection.settimeout(2)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answers += part
    assert statuses_of(answers) == statuses


def test_trailers_may_end(address: str) -> None:
    bodies = [2**15 * b"a", *(2**12 * [b"b"])]
    request = chunked(b"/healthz", *bodies, trailers=100 * b"x-request-id: a\r\n" + b"a: b\r\n") + b"\r\n"
    assert statuses_of(answered(address, 20 * request + PROBE + LAST)) == 20 * [405] + [200]


Serving = tuple[str, GracefulServer, threading.Thread]


@pytest.fixture
def serving(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """A server that waits half a second for readers and has little room for what they leave; its address and thread."""
    monkeypatch.setattr(running, "UNREAD_SECONDS", 0.5)
    with listen("127.0.0.1", 0) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        server = GracefulServer(configuration(app), app.state.service)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not app.state.service.ready:
            thread.join(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", server, thread
        server.should_exit = True
        thread.join()


def test_a_server_that_stops_does_not_wait_for_who_does_not_read(serving: Serving) -> None:
    address, server, thread = serving
    with connected(address) as connection:
        connection.sendall(40 * DOCUMENT)
        while not any(protocol.flow.write_paused for protocol in list(server.server_state.connections)):
            thread.join(0.01)
        server.should_exit = True
        thread.join(3)
        stopped = not thread.is_alive()
    assert stopped


@pytest.mark.parametrize(
    "requests", [40 * DOCUMENT, HANDSHAKE + 20_000 * (b"\x89\xfd" + bytes(4 + 125))], ids=["answers", "pongs"]
)
def test_who_does_not_read_loses_the_connection(serving: Serving, requests: bytes) -> None:
    address, server, thread = serving
    with connected(address) as connection:
        connection.sendall(requests[: len(HANDSHAKE)])
        heard(connection, b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            connection.sendall(requests[len(HANDSHAKE) :])
        for _ in range(250):
            thread.join(0.01 if server.server_state.connections else 0)
        left = len(server.server_state.connections)
    assert not left


def test_who_reads_slowly_gets_everything(serving: Serving) -> None:
    assert statuses_of(answered(serving[0], 40 * DOCUMENT + PROBE + LAST)) == 41 * [200]


def test_a_stop_has_an_end(app: FastAPI) -> None:
    longest = app.state.service.settings.longest_deadline_seconds
    assert longest < (configuration(app).timeout_graceful_shutdown or 0) < 2 * longest


@pytest.fixture
def loading(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, threading.Event]]:
    """The address of a server that loads until the event is set."""
    engine, may_load = app.state.service.engine, threading.Event()
    start = engine.start
    monkeypatch.setattr(engine, "start", lambda: may_load.wait(60) and start())
    with listen("127.0.0.1", 0) as listening:
        server = GracefulServer(configuration(app), app.state.service)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", may_load
        server.should_exit = True
        may_load.set()
        thread.join()


def test_probes_are_answered_while_the_server_loads(
    app: FastAPI, loading: tuple[str, threading.Event]
) -> None:
    address, may_load = loading
    with httpx2.Client(base_url=address, timeout=20) as http:
        assert http.get("/healthz").status_code == 200
        readiness = http.get("/readyz")
        assert (readiness.status_code, readiness.json()["status"]) == (503, "loading")
        early = http.post("/v1/classify", files={"file": clip_bytes()})
        assert early.status_code == 503
        assert "/readyz" in early.json()["detail"]
        assert early.json()["instance"] == f"urn:request:{early.headers['x-request-id']}"
        assert int(early.headers["retry-after"]) > 0
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        key = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
        assert http.get("/v1/stream", headers={**upgrade, **key}).status_code == 403
        may_load.set()
        while http.get("/readyz").status_code == 503:
            assert app.state.service.failure is None
        assert http.post("/v1/classify", files={"file": clip_bytes()}).status_code == 200


def test_a_server_told_to_stop_while_it_loads_stops(loading: tuple[str, threading.Event]) -> None:
    address, _ = loading
    assert httpx2.get(f"{address}/healthz").status_code == 200


def test_what_cannot_be_loaded_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module, name in ((signal, "signal"), (sys, "setswitchinterval"), (running, "log_as_json")):
        monkeypatch.setattr(module, name, lambda *_: None)  # what is the process's stays as it is
    settings = ServerSettings(artifacts=tmp_path / "gone", token=TOKEN, drain_seconds=600)
    with pytest.raises(ArtifactError, match="gone cannot be read: No such file"):
        run_server(SPOKEN, settings, "127.0.0.1", 0)
    assert "startup failed" in caplog.text
    assert "Traceback" not in caplog.text
