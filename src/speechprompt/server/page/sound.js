// Samples in the page: decoding for the eye, resampling, WAV files, and cutting a recording at its pauses.

export const SAMPLE_RATE = 16000;

// Mono float samples of a file, at 16 kHz; null where this browser cannot decode it (the server still may).
export async function decoded(file) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  try {
    const buffer = await context.decodeAudioData(await file.arrayBuffer());
    return mixed(buffer);
  } catch {
    return null;
  }
}

function mixed(buffer) {
  const samples = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    const row = buffer.getChannelData(channel);
    for (let i = 0; i < row.length; i += 1) samples[i] += row[i] / buffer.numberOfChannels;
  }
  return samples;
}

export async function resampled(samples, rate) {
  if (rate === SAMPLE_RATE) return samples;
  const length = Math.max(1, Math.round((samples.length * SAMPLE_RATE) / rate));
  const context = new OfflineAudioContext(1, length, SAMPLE_RATE);
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

// A 16-bit mono WAV file of samples at 16 kHz.
export function wavFile(samples, name) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const write = (offset, text) => [...text].forEach((c, i) => bytes.setUint8(offset + i, c.charCodeAt(0)));
  write(0, "RIFF");
  bytes.setUint32(4, 36 + 2 * samples.length, true);
  write(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true);
  bytes.setUint16(22, 1, true);
  bytes.setUint32(24, SAMPLE_RATE, true);
  bytes.setUint32(28, 2 * SAMPLE_RATE, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  write(36, "data");
  bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => bytes.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new File([bytes], name, { type: "audio/wav" });
}

export function peak(samples) {
  let most = 0;
  for (const value of samples) most = Math.max(most, Math.abs(value));
  return most;
}

// The loudest sample of each of `bins` equal stretches, as a share of the loudest of all.
export function envelope(samples, bins) {
  const most = Math.max(peak(samples), 0.02);
  const found = new Float32Array(bins);
  for (let bin = 0; bin < bins; bin += 1) {
    const end = Math.ceil(((bin + 1) * samples.length) / bins);
    for (let i = Math.floor((bin * samples.length) / bins); i < end; i += 1) {
      found[bin] = Math.max(found[bin], Math.abs(samples[i]) / most);
    }
  }
  return found;
}

const FRAME = SAMPLE_RATE / 50;
const PAUSE_FRAMES = 15; // 0.3 s of quiet ends a clip
const SHORTEST_FRAMES = 8; // less than 0.16 s of sound is a click
const MARGIN_FRAMES = 6; // 0.12 s kept on either side

// Stretches of sound between pauses, each as samples: "yes … yes … yes" becomes three clips.
export function cutAtPauses(samples) {
  return soundSpans(samples).map(([start, end]) => samples.slice(start, end));
}

// A recording without the silence before and after; models were taught on clips that begin and end with speech.
export function trimmed(samples) {
  const spans = soundSpans(samples);
  return spans.length ? samples.slice(spans[0][0], spans.at(-1)[1]) : samples;
}

// First and last sample of each stretch of sound, margins included.
function soundSpans(samples) {
  const frames = Math.floor(samples.length / FRAME);
  const loudness = Array.from({ length: frames }, (_, frame) => {
    let sum = 0;
    for (let i = frame * FRAME; i < (frame + 1) * FRAME; i += 1) sum += samples[i] ** 2;
    return Math.sqrt(sum / FRAME);
  });
  const ordered = [...loudness].sort((a, b) => a - b);
  const floor = ordered[Math.floor(0.2 * frames)] ?? 0;
  const loud = ordered[Math.floor(0.95 * frames)] ?? 0;
  const threshold = Math.max(0.004, Math.min(3 * floor, 0.5 * loud), 0.08 * loud);
  const spans = [];
  let start = -1;
  let last = -1;
  loudness.forEach((value, frame) => {
    if (value < threshold) return;
    if (start >= 0 && frame - last > PAUSE_FRAMES) {
      spans.push([start, last]);
      start = -1;
    }
    if (start < 0) start = frame;
    last = frame;
  });
  if (start >= 0) spans.push([start, last]);
  return spans
    .filter(([first, final]) => final - first + 1 >= SHORTEST_FRAMES)
    .map(([first, final]) => [Math.max(0, first - MARGIN_FRAMES) * FRAME, (final + 1 + MARGIN_FRAMES) * FRAME]);
}
