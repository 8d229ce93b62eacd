"""Units without learning: clusters of MFCCs, fitted on a round's training clips. What a tokenizer has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from speechprompt.pretraining.frames import SpeechFrames, mfcc
from speechprompt.pretraining.kmeans import fit_centres, nearest_centres
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Utterance
from speechprompt.speech.units import deduplicate
from speechprompt.tokenizers.mel_encoder import SAMPLE_RATE, WINDOW_SAMPLES, MelFrames

CLUSTERS = 100
_FRAMES = 200_000

Features = NDArray[np.float32]


def mfcc_features(utterances: Sequence[Utterance]) -> list[Features]:
    """Thirteen cepstra with differences (T,39) of each clip, 50 a second; a clip below a frame is padded to one."""
    front = MelFrames(80)
    found = []
    for u in utterances:
        assert u.audio is not None
        waveform, _ = read_waveform(u.audio, SAMPLE_RATE, u.start_seconds, u.end_seconds)
        waveform = np.pad(waveform, (0, max(0, WINDOW_SAMPLES - len(waveform))))
        frames, _ = front(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        values = frames[0].half().numpy()
        speech = SpeechFrames(values, np.array([0, len(values)]), np.array([0]))
        found.append(mfcc(speech, 0))
    return found


def mfcc_units(
    features: Sequence[Features], training: Sequence[int], seed: int = 0
) -> Iterator[tuple[str, list[list[int]]]]:
    """Four forms of clusters of every clip, for validation to choose from; centres know the clips `training` only.

    Cepstra as they are, so that energy weighs most, or each divided by its deviation; clusters a frame, so that
    durations count, or runs merged.
    """
    deviation = np.concatenate([features[i] for i in training]).std(0) + 1e-6
    for scale in (False, True):
        clips = [np.asarray(clip / deviation, np.float32) if scale else clip for clip in features]
        count = min(CLUSTERS, sum(len(clips[i]) for i in training))
        centres = fit_centres((clips[i] for i in training), count, _FRAMES, seed)
        ids = [nearest_centres(clip, centres) for clip in clips]
        name = "scaled" if scale else "as they are"
        yield f"{name}, merged", [deduplicate(clip).ids.tolist() for clip in ids]
        yield f"{name}, a frame each", [clip.tolist() for clip in ids]
