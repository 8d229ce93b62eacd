"""What the routes answer, as documents that OpenAPI describes and the client reads. No torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


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
    out_of_domain: float | None = Field(
        None,
        description="distance from the training clips; over 1 is farther than 95 of 100 validation clips",
    )


class Answers(BaseModel):
    """The answer to POST /v1/classify."""

    request_id: str
    duration_seconds: float
    unit_count: int
    window_count: int
    notices: list[str]
    predictions: list[TaskAnswer]


class WindowUnits(BaseModel):
    """Units of one window of the clip."""

    ids: list[int]
    durations: list[int] | None = Field(description="in frames")


class UnitsAnswer(BaseModel):
    """The answer to POST /v1/units: a list a window; times are frames / frame_rate."""

    request_id: str
    tokenizer: str
    frame_rate: float
    duration_seconds: float
    notices: list[str]
    windows: list[WindowUnits]


class TaskAbout(BaseModel):
    """A task in the list."""

    name: str
    revision: str
    slots: dict[str, list[str]]
    trained_parameters: int
    prompts: int = Field(description="that answer together; 1 answers alone")
    answer_copies: int = Field(
        description="at other speeds that a clip is heard at too, unless `copies` says"
    )
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
