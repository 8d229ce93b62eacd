"""Where a prompt starts: from noise, or from what the frozen LM makes of real training units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from speechprompt.lms.batch import collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.readings import COUNTS, MEAN, OURS, PACE, STATE, UTTERANCE, stream_sizes
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import (
    Verbalizer,
    frequency_units,
    learnable,
    learnable_as_published,
    random_units,
)
from speechprompt.speech.units import Units

SAMPLED_UTTERANCES = 32


def new_entry(
    task: Task, lm: UnitLM, options: TrainingOptions, units: Sequence[Units], targets: Tensor
) -> TaskPrompt:
    """An untrained prompt, separator and verbalizer for a task; deterministic in `options.seed`.

    `units` and `targets` (n,S) are the training split: real states to start from, frequencies to rank.
    """
    generator = torch.Generator().manual_seed(options.seed)
    labels = sum(map(len, task.slots.values()))
    streams, _ = _streams(lm, options, labels)
    length = length_of(lm, options, labels)
    if options.initialisation == "units" and length:
        prompt = from_units(lm, options, length, units, generator)
    else:
        prompt = Prompt.normal(options.method, length, lm, generator)
    verbalizer = _verbalizer(task, lm, options, streams, units, targets, generator)
    entry = TaskPrompt(task, prompt, verbalizer, options.decoding, options.shifts_positions)
    return entry.to(lm.device)


def length_of(lm: UnitLM, options: TrainingOptions, labels: int) -> int:
    """Vectors a layer of a prompt that answers so many labels, those of all slots counted."""
    _, size = _streams(lm, options, labels)
    return options.length_for(lm.layers, lm.width, size, labels * options.ngrams)


@torch.no_grad()
def from_units(
    lm: UnitLM, options: TrainingOptions, length: int, units: Sequence[Units], generator: torch.Generator
) -> Prompt:
    """A prompt made of the LM's own states at random real units; the separator is their mean embedding.

    The rows before the projections are what each layer's projections read there, so that the first step
    already attends to vectors that the frozen weights know.
    """
    order = torch.randperm(len(units), generator=generator)[:SAMPLED_UTTERANCES].tolist()
    batch = collate([units[i] for i in order]).to(lm.device)
    valid = (torch.arange(batch.unit_ids.shape[1]) < batch.lengths.cpu()[:, None]).flatten().nonzero()[:, 0]
    chosen = valid[torch.randint(len(valid), (length,), generator=generator)].to(lm.device)
    embedded = lm.embedding(lm.lm_ids(batch.unit_ids.flatten()[valid.to(lm.device)]))
    if options.method == "input":
        vectors = lm.embedding(lm.lm_ids(batch.unit_ids.flatten()[chosen])) * lm.embedding_scale
    elif options.method == "after_projection":
        vectors = lm.unit_key_values(batch).transpose(2, 3).flatten(3, 4)[:, :, :, chosen].float()
    else:
        rows = lm.key_value_inputs(batch).flatten(1, 2)[:, chosen].float()
        vectors = torch.stack([rows, rows])
    return Prompt(options.method, vectors.clone(), embedded.mean(0).clone())


def _streams(lm: UnitLM, options: TrainingOptions, labels: int) -> tuple[tuple[str, ...], int]:
    """What a learnable verbalizer of so many labels reads, and its size; nothing for a fixed one."""
    if options.verbalizer != "learnable":
        return (), 0
    sizes = stream_sizes(lm)
    known = {
        "utterance": UTTERANCE,
        "pace": (*UTTERANCE, PACE),
        "state": (STATE,),
        "mean": (STATE, MEAN),
        "counts": (STATE, COUNTS),
        "units": ("units",),
        "all": tuple(name for name in sizes if name not in OURS),
    }
    parameters = {name: labels * sum(sizes[stream] for stream in streams) for name, streams in known.items()}
    name = options.streams or (
        "utterance" if parameters["utterance"] <= options.most_trained // 2 else "state"
    )
    return known[name], parameters[name]


def _verbalizer(
    task: Task,
    lm: UnitLM,
    options: TrainingOptions,
    streams: Sequence[str],
    units: Sequence[Units],
    targets: Tensor,
    generator: torch.Generator,
) -> Verbalizer:
    if options.verbalizer == "random":
        return random_units(task, lm, generator)
    if options.verbalizer == "frequency":
        counts = Counter(unit for row in units for unit in row.ids.tolist())
        labels = {
            slot: torch.bincount(targets[:, s], minlength=len(names)).tolist()
            for s, (slot, names) in enumerate(task.slots.items())
        }
        return frequency_units(task, lm, [counts[unit] for unit in range(lm.unit_count)], labels)
    if options.recipe == "paper":
        return learnable_as_published(task, lm, generator)
    return learnable(task, lm, generator, streams)
