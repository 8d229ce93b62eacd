// The clips of this session, newest first; nothing outlives the page.

import { clock, count, download, element, percent } from "./dom.js";

export class History {
  constructor(place, onopen) {
    Object.assign(this, { place, onopen, entries: [], current: null });
  }

  add(entry) {
    this.entries.unshift(entry);
    this.select(entry);
  }

  select(entry) {
    this.current = entry;
    this.draw();
  }

  clear() {
    this.entries.filter((entry) => entry !== this.current).forEach((entry) => entry.waveform?.release());
    this.entries = this.entries.filter((entry) => entry === this.current);
    this.draw();
  }

  save() {
    const rows = this.entries.filter((entry) => entry.answer).map(({ file, asked, answer }) => ({ file: file.name, asked: asked.toISOString(), ...answer }));
    download("answers.jsonl", rows.map((row) => `${JSON.stringify(row)}\n`).join(""), "application/jsonl");
  }

  draw() {
    if (this.entries.length < 2) return this.place.replaceChildren();
    this.place.replaceChildren(
      element(
        "section",
        { class: "history", "aria-labelledby": "history-title" },
        element("div", { class: "row" }, element("h2", { id: "history-title" }, "This session"), element("span", { class: "tools" }, tool("Save as JSON lines", () => this.save()), tool("Clear", () => this.clear()))),
        element("ol", { reversed: true }, this.entries.map((entry) => this.row(entry))),
        element("p", { class: "hint" }, count(this.entries.length, "clip"), "; forgotten when you close the page."),
      ),
    );
  }

  row(entry) {
    const said = entry.problem ?? entry.answer?.predictions.slice(0, 4).map(summary).join(" · ") ?? "waiting …";
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: "past", "aria-current": entry === this.current ? "true" : null, onclick: () => this.onopen(entry) },
        element("span", { class: "name" }, entry.file.name),
        element("span", { class: "hint" }, entry.duration ? clock(entry.duration + 0.5) : ""),
        element("span", { class: entry.problem ? "said below" : "said" }, said),
      ),
    );
  }
}

export function summary(prediction) {
  const labels = Object.values(prediction.slots).map((slot) => slot.label).join(" ");
  return `${prediction.task}: ${labels} ${percent(prediction.score)}`;
}

function tool(words, onclick) {
  return element("button", { type: "button", class: "link", onclick }, words);
}
