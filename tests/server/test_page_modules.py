"""The page's modules in node over a stub of the document: when the microphone is on."""

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
  replaceChildren(...children) { this.children = children; }
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
