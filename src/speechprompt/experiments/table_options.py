"""What a row of a table asks of the methods that train: options, members of an ensemble, copies, divisions. No data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from speechprompt.errors import UsageError
from speechprompt.experiments.unit_cnn import CnnOptions
from speechprompt.pretraining.options import read_options
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.speech.speeds import AnswerCopies

TRAINED = ("prompt", "finetune")
"""Methods that take training options."""
MEMBER_SEEDS = 1000
"""Seeds of an ensemble's members lie so far apart, so that no two rounds share one."""


class Asked(NamedTuple):
    """What a row asks of prompts: how one trains, how many answer together, over how many copies of a clip, and
    whether each of them validates on other clips.
    """

    options: TrainingOptions
    members: int
    answer_copies: int
    rotates: bool


def training_options(values: Mapping[str, Any], seed: int) -> Asked:
    """Training options with a row's own three: `ensemble`, `answer_copies` and `rotate_validation`.

    UsageError or UnknownName when wrong.
    """
    changes = dict(values)
    copies = changes.pop("answer_copies", 0)
    if not isinstance(copies, int):
        raise UsageError(f"'answer_copies' must be a number of copies, not {copies!r}")
    AnswerCopies(copies).speeds()
    members, recipe = changes.pop("ensemble", 1), changes.pop("recipe", "default")
    if not isinstance(members, int) or members < 1:
        raise UsageError(f"'ensemble' must be a number of prompts, not {members!r}")
    rotates = changes.pop("rotate_validation", False)
    if not isinstance(rotates, bool):
        raise UsageError(f"'rotate_validation' is true or false, not {rotates!r}")
    if rotates and members == 1:
        raise UsageError(
            "'rotate_validation' is for several prompts; give the row an 'ensemble' of two or more"
        )
    return Asked(TrainingOptions.of_recipe(recipe, {**changes, "seed": seed}), members, copies, rotates)


def copied_splits(asked: Asked) -> tuple[list[str], list[str]]:
    """The splits whose clips are heard at other speeds: to train on, and to answer over."""
    taught, answered = (
        (["train", "valid"], ["train", "valid", "test"]) if asked.rotates else (["train"], ["valid", "test"])
    )
    return taught if asked.options.speed_copies else [], answered if asked.answer_copies else []


def check_options(method: str, values: Mapping[str, Any]) -> None:
    """UsageError or UnknownName for options that a method does not take, before anything is measured."""
    if method == "cnn":
        read_options(CnnOptions, values)
    elif method in TRAINED:
        members = training_options(values, 0).members
        if method == "finetune" and members > 1:
            raise UsageError("'ensemble' is for prompts; a fine-tuned LM answers alone")
