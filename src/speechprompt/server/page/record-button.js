// The button that records a clip to ask about, with its clock and its level.

import { at, clock, tell } from "./dom.js";
import { LONGEST_SECONDS, Recording } from "./recorder.js";
import { peak, trimmed } from "./sound.js";

const SHORTEST_SECONDS = 0.2;
const SILENT = 0.004;

export class RecordButton {
  constructor(onsamples, onproblem) {
    Object.assign(this, { onsamples, onproblem, recording: null, starting: null, levels: [] });
    this.button = at("record");
    this.button.addEventListener("click", () => this.toggle());
  }

  async toggle() {
    if (this.starting) return;
    if (this.recording) await this.stop();
    else await this.start();
  }

  // A person may take long to allow the microphone; one that was given up meanwhile is let go when it comes.
  async start() {
    const starting = {};
    Object.assign(this, { starting, levels: [] });
    this.onproblem("");
    try {
      const recording = await Recording.start((level, seconds) => this.heard(level, seconds), () => this.stop());
      if (this.starting !== starting) return await recording.release();
      this.recording = recording;
      this.show(true);
    } catch (error) {
      if (this.starting !== starting) return;
      this.onproblem(error.message);
    }
    this.starting = null;
  }

  // Gives up what is starting, and what is recording, which it returns.
  giveUp() {
    const { recording } = this;
    Object.assign(this, { starting: null, recording: null });
    return recording;
  }

  async stop() {
    const recording = this.giveUp();
    if (!recording) return;
    this.show(false);
    const samples = await recording.stop();
    if (recording.seconds < SHORTEST_SECONDS) return this.onproblem("That was too short to hear. Press once, speak, and press again.");
    if (peak(samples) < SILENT) return this.onproblem("That recording is silent. Check that the right microphone is chosen and not muted.");
    this.onsamples(trimmed(samples));
  }

  async cancel() {
    const recording = this.giveUp();
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
