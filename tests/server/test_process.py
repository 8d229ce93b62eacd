"""The server as users start it: one prediction for CLI, server and library, and SIGTERM under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.spoken_lm import SpokenLM
from toys import artifact_of

LABELS = {"colour": ("red", "green", "blue")}


@pytest.fixture(scope="module")
def tiny() -> SpokenLM:
    return SpokenLM.load("tiny")


@pytest.fixture(scope="module")
def prompts(tiny: SpokenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two untrained prompts on `tiny`: what they answer is arbitrary, but it is one thing."""
    folder = tmp_path_factory.mktemp("prompts")
    for seed, name in enumerate(("colour", "shade")):
        options = TrainingOptions.of_recipe(
            "default", {"prompt_length": 4, "seed": seed, "initialisation": "normal"}
        )
        entry = new_entry(Task(name, LABELS), tiny.lm, options, [], [])
        artifact_of(entry, **of_tiny(tiny)).save(folder / name)
    return folder


def of_tiny(tiny: SpokenLM) -> dict[str, str]:
    return {
        "spoken_lm": tiny.name,
        "tokenizer": tiny.tokenizer_name,
        "tokenizer_fingerprint": tiny.tokenizer.fingerprint,
        "lm_fingerprint": tiny.lm.fingerprint,
    }
