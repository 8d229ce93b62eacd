// One label of a lesson: its name and the clips that were recorded or chosen for it.

import { count, element, shape } from "./dom.js";
import { Recording } from "./recorder.js";
import { cutAtPauses, decoded, envelope, peak, SAMPLE_RATE, wavFile } from "./sound.js";

const SILENT = 0.004;
const SKETCH_BARS = 24;
const EXAMPLES = ["open", "close", "other"];

let recordingRow = null; // one microphone, one row: the one that records or is starting to

export class LabelRow {
  constructor(label, place, rules) {
    Object.assign(this, { rules, clips: [], recording: null, starting: null, taken: 0 });
    this.name = element("input", { type: "text", value: label, maxlength: 64, "aria-label": `Label ${place + 1}`, placeholder: EXAMPLES[place] ?? "another label", autocomplete: "off", oninput: () => this.changed() });
    this.button = element("button", { type: "button", class: "small-record", "aria-pressed": "false", onclick: () => this.toggle() }, element("span", { class: "dot", "aria-hidden": "true" }), element("span", { class: "words" }, "Record"));
    const files = element("input", { type: "file", class: "unseen", accept: "audio/*,video/webm,video/mp4,.flac,.opus", multiple: true, onchange: ({ target }) => this.chosen(target) });
    this.shown = element("ul", { class: "clips" });
    this.total = element("span", { class: "hint", role: "status" });
    this.node = element(
      "div",
      { class: "label-row", role: "group", "aria-label": `Label ${place + 1}` },
      element("div", { class: "row" }, this.name, this.button, element("label", { class: "link" }, files, "Choose files"), this.total, element("button", { type: "button", class: "quiet remove", "aria-label": "Remove this label", onclick: rules.onremove }, "×")),
      this.shown,
    );
    this.draw();
  }

  get label() {
    return this.name.value.trim();
  }

  set label(value) {
    this.name.value = value;
  }

  focus() {
    this.name.focus();
  }

  release() {
    this.giveUp()?.release();
    this.clips.forEach((clip) => URL.revokeObjectURL(clip.address));
  }

  changed() {
    this.rules.onchange();
  }

  chosen(input) {
    this.addFiles([...input.files]);
    input.value = "";
  }

  addFiles(files) {
    for (const file of files) this.addClip(file);
    this.draw();
    this.changed();
  }

  addClip(file, samples = null) {
    const clip = { file, samples, address: URL.createObjectURL(file) };
    this.clips.push(clip);
    if (!samples) {
      decoded(file).then((found) => {
        clip.samples = found;
        this.draw();
      });
    }
  }

  async toggle() {
    if (this.starting) return undefined;
    if (this.recording) return this.stop();
    return this.start();
  }

  // A person may take long to allow the microphone; one that was given up meanwhile is let go when it comes.
  async start() {
    const starting = {};
    const other = recordingRow;
    this.starting = starting;
    recordingRow = this;
    try {
      await other?.stop();
      if (this.starting !== starting) return undefined;
      this.rules.onproblem("");
      const recording = await Recording.start((level, seconds) => this.recording && this.words(`Stop ${seconds.toFixed(0)} s`), () => this.stop());
      if (this.starting !== starting) return await recording.release();
      this.starting = null;
      this.recording = recording;
      this.show(true);
    } catch (error) {
      if (this.starting !== starting) return undefined;
      this.giveUp();
      this.rules.onproblem(error.message);
    }
    return undefined;
  }

  // Gives up what is starting, and what is recording, which it returns.
  giveUp() {
    const { recording } = this;
    Object.assign(this, { starting: null, recording: null });
    if (recordingRow === this) recordingRow = null;
    return recording;
  }

  async stop() {
    const recording = this.giveUp();
    if (!recording) return undefined;
    this.show(false);
    const samples = await recording.stop();
    if (peak(samples) < SILENT) return this.rules.onproblem("That recording is silent. Check that the right microphone is chosen and not muted.");
    const parts = this.rules.cuts() ? cutAtPauses(samples) : [samples];
    if (!parts.length) return this.rules.onproblem("Nothing was loud enough to be a clip. Speak closer to the microphone.");
    const longest = this.rules.mostSeconds * SAMPLE_RATE;
    for (const part of parts) {
      this.taken += 1;
      this.addClip(wavFile(part.slice(0, longest), `recording-${this.taken}.wav`), part);
    }
    this.draw();
    return this.changed();
  }

  show(on) {
    this.button.classList.toggle("recording", on);
    this.button.setAttribute("aria-pressed", String(on));
    this.words(on ? "Stop" : "Record");
  }

  words(text) {
    this.button.querySelector(".words").textContent = text;
  }

  draw() {
    this.total.textContent = this.clips.length ? count(this.clips.length, "clip") : "no clips yet";
    this.shown.replaceChildren(...this.clips.map((clip, i) => this.clipItem(clip, i)));
  }

  clipItem(clip, place) {
    const name = `clip ${place + 1}${this.label ? ` of ${this.label}` : ""}`;
    return element(
      "li",
      {},
      element("button", { type: "button", class: "sketch", title: clip.file.name, "aria-label": `Play ${name}`, onclick: () => new Audio(clip.address).play().catch(() => this.rules.onproblem(`This browser cannot play ${clip.file.name}; the server may still read it.`)) }, sketch(clip.samples)),
      element("button", { type: "button", class: "quiet remove", "aria-label": `Remove ${name}`, onclick: () => this.removeClip(clip) }, "×"),
    );
  }

  removeClip(clip) {
    URL.revokeObjectURL(clip.address);
    this.clips = this.clips.filter((each) => each !== clip);
    this.draw();
    this.name.focus();
    this.changed();
  }
}

function sketch(samples) {
  const heights = samples ? envelope(samples, SKETCH_BARS) : new Float32Array(SKETCH_BARS).fill(0.2);
  const bars = [...heights].map((height, i) => {
    const tall = Math.max(1.5, height * 22);
    return shape("rect", { x: i * 3, width: 2, y: (24 - tall) / 2, height: tall });
  });
  return shape("svg", { viewBox: `0 0 ${SKETCH_BARS * 3} 24`, "aria-hidden": "true" }, bars);
}
