"""What a row of a table asks of the methods that train: options, and over how many copies they answer. No data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from speechprompt.errors import UsageError
from speechprompt.experiments.table_rows import COPYING, NGRAM_COPIES, NGRAM_TUNED
from speechprompt.experiments.unit_cnn import CnnOptions
from speechprompt.pretraining.options import read_options
from speechprompt.prompting.recipes import RECIPES, TrainingOptions
from speechprompt.speech.speeds import AnswerCopies

TRAINED = ("prompt", "finetune")
"""Methods that take training options."""
HEARING = (*TRAINED, NGRAM_COPIES, NGRAM_TUNED, "cnn")
"""Methods that may hear clips at other speeds."""


class Asked(NamedTuple):
    """What a row asks of prompts: how they train, and over how many copies of a clip they answer."""

    options: TrainingOptions
    answer_copies: int


def training_options(values: Mapping[str, Any], seed: int) -> Asked:
    """Training options and a row's own `answer_copies`. UsageError or UnknownName when wrong."""
    changes = dict(values)
    recipe = changes.pop("recipe", "default")
    copies = changes.pop("answer_copies", RECIPES.get(recipe, {}).get("answer_copies", 0))
    if not isinstance(copies, int):
        raise UsageError(f"'answer_copies' must be a number of copies, not {copies!r}")
    AnswerCopies(copies).speeds()
    # cells calibrate for themselves, so their trainings answer over no copies
    return Asked(TrainingOptions.of_recipe(recipe, {**changes, "seed": seed, "answer_copies": 0}), copies)


def hearing_options(method: str, values: Mapping[str, Any]) -> Asked:
    """What one of `HEARING` says of copies, among its options, as `training_options`."""
    if method == "cnn":
        values = {name: value for name, value in values.items() if name in COPYING}
    return training_options(values, 0)


def cnn_options(values: Mapping[str, Any]) -> CnnOptions:
    """The network's options but for those of copies. UsageError or UnknownName when wrong."""
    return read_options(CnnOptions, {name: value for name, value in values.items() if name not in COPYING})


def copied_splits(asked: Asked) -> tuple[list[str], list[str]]:
    """The splits whose clips are heard at other speeds: to train on, and to answer over."""
    options = asked.options
    answered = ["train", "valid", "test"] if options.rotate_validation else ["valid", "test"]
    return (
        list(options.taught_splits) if options.speed_copies else [],
        answered if asked.answer_copies else [],
    )


def check_options(method: str, values: Mapping[str, Any]) -> None:
    """UsageError or UnknownName for options that a method does not take, before anything is measured."""
    if method == "cnn":
        cnn_options(values)
        hearing_options(method, values)
    elif method in TRAINED:
        options = training_options(values, 0).options
        if method == "finetune" and options.ensemble > 1:
            raise UsageError("'ensemble' is for prompts; a fine-tuned LM answers alone")
