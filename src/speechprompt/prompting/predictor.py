"""Answers for clips: encode once, ask any number of prompts, pool windows, calibrate. CLI and servers hold this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt.errors import ArtifactError
from speechprompt.lms.batch import collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.bank import Bank, FoldedPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.clips import LONGEST_HOURS, WINDOW_SECONDS, Clip, ClipEncoder, ClipSource
from speechprompt.prompting.loaded import LoadedPrompt, PromptTable, speeds_of
from speechprompt.speech.audio import AudioLimits
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.speech.unit_cache import UnitCache
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM

BATCH_ROWS = 64
BATCH_UNITS = 16_384


@dataclass(frozen=True, slots=True)
class SlotPrediction:
    """One slot's answer: the label, its calibrated probability, and every label's."""

    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WindowPrediction:
    """The answer in one window of a long clip: the best label of each slot with its calibrated probability."""

    start_seconds: float
    end_seconds: float
    labels: Mapping[str, str]
    scores: Mapping[str, float]
    out_of_domain: float | None


@dataclass(frozen=True, slots=True)
class WindowScores:
    """What the LM says about one window: log-probabilities (C,) of each slot, and the distance from training."""

    slots: Mapping[str, Tensor]
    out_of_domain: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One task's answer to one clip.

    `score` is the product of the slots' scores; `abstained` says that it is below the artifact's threshold.
    `window_count` windows were pooled by mean log-probability; where there are several, `windows` holds the answer
    of each. `out_of_domain` is the clip's distance from the training data, 1 what 95 of 100 validation clips stay
    below (the mean over windows; None where the artifact does not know). `duration_seconds` is 0 where a clip came
    as units.
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
    out_of_domain: float | None = None
    windows: tuple[WindowPrediction, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Question:
    """A clip and a prompt to ask about it."""

    clip: Clip
    prompt: LoadedPrompt


class Predictor:
    """A spoken LM with any number of artifacts, ready to answer.

    `artifacts` are folders or loaded artifacts; two of one name are refused. `window_seconds` cuts longer
    clips. Units of the last clips are kept in `cache`, so that asking again costs no encoding. A prompt that was
    trained to answer over copies hears every clip at so many other speeds too and answers with the mean of all
    hearings; `copies` (an even number, 0 for none) says another number for all prompts. UsageError for an odd one.

    `predict` does everything. A server calls its halves, `encode` and `answer`, from a thread each, and adds,
    replaces and removes prompts in `prompts` meanwhile: a question carries its prompt, so it is answered by the
    one that was there when it was asked.
    """

    def __init__(
        self,
        spoken_lm: SpokenLM,
        artifacts: Iterable[str | Path | Artifact] = (),
        window_seconds: float = WINDOW_SECONDS,
        limits: AudioLimits | None = None,
        cache: UnitCache | None = None,
        copies: int | None = None,
    ) -> None:
        AnswerCopies(copies or 0).speeds()
        self.spoken_lm, self.window_seconds, self.copies = spoken_lm, window_seconds, copies
        self.limits = limits or AudioLimits(hours=LONGEST_HOURS)
        self._cache = cache
        self.prompts = PromptTable()
        for artifact in artifacts:
            self.add(artifact)

    @cached_property
    def encoder(self) -> ClipEncoder:
        """The first half; its tokenizer loads when the first clip comes."""
        tokenizer = self.spoken_lm.tokenizer
        return ClipEncoder(tokenizer, self._cache, self.window_seconds, self.limits)

    def add(
        self, artifact: str | Path | Artifact, name: str | None = None, replace: bool = False
    ) -> LoadedPrompt:
        """Load, check, fold and offer an artifact; all or nothing, while others are asked.

        ArtifactError when it is damaged, of another spoken LM, or of a name that is taken (unless `replace`).
        """
        loaded = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact, self.spoken_lm)
        prompt = LoadedPrompt.of(loaded, self.spoken_lm.lm, name)
        self.prompts.add(prompt, replace)
        return prompt

    def predict(
        self, clips: ClipSource | Sequence[ClipSource], tasks: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Answer every clip with every task (all of them by default), clip by clip.

        A clip is a path or a mono waveform (S,) at the tokenizer's rate. AudioError for one that cannot be
        read, UnknownName for a task that is not there, ArtifactError when an artifact knows other units.
        """
        several = [clips] if isinstance(clips, str | Path | np.ndarray) else list(clips)
        chosen = self.prompts.chosen(tasks)
        self.check_units(chosen)
        encoded = self.encode(several, chosen)
        return self.answer([Question(clip, prompt) for clip in encoded for prompt in chosen])

    def check_units(self, prompts: Iterable[LoadedPrompt]) -> None:
        """ArtifactError when one of the prompts was trained on units of another tokenizer than this one."""
        for prompt in prompts:
            known = prompt.tokenizer_fingerprint
            if known is not None and known != (ours := self.spoken_lm.tokenizer.fingerprint):
                raise ArtifactError(
                    f"{prompt.path or prompt.name} was trained on units of {prompt.tokenizer} ({known}), but this "
                    f"{self.spoken_lm.tokenizer_name} is another one ({ours})"
                )

    def encode(
        self, clips: Sequence[ClipSource], prompts: Iterable[LoadedPrompt] | None = None
    ) -> list[Clip]:
        """The first half: units of every clip, from the cache or in one batch a speed. AudioError as `predict`.

        The speeds are those at which any of the prompts (by default all that are there) hears a clip.
        """
        asked = self.prompts.chosen() if prompts is None else prompts
        return self.encoder.encode(clips, speeds_of(asked, self.copies))

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[Prediction]:
        """The second half: a prediction a question, in their order; rows of all of them share batches.

        Copies that a clip was not encoded with are left out. UnitsError when it has more units in a window than the LM
        can read.
        """
        most = self.spoken_lm.lm.max_units
        rows = [
            _Row(number, place, window, member)
            for number, question in enumerate(questions)
            for member in question.prompt.members
            for hearing in question.clip.hearings(most, question.prompt.speeds(self.copies))
            for place, window in enumerate(hearing)
        ]
        found: list[list[list[WindowScores]]] = [
            [[] for _ in question.clip.windows] for question in questions
        ]
        for indices in length_buckets([len(row.units) for row in rows], BATCH_ROWS, None, BATCH_UNITS):
            batch = [rows[i] for i in indices]
            asked = [(row.prompt, row.units) for row in batch]
            for row, scores in zip(batch, window_scores(self.spoken_lm.lm, asked), strict=True):
                found[row.question][row.window].append(scores)
        return [
            prediction_of(question, [mean_scores(hearings) for hearings in windows])
            for question, windows in zip(questions, found, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Row:
    question: int
    window: int
    units: Units
    prompt: FoldedPrompt


def mean_scores(hearings: Sequence[WindowScores]) -> WindowScores:
    """What is said about a window that was heard several times, or by several prompts that answer together.

    Mean log-probabilities and the mean distance.
    """
    if len(hearings) == 1:
        return hearings[0]
    distances = [one.out_of_domain for one in hearings if one.out_of_domain is not None]
    return WindowScores(
        {slot: torch.stack([one.slots[slot] for one in hearings]).mean(0) for slot in hearings[0].slots},
        sum(distances) / len(distances) if distances else None,
    )


@torch.inference_mode()
def window_scores(lm: UnitLM, rows: Sequence[tuple[FoldedPrompt, Units]]) -> list[WindowScores]:
    """The scores of each row of one batch: a window's units under a prompt of its own."""
    bank = Bank(list(dict.fromkeys(prompt for prompt, _ in rows)))
    places = {prompt: place for place, prompt in enumerate(bank.entries)}
    entries = torch.tensor([places[prompt] for prompt, _ in rows], device=lm.device)
    batch = collate([units for _, units in rows]).to(lm.device)
    found = [WindowScores({}) for _ in rows]
    for entry in classify(lm, bank, batch, entries):
        prompt = bank.entries[entry.entry]
        slots = {slot: scores.float().cpu() for slot, scores in entry.slots.items()}
        if prompt.temperatures:
            own = Calibration(prompt.temperatures)
            slots = {slot: own.cooled(slot, scores) for slot, scores in slots.items()}
        domain = prompt.domain
        distances = None if domain is None else domain.distances(entry.hidden).tolist()
        for place, row in enumerate(entry.rows.tolist()):
            found[row] = WindowScores(
                {slot: scores[place] for slot, scores in slots.items()},
                None if distances is None else distances[place],
            )
    return found


def prediction_of(question: Question, windows: Sequence[WindowScores]) -> Prediction:
    """The prediction of a question from the scores of each of its clip's windows."""
    clip, prompt = question.clip, question.prompt
    slots, product = {}, 1.0
    stacked = {slot: torch.stack([w.slots[slot] for w in windows]) for slot in prompt.prompt.task.slots}
    for slot, labels in prompt.prompt.task.slots.items():
        scores = prompt.calibration.apply(slot, stacked[slot].mean(0)).tolist()
        best = max(range(len(labels)), key=scores.__getitem__)
        slots[slot] = SlotPrediction(labels[best], scores[best], dict(zip(labels, scores, strict=True)))
        product *= scores[best]
    distances = [window.out_of_domain for window in windows if window.out_of_domain is not None]
    return Prediction(
        task=prompt.name,
        slots=slots,
        score=product,
        abstained=product < prompt.calibration.threshold,
        duration_seconds=clip.duration_seconds,
        unit_count=clip.unit_count,
        window_count=len(clip.windows),
        source=clip.source,
        notices=clip.notices,
        out_of_domain=sum(distances) / len(distances) if distances else None,
        windows=_of_windows(question, stacked, windows) if len(windows) > 1 else (),
    )


def _of_windows(
    question: Question, stacked: Mapping[str, Tensor], windows: Sequence[WindowScores]
) -> tuple[WindowPrediction, ...]:
    """The answers of single windows, from log-probabilities (W,C) of each slot."""
    best = {slot: question.prompt.calibration.apply(slot, scores).max(-1) for slot, scores in stacked.items()}
    labels = question.prompt.prompt.task.slots
    chosen = {slot: [labels[slot][i] for i in found.indices.tolist()] for slot, found in best.items()}
    values = {slot: found.values.tolist() for slot, found in best.items()}
    return tuple(
        WindowPrediction(
            start,
            end,
            {slot: chosen[slot][i] for slot in labels},
            {slot: values[slot][i] for slot in labels},
            windows[i].out_of_domain,
        )
        for i, (start, end) in enumerate(question.clip.spans())
    )
