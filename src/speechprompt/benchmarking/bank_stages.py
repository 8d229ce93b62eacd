"""What one LM for many prompts costs: many tasks on one clip, mixed batches, seeds trained together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from speechprompt.benchmarking.case import OURS, Case, Figure, Finding
from speechprompt.benchmarking.clock import Form
from speechprompt.benchmarking.lm_stages import PROMPT_LENGTH, lms
from speechprompt.benchmarking.material import (
    SMALL_SIZE,
    TINY,
    Lengths,
    Settings,
    dtype_of,
    equal_utterances,
    fresh_entry,
    fresh_run,
    random_lm,
    sizes_of,
    utterances,
    weight_bytes,
)
from speechprompt.benchmarking.products import prediction_products
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.bank import FoldedPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.loaded import LoadedPrompt
from speechprompt.prompting.predictor import Predictor, window_scores
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_step
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM

TASKS, SEEDS = 100, 8


def prompts(lm: GslmUnitLM, count: int, lengths: Lengths) -> list[FoldedPrompt]:
    """So many folded prompts of different seeds, each for a task of its own name."""
    rows, found = utterances(lengths, 32, lm.unit_count), []
    for seed in range(count):
        options = TrainingOptions(prompt_length=PROMPT_LENGTH, seed=seed, initialisation="normal")
        prompt = fresh_entry(lm, rows, lengths.labels, options).fold(lm)
        found.append(replace(prompt, task=Task(f"task{seed}", prompt.task.slots)))
    return found


def task_cases(settings: Settings) -> Iterator[Case]:
    """Many prompts on one clip against as many clips of that length under one prompt."""
    count = 6 if settings.quick else TASKS
    for name, lm, several, _ in lms(settings):
        lengths = several[0]
        bank, clips = prompts(lm, count, lengths), equal_utterances(round(lengths.mean), count, lm.unit_count)
        some = max(1, count // 10)
        forms = {
            OURS: _asked(lm, [(prompt, clips[0]) for prompt in bank]),
            f"batch-{count} rate of one prompt": _asked(lm, [(bank[0], clip) for clip in clips]),
            "one task at a time": Form(
                lambda lm=lm, bank=bank, clips=clips, some=some: [  # type: ignore[misc]
                    window_scores(lm, [(prompt, clips[0])]) for prompt in bank[:some]
                ],
                some,
            ),
        }
        products = prediction_products(sizes_of(lm), [len(clips[0])] * count, PROMPT_LENGTH, lengths.labels)
        yield Case(
            "tasks",
            f"{name}, {count} tasks on one clip of {len(clips[0])} units",
            "answers",
            forms,
            products,
            weight_bytes(lm),
            dtype_of(lm),
            {f"batch-{count} rate of one prompt": 0.95},
        )


def _asked(lm: GslmUnitLM, rows: Sequence[tuple[FoldedPrompt, Units]]) -> Form:
    return Form(lambda: window_scores(lm, rows), len(rows))


class CountedTokenizer:
    """A tokenizer that counts the clips that it hears."""

    def __init__(self, spoken_lm: SpokenLM) -> None:
        self._tokenizer, self.heard = spoken_lm.tokenizer, 0
        for name in ("name", "fingerprint", "sample_rate", "frame_rate", "unit_count"):
            setattr(self, name, getattr(self._tokenizer, name))

    def encode(self, waveform: NDArray[np.float32]) -> Units:
        """One clip."""
        return self.encode_batch([waveform])[0]

    def encode_batch(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Units]:
        """Several clips."""
        self.heard += len(waveforms)
        return self._tokenizer.encode_batch(waveforms)


def encodes(settings: Settings) -> Iterator[Finding]:
    """How often a clip is encoded when many tasks are asked about it, through everything that a user calls."""
    spoken_lm = SpokenLM.load("tiny", settings.device)
    lm = spoken_lm.lm
    assert isinstance(lm, GslmUnitLM)
    tokenizer = CountedTokenizer(spoken_lm)
    predictor = Predictor(SpokenLM.of_parts("tiny", tokenizer, lm))  # type: ignore[arg-type]
    count = 6 if settings.quick else TASKS
    for prompt in prompts(lm, count, TINY):
        predictor.prompts.add(LoadedPrompt(prompt.task.name, prompt, Calibration(), "tiny", None))
    tone = np.sin(np.arange(16_000) / 9).astype(np.float32)
    answers = predictor.predict(tone)
    yield Figure("tasks", f"clips encoded for {len(answers)} answers", tokenizer.heard, "clips", most=1)


def mixed_cases(settings: Settings) -> Iterator[Case]:
    """A batch in which every row asks another prompt against the same batch under one prompt."""
    for name, lm, several, _ in lms(settings):
        lengths, count = several[-1], settings.batch_size
        bank, rows = prompts(lm, count, lengths), utterances(lengths, count, lm.unit_count)
        forms = {
            OURS: _asked(lm, list(zip(bank, rows, strict=True))),
            "one prompt": _asked(lm, [(bank[0], row) for row in rows]),
        }
        products = prediction_products(sizes_of(lm), list(map(len, rows)), PROMPT_LENGTH, lengths.labels)
        title = f"{name}, {lengths.name}, {count} prompts in a batch of {count}"
        yield Case(
            "mixed",
            title,
            "utterances",
            forms,
            products,
            weight_bytes(lm),
            dtype_of(lm),
            {"one prompt": 0.95},
        )


def seed_cases(settings: Settings) -> Iterator[Case]:
    """Several seeds in one training against one after another, small LM."""
    lm, name = random_lm(SMALL_SIZE, settings.device), f"small LM {SMALL_SIZE.layers}x{SMALL_SIZE.width}"
    for batch in (settings.batch_size, 4):
        yield joint_case(lm, name, TINY, batch, 2 if settings.quick else SEEDS)


def joint_case(lm: GslmUnitLM, name: str, lengths: Lengths, batch: int, seeds: int) -> Case:
    """A step of several prompts in one training against a step of each; no slower, where batches are large."""
    units = utterances(lengths, batch, lm.unit_count)
    runs = [
        fresh_run(lm, units, lengths.labels, TrainingOptions(batch_size=batch, seed=seed))
        for seed in range(seeds)
    ]
    apart = copy.deepcopy(runs)
    forms = {
        OURS: Form(lambda: train_step(lm, runs), seeds * batch),
        "one after another": Form(lambda: [train_step(lm, [run]) for run in apart], seeds * batch),
    }
    aims = {"one after another": 1.0} if batch > 4 else {}
    return Case("seeds", f"{name}, {seeds} seeds jointly, batch {batch}", "utterances", forms, aims=aims)
