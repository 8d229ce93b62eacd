"""Small things that several test files build: units, batches, entries of every kind, runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact import Artifact, MemberConfig, PromptConfig
from speechprompt.prompting.artifact_tensors import Member
from speechprompt.prompting.bank import Bank, TaskPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import FixedVerbalizer
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import UNIT_COUNT, ToyTokenizer, toy_corpus, toy_lm

CORPUS = toy_corpus(60)
SPOKEN = SpokenLM.of_parts("toy@1", ToyTokenizer(), toy_lm())
TASK = Task.of_corpus(CORPUS)
TRAIN, VALID, TEST = (Examples.of(TASK, CORPUS.split(split)) for split in ("train", "valid", "test"))


def some_units(lengths: Sequence[int], seed: int = 0) -> list[Units]:
    """Random utterances of given lengths."""
    random = np.random.default_rng(seed)
    return [Units(random.integers(0, UNIT_COUNT, n)) for n in lengths]


def entry_of(lm: UnitLM, recipe: str = "default", task: Task = TASK, **changes: object) -> TaskPrompt:
    """An untrained entry whose vectors are not where they would start, so that nothing is zero or shared."""
    options = TrainingOptions.of_recipe(recipe, {"prompt_length": 3, **changes})
    examples = Examples.of(task, CORPUS.split("train"))
    return new_entry(task, lm, options, examples.units, examples.targets)


def with_garbage(batch: UnitBatch, garbage: int, columns: int = 0) -> UnitBatch:
    """The same units and durations, wider, with a number in the padding that no LM knows."""

    def filled(stream: Tensor) -> Tensor:
        wide = torch.cat([stream, stream.new_zeros(len(batch), columns)], 1)
        return wide.masked_fill(torch.arange(wide.shape[1]) >= batch.lengths[:, None], garbage)

    durations = None if batch.durations is None else filled(batch.durations)
    return UnitBatch(filled(batch.unit_ids), batch.lengths, durations)


@torch.no_grad()
def scores(
    lm: UnitLM, entries: Sequence[TaskPrompt], batch: UnitBatch, rows: Tensor
) -> list[dict[str, Tensor]]:
    """Every row's scores by slot."""
    found: list[dict[str, Tensor]] = [{} for _ in rows]
    for entry in classify(lm, Bank(entries).fold(lm), batch, rows):
        for place, row in enumerate(entry.rows.tolist()):
            found[row] = {slot: values[place] for slot, values in entry.slots.items()}
    return found


def scores_alone(lm: UnitLM, entry: TaskPrompt, units: Units) -> dict[str, Tensor]:
    """One utterance's scores by slot."""
    return scores(lm, [entry], collate([units]), torch.zeros(1, dtype=torch.int64))[0]


def artifact_of(entry: TaskPrompt, **changes: Any) -> Artifact:
    """An artifact of an entry over the toy spoken LM."""
    fixed = isinstance(entry.verbalizer, FixedVerbalizer)
    values: dict[str, Any] = {
        "schema_version": 1,
        "task": entry.task.name,
        "spoken_lm": SPOKEN.name,
        "tokenizer": SPOKEN.tokenizer_name,
        "tokenizer_fingerprint": SPOKEN.tokenizer.fingerprint,
        "lm_fingerprint": SPOKEN.lm.fingerprint,
        "method": entry.prompt.method,
        "prompt_length": entry.prompt.length,
        "shifts_positions": entry.shifts_positions,
        "decoding": entry.decoding,
        "slots": {slot: list(labels) for slot, labels in entry.task.slots.items()},
        "verbalizer": "fixed" if fixed else "learnable",
        "verbalizer_name": "random" if fixed else "learnable",
        "streams": list(entry.verbalizer.streams),
        "trained_parameters": entry.trained_parameters(),
        "recipe": "default",
        "options": {},
        "seed": 0,
        "versions": {},
        "corpus": {"name": "toy"},
    }
    return Artifact(PromptConfig(**{**values, **changes}), entry, {"test": {"accuracy": 0.5}})


def run_of(lm: UnitLM, name: str = "toy", recipe: str = "default", **changes: object) -> Run:
    """A short run on the toy corpus."""
    short = {"prompt_length": 2, "batch_size": 8, "steps": 12, "evaluations": 4}
    if recipe == "paper":
        short |= {"by_epoch": False, "patience": 3}
    options = TrainingOptions.of_recipe(recipe, {**short, **changes})
    return Run(name, new_entry(TASK, lm, options, TRAIN.units, TRAIN.targets), options, TRAIN, VALID)


def together_of(*alone: Artifact) -> Artifact:
    """Artifacts that each answer alone, as one whose prompts answer together."""
    first, *others = alone
    configs = [one.config for one in alone]
    members = [
        MemberConfig(seed=i, streams=one.streams, temperatures=one.temperatures)
        for i, one in enumerate(configs)
    ]
    trained = sum(one.config.trained_parameters for one in alone)
    config = first.config.model_copy(
        update={"members": members, "temperatures": {}, "trained_parameters": trained}
    )
    return replace(
        first,
        config=config,
        others=tuple(Member(one.entry, Calibration(one.config.temperatures), one.domain) for one in others),
    )
