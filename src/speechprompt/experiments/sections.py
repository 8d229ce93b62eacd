"""From an evaluated artifact to its section of a report: learning curve, verbalizer, examples with their clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprompt.evaluation.reports import (
    LearningPoint,
    TaskSection,
    VerbalizerMap,
    pick_examples,
    verbalizer_map,
)
from speechprompt.experiments.illustrations import illustrated

if TYPE_CHECKING:
    from speechprompt.evaluation.evaluate import Evaluation
    from speechprompt.lms.protocol import UnitLM
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.speech.manifest import Utterance
    from speechprompt.spoken_lm import SpokenLM

EVENTS = "events.jsonl"
"""The event log of a training, in the artifact's folder."""


def task_section(
    artifact: Artifact, evaluation: Evaluation, spoken_lm: SpokenLM, utterances: Sequence[Utterance]
) -> TaskSection:
    """The section of one task; `utterances` are those that were scored, with units, for the examples."""
    examples = pick_examples(evaluation.rows, artifact.entry.task.slots)
    return TaskSection(
        name=evaluation.name,
        evaluation=evaluation.numbers,
        trained_parameters=artifact.config.trained_parameters,
        seconds=artifact.metrics.get("training_seconds"),
        baselines=evaluation.baselines,
        learning=learning_of(artifact),
        verbalizers=verbalizers_of(artifact, spoken_lm.lm),
        examples=illustrated(examples, artifact, spoken_lm, utterances),
    )


def learning_of(artifact: Artifact) -> tuple[LearningPoint, ...]:
    """The learning curve: accuracy on valid from the artifact's history, training loss from its event log."""
    history = artifact.metrics.get("history", [])
    losses = _mean_losses(artifact.path, [int(event["step"]) for event in history])
    return tuple(
        LearningPoint(int(event["step"]), loss, float(event["accuracy"]))
        for event, loss in zip(history, losses, strict=True)
    )


def _mean_losses(folder: Path | None, steps: Sequence[int]) -> list[float | None]:
    """Mean training loss between each two evaluations; None where there is no event log."""
    log = None if folder is None else folder / EVENTS
    if log is None or not log.is_file():
        return [None] * len(steps)
    events: list[Mapping[str, Any]] = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    losses = [(event["step"], event["loss"]) for event in events if event["event"] == "step"]
    means: list[float | None] = []
    for after, until in zip([0, *steps], steps, strict=False):
        between = [loss for step, loss in losses if after < step <= until]
        means.append(sum(between) / len(between) if between else None)
    return means


def verbalizers_of(artifact: Artifact, lm: UnitLM) -> dict[str, VerbalizerMap]:
    """The weights of units for each slot's labels; with a fixed verbalizer each label is the one unit it stands for.

    A label of a verbalizer that reads the state weighs a unit by the logit that its row of weights, taken as a state,
    gives to it.
    """
    import torch

    from speechprompt.prompting.verbalizers import STATE

    verbalizer = artifact.entry.verbalizer
    weight = getattr(verbalizer, "weight", None)
    units = [str(unit) for unit in range(lm.unit_count)]
    maps = {}
    for slot, labels in artifact.entry.task.slots.items():
        chosen = verbalizer.columns(slot)
        ids = lm.lm_ids(torch.arange(lm.unit_count, device=chosen.device))
        if isinstance(weight, torch.Tensor):
            rows = weight.detach()[chosen]
            if verbalizer.streams == (STATE,):
                rows = lm.heads_of(rows.to(lm.device, lm.dtype))["units"]
            table = rows[:, ids].float().cpu().numpy()
            maps[slot] = verbalizer_map(labels, units, table)
        else:
            table = (chosen[:, None] == ids).float().cpu().numpy()
            maps[slot] = verbalizer_map(labels, units, table, limit=int(table.any(0).sum()))
    return maps
