// The microphone: starts, tells its level, stops with samples at 16 kHz.

import { resampled } from "./sound.js";

export const LONGEST_SECONDS = 60;

const WHY = {
  NotAllowedError: "The browser may not use the microphone. Allow it in the address bar, or choose a file.",
  NotFoundError: "No microphone was found. Plug one in, or choose a file.",
  NotReadableError: "Another program holds the microphone. Close it, or choose a file.",
};

export class Recording {
  // `onlevel(level, seconds)` hears of every few hundred samples; `onfull()` of the limit.
  static async start(onlevel, onfull) {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
      throw new Error("Recording needs https or localhost. You can still choose a file.");
    }
    let stream;
    try {
      const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Error(WHY[error.name] ?? `The microphone did not start: ${error.message}`);
    }
    const recording = new Recording(stream, onlevel, onfull);
    try {
      await recording.connect();
    } catch (error) {
      await recording.release();
      throw new Error(`The microphone did not start: ${error.message}`);
    }
    return recording;
  }

  constructor(stream, onlevel, onfull) {
    Object.assign(this, { stream, onlevel, onfull, chunks: [], length: 0 });
    this.context = new AudioContext();
  }

  get seconds() {
    return this.length / this.context.sampleRate;
  }

  async connect() {
    await this.context.audioWorklet.addModule(new URL("./recorder-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => this.take(data);
    this.context.createMediaStreamSource(this.stream).connect(node);
    await this.context.resume();
  }

  take(samples) {
    this.chunks.push(samples);
    this.length += samples.length;
    let sum = 0;
    for (const value of samples) sum += value * value;
    this.onlevel(Math.sqrt(sum / samples.length), this.seconds);
    if (this.seconds >= LONGEST_SECONDS) this.onfull();
  }

  async release() {
    this.stream.getTracks().forEach((track) => track.stop());
    if (this.context.state !== "closed") await this.context.close();
  }

  // Ends the recording: its samples at 16 kHz.
  async stop() {
    const rate = this.context.sampleRate;
    await this.release();
    const samples = new Float32Array(this.length);
    let place = 0;
    for (const chunk of this.chunks) {
      samples.set(chunk, place);
      place += chunk.length;
    }
    return samples.length ? resampled(samples, rate) : samples;
  }
}
