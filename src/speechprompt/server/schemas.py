"""What the routes answer, as documents that OpenAPI describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from speechprompt.prompting.clips import Clip
from speechprompt.prompting.predictor import Prediction
from speechprompt.server.catalogue import ServedTask


class SlotAnswer(BaseModel):
    """One slot's answer."""

    label: str
    score: float = Field(description="calibrated probability of the label")
    scores: dict[str, float] = Field(description="calibrated probabilities, the best first, top_k of them")


class TaskAnswer(BaseModel):
    """One task's answer to the clip."""

    task: str
    revision: str = Field(description="which version of the artifact answered")
    slots: dict[str, SlotAnswer]
    score: float = Field(description="product of the slots' scores")
    abstained: bool = Field(description="the score is below the artifact's threshold")


class Answers(BaseModel):
    """The answer to POST /v1/classify."""

    request_id: str
    duration_seconds: float
    unit_count: int
    window_count: int
    notices: list[str]
    predictions: list[TaskAnswer]


class UnitsAnswer(BaseModel):
    """The answer to POST /v1/units: a list a window; times are frames / frame_rate."""

    request_id: str
    tokenizer: str
    frame_rate: float
    duration_seconds: float
    notices: list[str]
    windows: list[WindowUnits]


class WindowUnits(BaseModel):
    """Units of one window of the clip."""

    ids: list[int]
    durations: list[int] | None = Field(description="in frames")


class TaskAbout(BaseModel):
    """A task in the list."""

    name: str
    revision: str
    slots: dict[str, list[str]]
    trained_parameters: int
    threshold: float
    metrics: dict[str, Any]
    corpus: dict[str, Any]


class TaskDetails(TaskAbout):
    """One task with all that is known about it."""

    prompt_length: int
    method: str
    verbalizer: str
    recipe: str
    seed: int
    options: dict[str, Any]
    versions: dict[str, str]


class Tasks(BaseModel):
    """The answer to GET /v1/tasks."""

    spoken_lm: str
    tokenizer: str
    license: str | None
    tasks: list[TaskAbout]
    refused: dict[str, str] = Field(description="folders that could not be served, and why")


class Health(BaseModel):
    """Whether a probe is content."""

    status: str


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


def _about(task: ServedTask) -> Mapping[str, Any]:
    config = task.config
    return {
        "name": task.name,
        "revision": task.revision,
        "slots": config.slots,
        "trained_parameters": config.trained_parameters,
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
