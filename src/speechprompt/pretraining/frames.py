"""The log-mel frames of hours of speech, on disk, and the MFCC that masked prediction starts from."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from speechprompt.errors import TrainingError
from speechprompt.pretraining.run_folder import Progress
from speechprompt.pretraining.stages import audio_digest
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.mel_encoder import SAMPLE_RATE, WINDOW_SAMPLES, MelFrames

_CEPSTRA = 13
_PRIOR_FRAMES = 250
Frames = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class SpeechFrames:
    """Frames of many clips end to end: `values` (sum of T, 2*mels) float16, `offsets` (clips + 1,);
    `kept` (clips,), which of the utterances asked for they are; `digest`, the SHA-256 (hex) of those on disk."""

    values: Frames
    offsets: NDArray[np.int64]
    kept: NDArray[np.int64]
    digest: str = ""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def clip(self, index: int) -> Frames:
        """Frames (T, 2*mels) of one clip."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def hours(self) -> float:
        """How much speech this is."""
        return len(self.values) / 50 / 3600


def collect_frames(
    utterances: Sequence[Utterance], folder: str | Path, mels: int = 80, progress: Progress | None = None
) -> SpeechFrames:
    """Decode clips and keep their log-mel frames in `folder`; those of the same audio that it already holds are read.

    Clips shorter than a frame are left out. Errors: TrainingError when there is nothing to hear; AudioError of a
    file that cannot be read. Side effects: writes frames.f16, offsets.npy, kept.npy and frames.json, in the place of
    frames of other audio; memory stays bounded by one clip.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {"audio": audio_digest(utterances), "mels": mels}
    mark = folder / "frames.json"
    known = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
    digest = known.pop("sha256", None)
    if digest is None or known != described:
        mark.unlink(missing_ok=True)
        digest = _write_frames(utterances, folder, mels, progress)
        temporary = mark.with_suffix(".part")
        temporary.write_text(json.dumps({**described, "sha256": digest}), encoding="utf-8")
        temporary.replace(mark)
    offsets = np.load(folder / "offsets.npy")
    values: Frames = np.memmap(folder / "frames.f16", np.float16, "r", shape=(int(offsets[-1]), 2 * mels))
    return SpeechFrames(values, offsets, np.load(folder / "kept.npy"), digest)


def _write_frames(utterances: Sequence[Utterance], folder: Path, mels: int, progress: Progress | None) -> str:
    """Write the frames; their SHA-256 (hex)."""
    front = MelFrames(mels)
    lengths, kept, digest = [], [], hashlib.sha256()
    with (folder / "frames.f16").open("wb") as file:
        for done, utterance in enumerate(utterances, 1):
            if utterance.audio is None:
                continue
            span = utterance.start_seconds, utterance.end_seconds
            waveform, _ = read_waveform(utterance.audio, SAMPLE_RATE, *span)
            if len(waveform) < WINDOW_SAMPLES:
                continue
            frames, _ = front(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
            lengths.append(frames.shape[1])
            kept.append(done - 1)
            content = frames[0].half().numpy().tobytes()
            digest.update(content)
            file.write(content)
            if progress is not None and done % 500 == 0:
                progress({"step": done, "steps": len(utterances), "stage": "frames"})
    if not lengths:
        raise TrainingError("there is no speech to learn from: no clip has audio of at least one frame")
    np.save(folder / "kept.npy", np.array(kept))
    np.save(folder / "offsets.npy", np.cumsum([0, *lengths]))
    return digest.hexdigest()


def mean_and_deviation(speech: SpeechFrames) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Per channel over a hundred thousand frames spread evenly, (2*mels,) each."""
    sample = speech.values[:: max(1, len(speech.values) // 100_000)].astype(np.float32)
    return sample.mean(0), sample.std(0) + 1e-3


def mfcc(speech: SpeechFrames, index: int) -> NDArray[np.float32]:
    """Thirteen cepstra of a clip with first and second differences, (T, 39)."""
    frames = speech.clip(index).astype(np.float32)
    mels = frames.shape[1] // 2
    logs = (frames[:, :mels] + frames[:, mels:]) / 2
    angles = np.pi / mels * (np.arange(mels) + 0.5)[:, None] * np.arange(_CEPSTRA)
    cepstra = logs @ (np.cos(angles) * math.sqrt(2 / mels)).astype(np.float32)
    if len(cepstra) < 2:
        return np.concatenate([cepstra, np.zeros((len(cepstra), 2 * _CEPSTRA), np.float32)], 1)
    slope = np.gradient(cepstra, axis=0)
    return np.concatenate([cepstra, slope, np.gradient(slope, axis=0)], 1).astype(np.float32)


def without_speakers(
    clips: Sequence[NDArray[np.float32]], speakers: Sequence[str]
) -> list[NDArray[np.float32]]:
    """MFCC (T,39) of clips less the mean cepstra of each clip's speaker.

    A speaker heard for less than a few seconds is trusted less: the mean of all counts as 5 s of every speaker.
    """
    cepstra = slice(0, _CEPSTRA)
    overall = np.mean([clip[:, cepstra].mean(0) for clip in clips], axis=0)
    sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: _PRIOR_FRAMES * overall.astype(np.float64))
    counts: dict[str, int] = defaultdict(lambda: _PRIOR_FRAMES)
    for clip, speaker in zip(clips, speakers, strict=True):
        sums[speaker] += clip[:, cepstra].sum(0)
        counts[speaker] += len(clip)
    centred = []
    for clip, speaker in zip(clips, speakers, strict=True):
        offset = sums[speaker] / counts[speaker] - overall
        centred.append(np.concatenate([clip[:, cepstra] - offset, clip[:, _CEPSTRA:]], 1).astype(np.float32))
    return centred
