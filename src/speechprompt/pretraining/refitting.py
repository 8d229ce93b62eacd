"""Other centres on an encoder that is already taught: another number of units, or the speech of another domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from speechprompt.errors import AudioError, TrainingError, UsageError
from speechprompt.pretraining.kmeans import Features, fit_centres, reservoir
from speechprompt.pretraining.run_folder import Progress, RunFolder
from speechprompt.pretraining.stages import audio_digest, stage
from speechprompt.pretraining.tokenizer_kinds import SavedTokenizer
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.protocol import UnitTokenizer, Waveform

_TOLD_EVERY = 50


@dataclass(frozen=True, slots=True)
class RefittingOptions:
    """`unit_count` centres on at most `frames` frames of `clips` clips, all drawn with `seed`."""

    unit_count: int = 100
    clips: int = 2500
    frames: int = 150_000
    seed: int = 0


@runtime_checkable
class Refittable(SavedTokenizer, Protocol):
    """A tokenizer whose centres can be exchanged."""

    def features(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """What k-means reads of each clip, (T,D)."""
        ...

    def with_centres(self, name: str, centres: Tensor) -> Self:
        """The same encoder with other centres (K,D), under another name."""
        ...


def refitted(
    tokenizer: UnitTokenizer,
    name: str,
    utterances: Sequence[Utterance],
    folder: str | Path,
    options: RefittingOptions,
    progress: Progress | None = None,
) -> Refittable:
    """The tokenizer's encoder with new centres; frames of the same audio already heard in `folder` are not heard again.

    Errors: UsageError for a tokenizer without centres of its own; TrainingError with fewer frames than centres;
    AudioError of a file that cannot be read.
    """
    if not isinstance(tokenizer, Refittable):
        raise UsageError(f"{tokenizer.name} is a tokenizer whose centres cannot be exchanged")
    described = {**asdict(options), "tokenizer": tokenizer.fingerprint, "ids": [u.id for u in utterances]}
    run = RunFolder(folder, described, progress)
    order = np.random.default_rng(options.seed).permutation(len(utterances))[: options.clips].tolist()
    drawn = [utterances[place] for place in order]

    def heard() -> dict[str, Features]:
        return {"frames": reservoir(_features(tokenizer, drawn, run), options.frames, options.seed)}

    sample = stage(run.path / "sample.npz", {"audio": audio_digest(drawn)}, heard)["frames"]
    centres = fit_centres(iter([sample]), options.unit_count, options.frames, options.seed)
    return tokenizer.with_centres(name, torch.from_numpy(centres))


def _features(tokenizer: Refittable, utterances: Sequence[Utterance], run: RunFolder) -> Iterator[Features]:
    for done, u in enumerate(utterances, start=1):
        if u.audio is None:
            continue
        waveform, _ = read_waveform(u.audio, tokenizer.sample_rate, u.start_seconds, u.end_seconds)
        try:
            [features] = tokenizer.features([waveform])
        except AudioError:
            continue  # shorter than a frame
        yield features.float().cpu().numpy()
        if done % _TOLD_EVERY == 0 or done == len(utterances):
            run.log({"step": done, "steps": len(utterances), "stage": "features"})
    if not utterances:
        raise TrainingError("there is no clip to fit centres on")
