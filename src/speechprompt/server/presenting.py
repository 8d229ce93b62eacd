"""Predictions, clips and served tasks as the documents of `schemas`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechprompt.prompting.clips import Clip
from speechprompt.prompting.predictor import Prediction
from speechprompt.server.catalogue import ServedTask
from speechprompt.server.schemas import SlotAnswer, TaskAbout, TaskAnswer, TaskDetails, WindowUnits


def about(task: ServedTask) -> TaskAbout:
    """A task as the list shows it."""
    return TaskAbout(**_about(task))


def details(task: ServedTask) -> TaskDetails:
    """A task with everything."""
    config = task.config
    return TaskDetails(
        **_about(task),
        prompt_length=config.prompt_length,
        method=config.method,
        verbalizer=config.verbalizer_name,
        recipe=config.recipe,
        seed=config.seed,
        options=config.options,
        versions=config.versions,
    )


def printable(text: str) -> str:
    """Names of files as they can be sent: what is not UTF-8 in them as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _about(task: ServedTask) -> Mapping[str, Any]:
    config = task.config
    return {
        "name": task.name,
        "revision": task.revision,
        "slots": config.slots,
        "trained_parameters": config.trained_parameters,
        "prompts": len(task.prompt.members),
        "answer_copies": task.prompt.answer_copies,
        "threshold": config.threshold,
        "metrics": dict(task.metrics),
        "corpus": config.corpus,
    }


def task_answer(prediction: Prediction, revision: str, top_k: int | None) -> TaskAnswer:
    """A prediction with its `top_k` best labels a slot."""
    slots = {}
    for slot, found in prediction.slots.items():
        best = sorted(found.scores.items(), key=lambda item: -item[1])[:top_k]
        slots[slot] = SlotAnswer.model_construct(label=found.label, score=found.score, scores=dict(best))
    return TaskAnswer.model_construct(
        task=prediction.task,
        revision=revision,
        slots=slots,
        score=prediction.score,
        abstained=prediction.abstained,
        out_of_domain=prediction.out_of_domain,
    )


def window_units(clip: Clip) -> list[WindowUnits]:
    """The units of a clip's windows."""
    return [
        WindowUnits(
            ids=units.ids.tolist(),
            durations=None if units.durations is None else units.durations.tolist(),
        )
        for units in clip.windows
    ]
