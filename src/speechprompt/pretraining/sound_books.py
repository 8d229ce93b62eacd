"""Code books of timbre and prosody, fitted on a sample of clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from speechprompt.errors import TrainingError
from speechprompt.pretraining.kmeans import fit_centres
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.mel_encoder import SAMPLE_RATE, WINDOW_SAMPLES, MelFrames
from speechprompt.tokenizers.sound_codes import (
    SoundCodes,
    block_means,
    prosody_part,
    sound_features,
    timbre_part,
)


@torch.no_grad()
def fit_sound_codes(
    utterances: Sequence[Utterance],
    timbre: int = 128,
    prosody: int = 64,
    clips: int = 4000,
    mels: int = 80,
    seed: int = 0,
) -> SoundCodes:
    """Fit `timbre` and `prosody` codes on at most `clips` of the utterances, drawn at random.

    Errors: TrainingError when no clip has a frame, or fewer blocks than codes; AudioError of a file that cannot be
    read. Side effects: reads audio.
    """
    front = MelFrames(mels)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(utterances))[:clips])
    features = []
    for utterance in (utterances[i] for i in drawn.tolist()):
        if utterance.audio is None:
            continue
        span = utterance.start_seconds, utterance.end_seconds
        waveform, _ = read_waveform(utterance.audio, SAMPLE_RATE, *span)
        if len(waveform) >= WINDOW_SAMPLES:
            waves, lengths = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
            features.append(sound_features(waves, lengths, front(waves, lengths)[0])[0])
    if not features:
        raise TrainingError("there is nothing to hear: no clip has audio of at least one frame")
    frames = torch.cat(features)
    mean, deviation = frames.mean(0), frames.std(0) + 1e-3
    blocks = [block_means((clip - mean) / deviation) for clip in features]
    books = [
        torch.from_numpy(fit_centres((part(clip).numpy() for clip in blocks), count, 200_000, seed))
        for part, count in ((timbre_part, timbre), (prosody_part, prosody))
    ]
    return SoundCodes(mean, deviation, *books)
