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
    from torch import Tensor

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
    count = len(artifact.members)
    notices = [f"{count} prompts answer together; the verbalizer is the first's."] if count > 1 else []
    if evaluation.copies:
        notices.append(
            f"Each clip is heard at {evaluation.copies} other speeds too, and the answer is the mean; examples are "
            "drawn as they were recorded."
        )
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
        notices=tuple(notices),
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
    """The weights of units for each slot's labels; with a fixed verbalizer each label is the one unit it stands for."""
    import torch

    verbalizer = artifact.entry.verbalizer
    weight = getattr(verbalizer, "weight", None)
    units = [str(unit) for unit in range(lm.unit_count)]
    maps = {}
    for slot, labels in artifact.entry.task.slots.items():
        chosen = verbalizer.columns(slot)
        if isinstance(weight, torch.Tensor):
            weights = _unit_weights(weight.detach()[chosen], verbalizer.streams, lm)
            maps[slot] = verbalizer_map(labels, units, weights.float().cpu().numpy())
        else:
            ids = lm.lm_ids(torch.arange(lm.unit_count, device=chosen.device))
            table = (chosen[:, None] == ids).float().cpu().numpy()
            maps[slot] = verbalizer_map(labels, units, table, limit=int(table.any(0).sum()))
    return maps


def _unit_weights(rows: Tensor, streams: Sequence[str], lm: UnitLM) -> Tensor:
    """What labels weigh units with (C,unit_count), from their rows of a verbalizer's weight (C,V).

    Those of their counts, or of their logits; of a state, the logits that each row of weights, taken as one, has.
    """
    import torch

    from speechprompt.prompting.readings import COUNTS, STATE, sizes_of

    parts: dict[str, Tensor] = dict(zip(streams, rows.split(sizes_of(lm, streams), 1), strict=True))
    if COUNTS in parts:
        return parts[COUNTS]
    logits = (
        parts["units"] if "units" in parts else lm.heads_of(parts[STATE].to(lm.device, lm.dtype))["units"]
    )
    weights: Tensor = logits[:, lm.lm_ids(torch.arange(lm.unit_count, device=logits.device))]
    return weights
