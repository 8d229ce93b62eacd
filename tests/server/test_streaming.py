"""Streams: predictions of windows and of speech, equal to asking about the same samples at once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from speechprompt.server.app import create_app
from speechprompt.server.settings import ServerSettings
from speechprompt.server.speech_ends import SpeechEnds
from speechprompt.server.streaming import Timeline
from toys import SPOKEN

RATE = 8000  # the toy's


def pcm(
    seconds: Sequence[float], loudness: Sequence[float], seed: int = 0
) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Noise that is loud and quiet in turn."""
    random = np.random.default_rng(seed)
    parts = [
        random.standard_normal(int(s * RATE)) * level for s, level in zip(seconds, loudness, strict=True)
    ]
    return (np.clip(np.concatenate(parts), -1, 1) * 32767).astype("<i2")


SPOKEN_TWICE = pcm((1.0, 0.8, 1.2, 0.5, 1.0), (0.001, 0.2, 0.001, 0.3, 0.001))


def events(client: TestClient, address: str, samples: Any, piece: int) -> list[dict[str, Any]]:
    found = []
    with client.websocket_connect(address) as socket:
        for start in range(0, len(samples), piece):
            socket.send_bytes(samples[start : start + piece].tobytes())
        socket.send_text("end")
        while not found or found[-1]["event"] != "end":
            found.append(json.loads(socket.receive_text()))
    return found


def test_a_stream_answers_as_asking_at_once(client: TestClient) -> None:
    address = f"/v1/stream?task=word&task=both&sample_rate={RATE}&window_seconds=1&hop_seconds=0.5"
    found = events(client, address, SPOKEN_TWICE, 777)
    assert found[0] == {"event": "ready", "sample_rate": RATE, "tasks": ["word", "both"]}
    windows = [event for event in found if event["event"] == "window"]
    assert [event["start_seconds"] for event in windows] == [0.5 * i for i in range(8)]
    speech = [event for event in found if event["event"] == "speech"]
    assert [round(event["start_seconds"], 1) for event in speech] == [0.8, 2.8]
    assert [round(event["end_seconds"], 1) for event in speech] == [2.0, 3.7]
    for event in (*windows, *speech):
        first, last = (round(event[f"{edge}_seconds"] * RATE) for edge in ("start", "end"))
        files = {"file": ("span.pcm", SPOKEN_TWICE[first:last].tobytes())}
        asked = client.post("/v1/classify", files=files, data={"task": ["word", "both"], "sample_rate": RATE})
        for ours, theirs in zip(event["predictions"], asked.json()["predictions"], strict=True):
            assert ours["revision"] == theirs["revision"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    other = events(client, address, SPOKEN_TWICE, 16000)
    assert [(e["event"], e.get("start_seconds")) for e in other if e["event"] == "speech"] == [
        (e["event"], e["start_seconds"]) for e in speech
    ]


def test_other_rates_are_resampled(client: TestClient) -> None:
    found = events(client, "/v1/stream?task=word", np.repeat(SPOKEN_TWICE, 2), 3200)
    assert found[-1]["duration_seconds"] == pytest.approx(4.5, abs=0.01)
    assert sum(event["event"] == "speech" for event in found) == 2


def test_long_speech_in_long_messages_is_asked_about_whole(client: TestClient) -> None:
    samples = pcm((5.0, 26.0, 29.0), (0.001, 0.2, 0.001))
    address = f"/v1/stream?task=word&sample_rate={RATE}&window_seconds=1&hop_seconds=30"
    [speech] = [e for e in events(client, address, samples, 30 * RATE) if e["event"] == "speech"]
    first, last = (round(speech[f"{edge}_seconds"] * RATE) for edge in ("start", "end"))
    assert last - first > 25 * RATE
    files = {"file": ("span.pcm", samples[first:last].tobytes())}
    asked = client.post("/v1/classify", files=files, data={"task": "word", "sample_rate": RATE}).json()
    assert speech["predictions"][0]["score"] == pytest.approx(asked["predictions"][0]["score"], abs=1e-5)


def test_one_message_cannot_be_hours_of_sound(folder: Path) -> None:
    app = create_app(SPOKEN, ServerSettings(artifacts=folder, watch_seconds=0, stream_seconds=5.0))
    with TestClient(app) as client:
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/v1/stream?task=word&sample_rate=100") as socket,
        ):
            socket.receive_text()
        with client.websocket_connect("/v1/stream?task=word&sample_rate=4000") as socket:
            socket.send_bytes(bytes(2 * 4000 * 6))
            assert json.loads(socket.receive_text())["event"] == "ready"
            assert "over 5 s" in json.loads(socket.receive_text())["detail"]


@pytest.mark.parametrize(
    ("address", "send", "says"),
    [
        ("/v1/stream?task=wrod", b"", "did you mean word"),
        ("/v1/stream?task=word", b"\x00", "half a sample"),
        ("/v1/stream?task=word", "stop", "only be 'end'"),
    ],
)
def test_what_a_stream_may_not_do_is_told(
    client: TestClient, address: str, send: bytes | str, says: str
) -> None:
    with client.websocket_connect(address) as socket:
        if isinstance(send, str):
            socket.send_text(send)
        elif send:
            socket.send_bytes(send)
        found = json.loads(socket.receive_text())
        while found["event"] == "ready":
            found = json.loads(socket.receive_text())
        assert found["event"] == "problem"
        assert says in found["detail"]
        assert socket.receive()["code"] == 1008


def test_pages_of_other_sites_get_no_stream(client: TestClient) -> None:
    headers = {"origin": "https://elsewhere.example"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/stream", headers=headers):
        pass


def test_streams_are_counted(folder: Path) -> None:
    app = create_app(SPOKEN, ServerSettings(artifacts=folder, watch_seconds=0, streams=1))
    with TestClient(app) as client, client.websocket_connect("/v1/stream") as first:
        assert json.loads(first.receive_text())["event"] == "ready"
        with client.websocket_connect("/v1/stream") as second:
            assert "all 1 streams are taken" in json.loads(second.receive_text())["detail"]
            assert second.receive()["code"] == 1013


@pytest.mark.parametrize(
    ("limit", "says"),
    [("stream_idle_seconds", "nothing arrived for 0.1 s"), ("stream_seconds", "over 0.1 s")],
)
def test_a_silent_stream_gives_its_place_back(folder: Path, limit: str, says: str) -> None:
    app = create_app(SPOKEN, ServerSettings(artifacts=folder, watch_seconds=0, **{limit: 0.1}))
    with TestClient(app) as client, client.websocket_connect("/v1/stream") as socket:
        assert json.loads(socket.receive_text())["event"] == "ready"
        assert says in json.loads(socket.receive_text())["detail"]
        assert socket.receive()["code"] == 1008
        assert "speechprompt_streams 0.0" in client.get("/metrics").text


def test_one_client_leaves_streams_to_others(folder: Path) -> None:
    app = create_app(
        SPOKEN, ServerSettings(artifacts=folder, watch_seconds=0, streams=4, client_header="x-client")
    )
    with TestClient(app) as client, ExitStack() as open_streams:
        told = []
        for who in ("one", "one", "one", "other"):
            stream = client.websocket_connect("/v1/stream", headers={"x-client": who})
            told.append(json.loads(open_streams.enter_context(stream).receive_text()))
        assert [message["event"] for message in told] == ["ready", "ready", "problem", "ready"]
        assert "half of the 4 streams" in told[2]["detail"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=30))
def test_the_sizes_of_pieces_do_not_matter(sizes: list[int]) -> None:
    samples = SPOKEN_TWICE.astype(np.float32) / np.float32(32768)
    whole = SpeechEnds(RATE)
    expected = [*whole.feed(samples), *whole.finish()]
    assert len(expected) == 2
    pieces, found, place = SpeechEnds(RATE), [], 0
    for size in [*sizes, len(samples)]:
        found += list(pieces.feed(samples[place : place + size]))
        place += size
    assert [*found, *pieces.finish()] == expected


def test_endless_speech_is_cut_and_the_cuts_meet() -> None:
    noise = pcm((1.0, 7.0), (0.001, 0.2)).astype(np.float32) / np.float32(32768)
    ends = SpeechEnds(RATE, longest_seconds=3.0)
    spans = [*ends.feed(noise), *ends.finish()]
    assert len(spans) == 3
    assert all(first[1] == second[0] for first, second in itertools.pairwise(spans))


def test_a_timeline_keeps_what_may_still_be_asked() -> None:
    timeline = Timeline(100)
    for start in range(0, 350, 70):
        timeline.append(np.arange(start, start + 70, dtype=np.float32))
    assert timeline.between(260, 280).tolist() == list(range(260, 280))
    assert timeline.between(0, 255).tolist() == list(range(250, 255))
