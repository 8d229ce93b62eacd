"""The page's modules in node over a stub of the document: what may be replaced, and when the microphone is on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from speechprompt.server.page import page_files

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None, reason="no node on this machine; the page's modules are not run"
)

DOCUMENT = """
class Node {
  constructor() {
    Object.assign(this, { children: [], listeners: {}, style: {}, value: "", isConnected: true, hidden: false });
    this.classList = { toggle: () => {} };
  }
  addEventListener(name, heard) { this.listeners[name] = heard; }
  setAttribute(name, value) { if (name === "value") this.value = value; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) {
    for (const [list, connected] of [[this.children, false], [children, true]])
      for (const child of list) if (child instanceof Node) child.isConnected = connected;
    this.children = children;
  }
  querySelector() { return (this.inner ??= new Node()); }
  getContext() { return { clearRect() {}, fillRect() {} }; }
  checkValidity() { return true; }
  remove() {}
  press(words) {
    if (this.children.includes(words)) this.listeners.click();
    for (const child of this.children) child.press?.(words);
  }
}
const places = {};
globalThis.document = {
  baseURI: "http://localhost/",
  createElement: () => new Node(),
  createElementNS: () => new Node(),
  getElementById: (id) => (places[id] ??= new Node()),
};
const settled = async () => { for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate); };
"""

SERVER = """
const { Teach } = await import("./teach.js");
const taken = new Set(["door", "lights"]);
const posts = [];
let jobs = [];
const held_out = { accuracy: { estimate: 1, low: 0, high: 1 }, clips: 6, majority: 0.5, labels: {}, mistakes: [] };
const job = (name, state) => ({ id: "1", name, state, held_out });
const limits = { fewest_clips: 0, most_clips: 400, most_labels: 20, most_seconds: 30 };
globalThis.fetch = async (address, { method, body }) => {
  const answer = (content, status = 200) => new Response(JSON.stringify(content), { status });
  if (method === "GET") return answer({ enabled: true, token_required: true, limits, jobs });
  const [name, replace] = [body.get("name"), body.get("replace") === "true"];
  posts.push([name, replace]);
  if (taken.has(name) && !replace) return answer({ detail: `task '${name}' already exists` }, 409);
  taken.add(name);
  return answer(job(name, "done"), 202);
};
const place = new Node();
const teach = new Teach(place, () => {}, () => {});
const train = async (name) => {
  teach.rows.forEach((row, i) => (row.label = `label ${i}`));
  teach.secret.value = "token";
  teach.name.value = name;
  await teach.train(new Event("submit"));
};
await teach.open();
"""

MICROPHONES = """
const { LabelRow } = await import("./label-row.js");
const { RecordButton } = await import("./record-button.js");
const microphones = [];
const asked = [];
const getUserMedia = () => new Promise((resolve) => {
  asked.push(() => {
    const microphone = { on: true, getTracks: () => [{ stop: () => (microphone.on = false) }] };
    microphones.push(microphone);
    resolve(microphone);
  });
});
Object.defineProperty(globalThis, "navigator", { value: { mediaDevices: { getUserMedia } }, configurable: true });
globalThis.AudioContext = class {
  sampleRate = 16000;
  audioWorklet = { addModule: async () => {} };
  createMediaStreamSource() { return { connect() {} }; }
  async resume() {}
  async close() {}
};
globalThis.AudioWorkletNode = class { port = {}; };
globalThis.window = { AudioWorkletNode };
globalThis.getComputedStyle = () => ({ color: "black" });
const rules = { onchange() {}, onproblem() {}, onremove() {}, cuts: () => false, mostSeconds: 30 };
const row = new LabelRow("open", 0, rules);
const other = new LabelRow("close", 1, rules);
const button = new RecordButton(() => {}, () => {});
const press = async (one) => {
  one.toggle();
  await settled();
};
const allow = async () => {
  asked.splice(0).forEach((allowed) => allowed());
  await settled();
};
const on = () => microphones.filter((microphone) => microphone.on).length;
"""


def found(folder: Path, *parts: str) -> Any:
    """The value of the last part, after the others ran beside the page's modules."""
    for name, content in page_files().items():
        (folder / name).write_bytes(content)
    (folder / "package.json").write_text('{"type": "module"}')
    *script, value = (DOCUMENT, *parts)
    (folder / "case.js").write_text("\n".join([*script, f"console.log(JSON.stringify({value}));"]))
    command = [str(NODE), "case.js"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


REPLACING = {
    "the name that was confirmed": (
        'await train("door"); await train("door")',
        [["door", False], ["door", True]],
    ),
    "another name": (
        'await train("door"); await train("lights"); await train("door")',
        [["door", False], ["lights", False], ["door", False]],
    ),
    "the task that was taught": (
        'await train("new"); place.press("Add clips and train again"); await train("new")',
        [["new", False], ["new", True]],
    ),
    "another name after a lesson": (
        'await train("new"); place.press("Add clips and train again"); await train("door")',
        [["new", False], ["door", False]],
    ),
    "after another form": (
        """await train("new"); place.press("Add clips and train again"); await train("new");
        place.press("Teach another"); await train("new")""",
        [["new", False], ["new", True], ["new", False]],
    ),
    "a task that somebody else taught": (
        """jobs = [job("door", "running")]; await teach.open(); teach.lesson.job = job("door", "done");
        teach.lesson.draw(); place.press("Add clips and train again"); await train("door")""",
        [["door", False]],
    ),
}


@pytest.mark.parametrize(("script", "posts"), REPLACING.values(), ids=REPLACING)
def test_only_the_name_that_was_confirmed_is_replaced(
    tmp_path: Path, script: str, posts: list[list[object]]
) -> None:
    assert found(tmp_path, SERVER, script + ";", "posts") == posts


FAILING = """
const answered = globalThis.fetch;
let down = true;
globalThis.fetch = async (...request) => {
  if (down) throw new TypeError("gone");
  return answered(...request);
};
teach.name.value = "door";
"""


@pytest.mark.parametrize("elsewhere", ["", "place.replaceChildren(new Node());"])
def test_a_form_is_kept_while_the_server_is_away(tmp_path: Path, elsewhere: str) -> None:
    script = f"{FAILING} {elsewhere} await teach.open(); down = false; await teach.open();"
    value = "[place.children[0] === teach.form, teach.name.value, teach.rows.length]"
    assert found(tmp_path, SERVER, script, value) == [True, "door", 2]


def test_the_clip_before_one_that_fails_does_not_stay(tmp_path: Path) -> None:
    script = """
    const { Ask } = await import("./ask.js");
    const bad = { file: { name: "bad.wav" }, answer: null };
    const ask = Object.create(Ask.prototype);
    ask.history = { current: bad, draw() {}, select() {} };
    ask.picker = { everything: true, chosen: new Set(["word"]) };
    document.getElementById("answers").children = ["those of good.wav"];
    ask.fail(bad, "it is no audio");
    """
    value = (
        '[document.getElementById("clip").hidden, document.getElementById("answers").children.length, '
        'document.getElementById("ask-notice").textContent]'
    )
    assert found(tmp_path, script, value) == [True, 0, "bad.wav: it is no audio"]


def test_a_lesson_found_again_is_cancelled_with_the_token(tmp_path: Path) -> None:
    script = """
    const { Lesson } = await import("./lesson.js");
    const sent = [];
    globalThis.fetch = async (address, { method, headers }) => {
      sent.push([method, new Headers(headers).get("authorization")]);
      const known = sent.at(-1)[1] === "Bearer secret";
      const content = known ? { id: "1", name: "door", state: "cancelled" } : { detail: "it needs the token" };
      return new Response(JSON.stringify(content), { status: known ? 200 : 401 });
    };
    const job = { id: "1", name: "door", state: "running", stage: "training", step: 1, steps: 9 };
    const lesson = new Lesson(job, { clips: [], token: "" });
    lesson.node.press("Cancel");
    await settled();
    lesson.draw();
    const said = lesson.problem.textContent;
    lesson.secret.value = "secret";
    lesson.node.press("Cancel");
    await settled();
    """
    assert found(tmp_path, script, "[said, lesson.job.state, sent.map(([method]) => method)]") == [
        "it needs the token",
        "cancelled",
        ["DELETE", "DELETE"],
    ]


def test_a_taken_name_is_told_as_what_to_press(tmp_path: Path) -> None:
    said = found(tmp_path, SERVER, 'await train("door");', "teach.notice.textContent")
    assert said == "There is “door” already. Press Train again to replace it, or choose another name."


ON = {
    "a row": ("await press(row); await allow()", 1),
    "a row, stopped": ("await press(row); await allow(); await row.stop()", 0),
    "two clicks, then a stop": ("row.toggle(); await press(row); await allow(); await row.stop()", 0),
    "a row, left at once": ("row.toggle(); row.stop(); await settled(); await allow()", 0),
    "a row, left while asked": ("await press(row); await row.stop(); await allow()", 0),
    "a row, removed while asked": ("await press(row); row.release(); await allow()", 0),
    "a row, left and begun again": ("await press(row); row.stop(); await press(row); await allow()", 1),
    "two rows": ("await press(row); await press(other); await allow()", 1),
    "two rows, one after the other": (
        "await press(row); await allow(); await press(other); await allow()",
        1,
    ),
    "the button": ("await press(button); await allow()", 1),
    "the button, cancelled": ("await press(button); await allow(); await button.cancel()", 0),
    "the button, cancelled while asked": ("await press(button); await button.cancel(); await allow()", 0),
    "the button, cancelled and begun again": (
        "await press(button); await button.cancel(); await press(button); await allow(); await button.stop()",
        0,
    ),
}


@pytest.mark.parametrize(("script", "microphones"), ON.values(), ids=ON)
def test_the_microphone_is_on_only_while_it_records(tmp_path: Path, script: str, microphones: int) -> None:
    shown = "[on(), [row, other, button].filter((each) => each.recording).length]"
    assert found(tmp_path, MICROPHONES, script + ";", shown) == [microphones, microphones]


def test_a_row_that_records_is_stopped_by_the_lesson_that_takes_its_place(tmp_path: Path) -> None:
    script = 'await press(teach.rows[0]); await allow(); const before = on(); await train("new");'
    assert found(tmp_path, SERVER, MICROPHONES, script, "[before, on()]") == [1, 0]
