// The button that records a clip to ask about, with its clock and its level.

import { at, clock, tell } from "./dom.js";
import { LONGEST_SECONDS, Recording } from "./recorder.js";
import { peak, trimmed } from "./sound.js";

const SHORTEST_SECONDS = 0.2;
const SILENT = 0.004;

export class RecordButton {
  constructor(onsamples, onproblem) {
    Object.assign(this, { onsamples, onproblem, recording: null, levels: [] });
    this.button = at("record");
    this.button.addEventListener("click", () => this.toggle());
  }

  async toggle() {
    if (this.starting) return;
    if (this.recording) await this.stop();
    else await this.start();
  }

  async start() {
    this.starting = true;
    this.onproblem("");
    this.levels = [];
    try {
      this.recording = await Recording.start((level, seconds) => this.heard(level, seconds), () => this.stop());
      this.show(true);
    } catch (error) {
      this.onproblem(error.message);
    }
    this.starting = false;
  }

  async stop() {
    const recording = this.recording;
    if (!recording) return;
    this.recording = null;
    this.show(false);
    const samples = await recording.stop();
    if (recording.seconds < SHORTEST_SECONDS) return this.onproblem("That was too short to hear. Press once, speak, and press again.");
    if (peak(samples) < SILENT) return this.onproblem("That recording is silent. Check that the right microphone is chosen and not muted.");
    this.onsamples(trimmed(samples));
  }

  async cancel() {
    const recording = this.recording;
    this.recording = null;
    this.show(false);
    await recording?.release();
  }

  show(on) {
    at("recorder").classList.toggle("recording", on);
    this.button.querySelector(".words").textContent = on ? "Stop" : "Record";
    this.button.setAttribute("aria-pressed", String(on));
    at("clock").hidden = !on;
    at("record-hint").hidden = on;
    this.draw();
  }

  heard(level, seconds) {
    if (!this.recording) return;
    this.levels.push(level);
    const left = LONGEST_SECONDS - seconds;
    tell(at("clock"), left < 10 ? `${clock(seconds)}, ${Math.ceil(left)} s left` : clock(seconds));
    this.draw();
  }

  draw() {
    const canvas = at("level");
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.recording) return;
    pen.fillStyle = getComputedStyle(canvas).color;
    const shown = this.levels.slice(-100);
    shown.forEach((level, i) => {
      const tall = Math.max(3, Math.min(1, Math.sqrt(level) * 1.8) * canvas.height);
      pen.fillRect(canvas.width - 6 * (shown.length - i), (canvas.height - tall) / 2, 3.5, tall);
    });
  }
}
