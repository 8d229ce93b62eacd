// A clip to look at and to listen to: its waveform, its units, and which of them an answer rests on.

import { element, seconds, shape } from "./dom.js";
import { envelope } from "./sound.js";

const WIDTH = 1000;
const HEIGHT = 120;
const BARS = 220;
const MOST_UNITS = 800; // drawn; a clip of half a minute has about as many

// `units` are {id, start, end} in seconds; `samples` are null where the browser cannot decode the clip.
export class Waveform {
  constructor(file, samples, duration) {
    Object.assign(this, { samples, duration, units: [], spans: [], end: null });
    this.audio = new Audio(URL.createObjectURL(file));
    this.play = element("button", { type: "button", class: "play", "aria-label": "Play the clip", onclick: () => this.toggle() });
    this.bars = shape("g");
    this.playhead = shape("line", { class: "playhead", y1: 0, y2: HEIGHT, x1: 0, x2: 0 });
    this.drawing = shape(
      "svg",
      { class: "wave", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", onclick: (event) => this.seek(event) },
      this.bars,
      this.playhead,
    );
    this.strip = element("div", { class: "units", role: "group", "aria-label": "Units" });
    this.said = element("p", { class: "hint reading", role: "status" }, "");
    this.node = element("div", { class: "waveform" }, this.play, element("div", { class: "tracks" }, this.drawing, this.strip), this.said);
    this.audio.addEventListener("play", () => this.follow());
    this.audio.addEventListener("pause", () => this.button());
    this.drawBars();
    this.button();
  }

  release() {
    this.audio.pause();
    URL.revokeObjectURL(this.audio.src);
  }

  button() {
    const playing = !this.audio.paused;
    this.play.classList.toggle("playing", playing);
    this.play.setAttribute("aria-label", playing ? "Pause" : "Play the clip");
  }

  async toggle() {
    this.end = null;
    if (!this.audio.paused) return this.audio.pause();
    if (this.audio.currentTime >= this.duration - 0.01) this.audio.currentTime = 0;
    await this.start();
  }

  async playSpan(start, end) {
    this.audio.currentTime = start;
    this.end = end;
    await this.start();
  }

  async start() {
    try {
      await this.audio.play();
    } catch {
      this.said.textContent = "This browser cannot play the file; the server could still read it.";
    }
  }

  seek(event) {
    const box = this.drawing.getBoundingClientRect();
    this.end = null;
    this.audio.currentTime = (this.duration * (event.clientX - box.left)) / box.width;
    this.place();
  }

  place() {
    const x = (WIDTH * this.audio.currentTime) / this.duration;
    this.playhead.setAttribute("x1", x);
    this.playhead.setAttribute("x2", x);
  }

  follow() {
    this.button();
    const step = () => {
      if (this.end !== null && this.audio.currentTime >= this.end) this.audio.pause();
      this.place();
      if (!this.audio.paused) requestAnimationFrame(step);
    };
    step();
  }

  drawBars() {
    const heights = this.samples ? envelope(this.samples, BARS) : new Float32Array(BARS).fill(0.15);
    const pitch = WIDTH / BARS;
    const bars = [...heights].map((height, i) => {
      const tall = Math.max(3, height * (HEIGHT - 8));
      return shape("rect", { x: i * pitch + pitch * 0.18, width: pitch * 0.64, y: (HEIGHT - tall) / 2, height: tall });
    });
    this.bars.replaceChildren(...bars);
    this.paintBars();
  }

  // Units under the waveform; each is a button that plays its part.
  showUnits(all) {
    const units = all.length > MOST_UNITS ? [] : all;
    this.units = units;
    const cells = units.map((unit, i) => {
      const label = `Unit ${unit.id}, ${seconds(unit.start)} to ${seconds(unit.end)}`;
      const cell = element("button", { type: "button", tabindex: i ? -1 : 0, title: label, "aria-label": `${label}: play`, onclick: () => this.playSpan(unit.start, unit.end) }, element("span", {}, String(unit.id)));
      cell.style.flexGrow = Math.round(1000 * (unit.end - unit.start));
      return cell;
    });
    const rest = element("span", { "aria-hidden": "true" }); // the last frame may end before the clip does
    rest.style.flexGrow = Math.max(0, Math.round(1000 * (this.duration - (units.at(-1)?.end ?? 0))));
    this.strip.replaceChildren(...cells, rest);
    this.strip.onkeydown = (event) => rove(event, cells);
    this.fit();
  }

  // Numbers only where the narrowest units have room for them.
  fit() {
    const room = this.strip.clientWidth / Math.max(1, this.units.length);
    this.strip.classList.toggle("numbered", room >= 21);
  }

  // `spans` are {start, end, importance}: how far the log-odds of the label fall without that part.
  showSpans(spans, label) {
    this.spans = spans;
    this.most = Math.max(0.5, ...spans.map((span) => Math.abs(span.importance)));
    this.paintBars();
    this.paintUnits();
    this.tellSpans(label);
  }

  share(start, end) {
    const middle = (start + end) / 2;
    const span = this.spans.find((each) => each.start <= middle && middle < each.end);
    return span ? span.importance / this.most : 0;
  }

  paintBars() {
    [...this.bars.children].forEach((bar, i) => {
      tint(bar, this.share((i * this.duration) / BARS, ((i + 1) * this.duration) / BARS), this.spans.length);
    });
  }

  paintUnits() {
    this.units.forEach((unit, i) => tint(this.strip.children[i], this.share(unit.start, unit.end), this.spans.length));
  }

  tellSpans(label) {
    if (!this.spans.length) return this.said.replaceChildren();
    const best = this.spans.reduce((one, other) => (other.importance > one.importance ? other : one));
    if (best.importance <= 0) {
      return this.said.replaceChildren(`No single part carries “${label}”: without any one of them it stays as sure. `, key("against", "speaks against it"));
    }
    const part = element("button", { type: "button", class: "link", onclick: () => this.playSpan(best.start, best.end) }, `${seconds(best.start)} to ${seconds(best.end)}`);
    return this.said.replaceChildren(`“${label}” rests most on `, part, ". ", key("for", "speaks for it"), " ", key("against", "speaks against it"));
  }
}

function key(side, words) {
  return element("span", { class: `key ${side}` }, words);
}

// Colours by a share from -1 (against) to 1 (for); the style sheet mixes.
function tint(node, share, any) {
  node.style.setProperty("--share", `${Math.round(100 * Math.min(1, Math.abs(share)))}%`);
  node.classList.toggle("explained", Boolean(any));
  node.classList.toggle("against", share < 0);
}

// Arrow keys move among buttons of which one is in the tab order.
export function rove(event, cells) {
  const place = cells.indexOf(document.activeElement);
  const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: cells.length - 1 }[event.key];
  if (place < 0 || next === undefined || !cells[next]) return;
  event.preventDefault();
  cells[place].tabIndex = -1;
  cells[next].tabIndex = 0;
  cells[next].focus();
}
