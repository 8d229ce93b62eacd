"""Answers for clips: encode once, ask any number of prompts, pool windows, calibrate. CLI and servers hold this."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprompt.errors import ArtifactError, AudioError, UnknownName
from speechprompt.lms.batch import collate
from speechprompt.prompting.artifact import Artifact, PromptConfig, check_tokenizer
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.classifier import classify
from speechprompt.speech.audio import AudioLimits, audio_hash, read_waveform
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM

WINDOW_SECONDS = 10.0
BATCH_ROWS = 64
CACHED_CLIPS = 1024


@dataclass(frozen=True, slots=True)
class SlotPrediction:
    """One slot's answer: the label, its calibrated probability, and every label's."""

    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One task's answer to one clip.

    `score` is the product of the slots' scores; `abstained` says that it is below the artifact's threshold.
    `window_count` windows were pooled by mean log-probability.
    """

    task: str
    slots: Mapping[str, SlotPrediction]
    score: float
    abstained: bool
    duration_seconds: float
    unit_count: int
    window_count: int = 1
    source: str | None = None
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as it is answered: the units of its windows, and what users should know about it."""

    windows: tuple[Units, ...]
    duration_seconds: float
    source: str | None = None
    notices: tuple[str, ...] = ()


class Predictor:
    """A spoken LM with any number of artifacts, ready to answer.

    `artifacts` are folders or loaded artifacts; two of one name are refused. `window_seconds` cuts longer
    clips. Units of the last clips are kept, so that asking again costs no encoding. One owner at a time.
    """

    def __init__(
        self,
        spoken_lm: SpokenLM,
        artifacts: Iterable[str | Path | Artifact],
        window_seconds: float = WINDOW_SECONDS,
        limits: AudioLimits | None = None,
    ) -> None:
        self.spoken_lm, self.window_seconds = spoken_lm, window_seconds
        self.limits = limits or AudioLimits()
        self.artifacts: dict[str, Artifact] = {}
        for given in artifacts:
            artifact = given if isinstance(given, Artifact) else Artifact.load(given, spoken_lm)
            if artifact.name in self.artifacts:
                raise ArtifactError(f"two artifacts are called '{artifact.name}'; rename one folder")
            self.artifacts[artifact.name] = artifact
        self.bank = Bank([artifact.entry for artifact in self.artifacts.values()]).fold(spoken_lm.lm)
        self._cache: OrderedDict[str, tuple[Units, ...]] = OrderedDict()

    def predict(
        self,
        clips: str | Path | NDArray[np.float32] | Sequence[str | Path | NDArray[np.float32]],
        tasks: Sequence[str] | None = None,
    ) -> list[Prediction]:
        """Answer every clip with every task (all of them by default), clip by clip.

        A clip is a path or a mono waveform (S,) at the tokenizer's rate. AudioError for one that cannot be
        read, UnknownName for a task that is not there, ArtifactError when an artifact knows other units.
        """
        several = [clips] if isinstance(clips, str | Path | np.ndarray) else list(clips)
        chosen = self._chosen(tasks)
        return self.predict_units([self._encode(clip) for clip in several], chosen)

    def _chosen(self, tasks: Sequence[str] | None) -> list[int]:
        names = list(self.artifacts)
        for task in tasks or ():
            if task not in self.artifacts:
                raise UnknownName("task", task, names)
        return [names.index(task) for task in tasks] if tasks is not None else list(range(len(names)))

    def _encode(self, clip: str | Path | NDArray[np.float32]) -> Clip:
        for artifact in self.artifacts.values():
            check_tokenizer(artifact.config, self.spoken_lm, artifact.path)
        tokenizer = self.spoken_lm.tokenizer
        source: str | None = None
        notices: tuple[str, ...] = ()
        if isinstance(clip, str | Path):
            source = str(clip)
            waveform, notices = read_waveform(clip, tokenizer.sample_rate, limits=self.limits)
        else:
            waveform = np.asarray(clip, dtype=np.float32)
            if waveform.ndim != 1 or not np.isfinite(waveform).all():
                raise AudioError("a waveform must be one-dimensional and hold numbers only")
        key = audio_hash(waveform, tokenizer.sample_rate)
        windows = self._cache.get(key)
        if windows is None:
            windows = tuple(
                tokenizer.encode_batch(windows_of(waveform, tokenizer.sample_rate, self.window_seconds))
            )
            self._cache[key] = windows
            if len(self._cache) > CACHED_CLIPS:
                self._cache.popitem(last=False)
        return Clip(windows, len(waveform) / tokenizer.sample_rate, source, tuple(notices))

    def predict_units(self, clips: Sequence[Clip], chosen: Sequence[int]) -> list[Prediction]:
        """Answers for encoded clips; rows of all clips and tasks share batches."""
        work = [(c, k, window) for c, clip in enumerate(clips) for k in chosen for window in clip.windows]
        pooled: dict[tuple[int, int], dict[str, list[Tensor]]] = {}
        for indices in length_buckets([len(window) for _, _, window in work], BATCH_ROWS, None):
            with torch.inference_mode():
                self._classify([work[i] for i in indices], pooled)
        named = [(name, artifact.config) for name, artifact in self.artifacts.items()]
        return [answer(*named[k], pooled[c, k], clips[c]) for c in range(len(clips)) for k in chosen]

    def _classify(
        self,
        work: Sequence[tuple[int, int, Units]],
        pooled: dict[tuple[int, int], dict[str, list[Tensor]]],
    ) -> None:
        lm = self.spoken_lm.lm
        rows = torch.tensor([k for _, k, _ in work], device=lm.device)
        batch = collate([window for _, _, window in work]).to(lm.device)
        for entry in classify(lm, self.bank, batch, rows):
            for place, row in enumerate(entry.rows.tolist()):
                slots = pooled.setdefault((work[row][0], entry.entry), {})
                for slot, scores in entry.slots.items():
                    slots.setdefault(slot, []).append(scores[place].float().cpu())


def windows_of(
    waveform: NDArray[np.float32], sample_rate: int, window_seconds: float = WINDOW_SECONDS
) -> list[NDArray[np.float32]]:
    """Windows of equal length that cover the clip (S,), none longer than `window_seconds`."""
    longest = int(window_seconds * sample_rate)
    return np.array_split(waveform, max(1, -(-len(waveform) // longest)))


def answer(name: str, config: PromptConfig, pooled: Mapping[str, Sequence[Tensor]], clip: Clip) -> Prediction:
    """A task's prediction from the log-probabilities (C,) of each slot in each window."""
    calibration = config.calibration
    slots, product = {}, 1.0
    for slot, windows in pooled.items():
        labels = config.slots[slot]
        scores = calibration.apply(slot, torch.stack(list(windows)).mean(0)).tolist()
        best = max(range(len(labels)), key=scores.__getitem__)
        slots[slot] = SlotPrediction(labels[best], scores[best], dict(zip(labels, scores, strict=True)))
        product *= scores[best]
    return Prediction(
        task=name,
        slots=slots,
        score=product,
        abstained=product < calibration.threshold,
        duration_seconds=clip.duration_seconds,
        unit_count=sum(len(window) for window in clip.windows),
        window_count=len(clip.windows),
        source=clip.source,
        notices=clip.notices,
    )
