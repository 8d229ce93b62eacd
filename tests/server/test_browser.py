"""The page in a headless Chromium with a fake microphone: record, choose, drop, teach, by keyboard, offline."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import uvicorn

from server.browser import Browser, browser, program
from server.material import TOKEN, clip_bytes, toy_artifact
from speechprompt.prompting.predictor import Predictor
from speechprompt.prompting.teach import teach
from speechprompt.server.app import create_app
from speechprompt.server.lessons import Lessons
from speechprompt.server.settings import ServerSettings
from speechprompt.server.teaching import keeper
from toys import CORPUS, SPOKEN

pytestmark = pytest.mark.skipif(
    program() is None, reason="no chromium on this machine; the page is not driven"
)

TEACHER = """
import json, shutil, sys
for step in range(4):
    print(json.dumps({"stage": "training", "step": step, "steps": 3, "loss": 1 / (1 + step)}), flush=True)
shutil.copytree(sys.argv[1], sys.argv[2] + "/artifact")
"""
BURSTS, BURST_SECONDS, PAUSE_SECONDS = 3, 0.5, 0.7


class Site:
    """A server over the toy spoken LM on a free port, its teacher a short script."""

    def __init__(self, folder: Path, taught: Path, token: str | None = TOKEN) -> None:
        self.app = create_app(SPOKEN, ServerSettings(artifacts=folder, token=token, watch_seconds=0))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_config=None, lifespan="on", ws="websockets-sansio")
        self.server = uvicorn.Server(config)
        self.taught = taught
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.run(self.server.serve([self.listener]))

    def __enter__(self) -> Site:
        self.thread.start()
        while not self.server.started:
            self.thread.join(0.02)
            assert self.thread.is_alive()
        command = (sys.executable, "-c", TEACHER, str(self.taught))
        self.app.state.lessons = Lessons({}, keeper(self.app.state.service), teacher=command)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone hears over and over: three bursts of noise, each followed by a pause."""
    random = np.random.default_rng(0)
    burst = 0.3 * random.standard_normal(int(BURST_SECONDS * 48_000))
    part = np.concatenate([burst, np.zeros(int(PAUSE_SECONDS * 48_000))])
    path = tmp_path_factory.mktemp("sound") / "microphone.wav"
    soundfile.write(path, np.tile(part, BURSTS), 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the short teacher hands in: a real artifact with real numbers, of a few toy clips."""
    corpus = CORPUS.with_slots(["word"])
    few = replace(corpus, utterances=corpus.utterances[:12])
    return teach(few, SPOKEN, "taught", steps=1).save(tmp_path_factory.mktemp("taught") / "artifact")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, taught: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("served") / "prompts"
    toy_artifact("word", ["word"], prompt_length=2).save(folder / "word")
    toy_artifact("both", ["word", "length"], method="input", decoding="autoregressive").save(folder / "both")
    with Site(folder, taught) as site:
        yield site


@pytest.fixture(scope="module")
def chromium(sound: Path) -> Iterator[Browser]:
    with browser(sound) as driven:
        yield driven


@pytest.fixture
def page(chromium: Browser, site: Site) -> Iterator[Browser]:
    """The page, freshly opened; after the test, nothing may have gone wrong or gone elsewhere."""
    chromium.problems.clear()
    chromium.requests.clear()
    chromium.size(1200)
    chromium.open("about:blank")
    chromium.open(site.url)
    chromium.wait("document.querySelectorAll('.chip').length === 2")
    yield chromium
    assert chromium.problems == []
    ours = ("blob:", "data:", "about:blank", site.url)
    assert [address for address in chromium.requests if not address.startswith(ours)] == []


def answers(page: Browser) -> dict[str, list[str]]:
    """Labels by task, as a person reads them."""
    shown = page.evaluate(
        "[...document.querySelectorAll('.answer')].map(a => [a.querySelector('h3').textContent,"
        " [...a.querySelectorAll('.label')].map(l => l.firstChild.textContent)])"
    )
    return dict(shown)


def clip(folder: Path, name: str = "clip.wav", seed: int = 0) -> Path:
    path = folder / name
    path.write_bytes(clip_bytes(1.0, seed))
    return path


def test_record_and_read_the_answers(page: Browser) -> None:
    page.press("r")
    page.wait("document.querySelector('#recorder.recording')")
    page.wait("document.querySelector('#clock').textContent.startsWith('0:02')")
    assert page.evaluate("document.querySelector('#record').getAttribute('aria-pressed')") == "true"
    page.press("r")
    page.wait("document.querySelectorAll('.answer').length === 2")
    assert set(answers(page)) == {"word", "both"}
    assert answers(page)["both"][1] in ("short", "long")
    page.wait("document.querySelectorAll('.units button').length > 2")
    assert "rests most on" in page.text(".reading") or "No single part" in page.text(".reading")
    heights = "[...document.querySelectorAll('.wave g rect')].map(r => Number(r.getAttribute('height')))"
    assert page.evaluate(f"Math.max(...{heights}) > 100 && Math.min(...{heights}) < 10")
    assert "recording-1.wav" in page.text("#snippets")


def test_chosen_files_are_answered_as_the_library_does(page: Browser, site: Site, tmp_path: Path) -> None:
    files = [clip(tmp_path, f"clip {i}.wav", seed=i) for i in range(3)]
    page.choose("#files", files)
    page.wait("document.querySelectorAll('.past').length === 3")
    page.wait("!document.querySelector('#history').innerText.includes('waiting')")

    folder = site.app.state.service.settings.artifacts
    predictor = Predictor(SPOKEN, [folder / "both", folder / "word"])
    for place, file in enumerate(reversed(files)):
        page.click(f".history li:nth-child({place + 1}) .past")
        expected = {p.task: [slot.label for slot in p.slots.values()] for p in predictor.predict(file)}
        assert answers(page) == expected
    page.wait("document.querySelector('.units button')")
    before = page.text(".reading")
    page.click("[aria-label^='Show what mattered for length']")
    page.wait(f"document.querySelector('.reading').innerText !== {json.dumps(before)}")
    page.click(".chip input")  # unticks 'both': asks again
    page.wait("document.querySelectorAll('.answer').length === 1")
    assert "task=word" in page.text("#snippets code")
    page.evaluate("[...document.querySelectorAll('.tab')].find(t => t.textContent === 'Python').click()")
    assert 'tasks=["word"]' in page.text("#snippets code")


def test_dropped_and_hostile_files(page: Browser) -> None:
    name = "<img src=x onerror=alert(1)>.wav"
    content = base64.b64encode(clip_bytes()).decode()
    page.evaluate(
        f"""(async () => {{
          const bytes = Uint8Array.from(atob("{content}"), c => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], {json.dumps(name)}, {{type: "audio/wav"}}));
          for (const kind of ["dragenter", "dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind, {{dataTransfer: transfer, bubbles: true}}));
        }})()"""
    )
    page.wait("document.querySelectorAll('.answer').length === 2")
    assert page.text(".clip-name") == name
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    assert page.evaluate("document.querySelector('#drop').hidden")


def test_a_file_that_is_no_audio_is_said_so(page: Browser, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_bytes(b"not audio at all" * 20)
    page.choose("#files", [tmp_path / "notes.wav"])
    page.wait("!document.querySelector('#ask-notice').hidden")
    assert page.text("#ask-notice").startswith("notes.wav: ")
    assert page.evaluate("document.querySelector('#clip').hidden")
    assert all("422" in problem for problem in page.problems)  # what Chromium itself writes of the refusal
    page.problems.clear()


def test_the_recording_is_a_wav_file_cut_at_pauses(page: Browser, tmp_path: Path, sound: Path) -> None:
    """The page's own arithmetic, checked with the readers of the package."""
    encoded = base64.b64encode(sound.read_bytes()).decode()
    parts = page.evaluate(
        f"""(async () => {{
          const sound = await import("/page/sound.js");
          const bytes = Uint8Array.from(atob("{encoded}"), c => c.charCodeAt(0));
          const samples = await sound.decoded(new File([bytes], "m.wav"));
          const parts = [samples, ...sound.cutAtPauses(samples), sound.trimmed(samples)];
          const files = parts.map(s => sound.wavFile(s, "x.wav"));
          const text = async f => btoa(String.fromCharCode(...new Uint8Array(await f.arrayBuffer())));
          return Promise.all(files.map(text));
        }})()"""
    )
    rows = []
    for i, part in enumerate(parts):
        (tmp_path / f"{i}.wav").write_bytes(base64.b64decode(part))
        rows.append(soundfile.read(tmp_path / f"{i}.wav", dtype="float32"))
    whole, rate = rows[0]
    original, _ = soundfile.read(sound, dtype="float32")
    assert rate == 16_000
    assert len(whole) == len(original) // 3
    assert (
        np.abs(whole[: int(0.45 * rate)]).mean()
        > 10 * np.abs(whole[int(0.7 * rate) : int(1.1 * rate)]).mean()
    )
    assert len(rows) == 1 + BURSTS + 1
    cut, (trimmed, _) = rows[1:-1], rows[-1]
    assert all(BURST_SECONDS <= len(row) / rate <= BURST_SECONDS + 0.3 for row, _ in cut)
    sounding = BURSTS * BURST_SECONDS + (BURSTS - 1) * PAUSE_SECONDS
    assert sounding <= len(trimmed) / rate <= sounding + 0.3


def test_teach_by_recording_and_by_files_then_ask(page: Browser, site: Site, tmp_path: Path) -> None:
    page.evaluate("location.hash = 'teach'")
    page.wait("document.querySelectorAll('.label-row').length === 2")
    assert page.evaluate("document.querySelector('.main').disabled")
    fill = (
        "(s, v) => { const i = document.querySelector(s); i.value = v; i.dispatchEvent(new Event('input')) }"
    )
    page.evaluate(f"({fill})('#task-name', 'door')")
    page.evaluate(f"({fill})('.label-row:nth-child(1) input[type=text]', 'open')")
    page.evaluate(f"({fill})('.label-row:nth-child(2) input[type=text]', 'close')")
    assert "needs 3 more clips" in page.text(".teach-form .status")
    page.choose(".label-row:nth-child(2) input[type=file]", [clip(tmp_path, f"{i}.wav", i) for i in range(3)])
    page.click(".label-row:nth-child(1) .small-record")
    page.wait("document.querySelector('.small-record.recording')")
    page.wait("document.querySelector('.small-record .words').textContent === 'Stop 5 s'")
    page.click(".label-row:nth-child(1) .small-record")
    page.wait("document.querySelectorAll('.label-row:nth-child(1) .clips li').length >= 3")
    assert "token" in page.text(".teach-form .status")
    page.evaluate(f"({fill})('#token', {json.dumps(TOKEN)})")
    page.wait("!document.querySelector('.main').disabled")
    page.click(".main")
    page.wait("document.querySelector('.lesson .figure-number')")
    assert "“door” is ready" in page.text(".lesson h2")
    assert "12 clips" in page.text(".lead")
    page.click(".lesson .main")
    page.wait("!document.querySelector('#ask').hidden")
    page.wait("document.querySelectorAll('.chip').length === 3")
    assert page.evaluate("[...document.querySelectorAll('.chip:has(:checked)')].map(c => c.innerText)") == [
        "door"
    ]
    page.choose("#files", [clip(tmp_path)])
    page.wait("document.querySelectorAll('.answer').length === 1")
    page.evaluate("location.hash = 'tasks'")
    page.wait("document.querySelectorAll('.task-card').length === 3")
    assert "on clips it had not heard" in page.text("#gallery")
    site.app.state.service.artifacts.delete("door")


def test_keyboard_only(page: Browser, tmp_path: Path) -> None:
    def focused() -> str:
        return str(
            page.evaluate(
                "(document.activeElement.getAttribute('aria-label') || document.activeElement.innerText).trim()"
            )
        )

    reached = []
    for _ in range(12):
        page.press("Tab")
        reached.append(focused())
    assert reached[0] == "Skip to the content"
    assert {"Ask", "Tasks", "Teach", "Record", "All", "None"} <= {*reached} | {"All", "None"}
    page.evaluate("document.querySelector('#record').focus()")
    page.press("Enter")
    page.wait("document.querySelector('#recorder.recording')")
    page.press("Escape")
    page.wait("!document.querySelector('#recorder.recording')")
    assert page.evaluate("document.querySelectorAll('.answer').length") == 0
    page.press("Enter")
    page.wait("document.querySelector('#recorder.recording')")
    page.evaluate("location.hash = 'teach'")
    page.wait("!document.querySelector('#recorder.recording')")
    page.evaluate("location.hash = 'ask'")
    page.wait("!document.querySelector('#ask').hidden")
    page.evaluate("document.querySelector('#record').focus()")
    page.press("Enter")
    page.wait("document.querySelector('#clock').textContent.startsWith('0:01')")
    page.press("Enter")
    page.wait("document.querySelector('.units button')")
    page.evaluate("document.querySelector('.units button').focus()")
    first = focused()
    page.press("ArrowRight")
    assert focused().startswith("Unit ")
    assert focused() != first
    page.evaluate("document.querySelector('nav a[href=\"#tasks\"]').focus()")
    page.press("Enter")
    page.wait("!document.querySelector('#tasks').hidden && document.querySelector('.task-card')")
    page.evaluate("document.querySelector('.task-card .plain').focus()")
    page.press("Enter")
    page.wait("document.querySelector('dialog[open] .facts')")
    assert focused() == "Close"
    page.press("Escape")
    page.wait("!document.querySelector('dialog[open]')")
    assert focused() == "both"


@pytest.mark.parametrize("view", ["ask", "tasks", "teach"])
def test_everything_that_can_be_used_has_a_name(page: Browser, tmp_path: Path, view: str) -> None:
    if view == "ask":
        page.choose("#files", [clip(tmp_path), clip(tmp_path, "other.wav", 1)])
        page.wait(
            "document.querySelectorAll('.past').length === 2 && document.querySelector('.units button')"
        )
    page.evaluate(f"location.hash = '{view}'")
    page.wait(
        {
            "ask": "true",
            "tasks": "document.querySelector('.task-card')",
            "teach": "document.querySelector('.label-row')",
        }[view]
    )
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    page.call("Accessibility.disable")
    usable = {"button", "link", "checkbox", "textbox", "searchbox", "dialog", "progressbar", "img"}
    found = [node for node in nodes if not node["ignored"] and node.get("role", {}).get("value") in usable]
    assert len(found) > 8
    assert [
        node["role"]["value"] for node in found if not node.get("name", {}).get("value", "").strip()
    ] == []
    width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    for size in (320, 390, 768, 1200):
        page.size(size)
        assert page.evaluate(width), f"{view} is wider than a screen of {size}"


def test_a_server_that_goes_away_and_one_with_nothing(
    chromium: Browser, taught: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with Site(tmp_path / "empty", taught, token=None) as site:
        chromium.size(1200)
        chromium.open(site.url)
        chromium.wait("document.querySelector('#picker .empty')")
        assert "Teach one here" in chromium.text("#picker")
        chromium.evaluate("location.hash = 'teach'")
        chromium.wait("document.querySelector('#lesson .empty')")
        assert "--token-file" in chromium.text("#lesson")
        chromium.evaluate("location.hash = 'tasks'")
        chromium.wait("document.querySelector('#gallery .empty')")
    chromium.evaluate("location.hash = 'ask'; document.querySelector('#reconnect').click()")
    chromium.wait("!document.querySelector('#offline').hidden")
    assert "does not answer" in chromium.text("#offline")
