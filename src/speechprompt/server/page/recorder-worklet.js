// Runs on the audio thread: hands the microphone's samples to the page, a few hundred at a time.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Float32Array(2048);
    this.filled = 0;
  }

  process([input]) {
    const channel = input[0];
    if (!channel) return true;
    if (this.filled + channel.length > this.samples.length) this.send();
    this.samples.set(channel, this.filled);
    this.filled += channel.length;
    return true;
  }

  send() {
    this.port.postMessage(this.samples.slice(0, this.filled));
    this.filled = 0;
  }
}

registerProcessor("recorder", Recorder);
