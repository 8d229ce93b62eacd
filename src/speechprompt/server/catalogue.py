"""The tasks that a server answers: an unchanging snapshot, swapped whole when one comes, changes or goes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from speechprompt.errors import UnknownName
from speechprompt.prompting.artifact import Artifact, PromptConfig, check_tokenizer
from speechprompt.prompting.artifact_tensors import tensors_of
from speechprompt.prompting.loaded import LoadedPrompt
from speechprompt.spoken_lm import SpokenLM

EVERY_TASK = "*"
TRAINING_CURVE = "history"
"""What metrics.json holds besides numbers that users of a task want; thousands of tasks do without."""


@dataclass(frozen=True, slots=True)
class ServedTask:
    """One task as it is served: its folded prompt, and what users may know about it.

    `revision` is a hash of configuration and tensors. A batch holds the task itself, so that one which is replaced
    meanwhile still answers what it accepted.
    """

    name: str
    revision: str
    config: PromptConfig
    metrics: Mapping[str, Any]
    prompt: LoadedPrompt


def readings_of(tasks: Sequence[ServedTask], copies: int | None = 0) -> int:
    """How often the LM reads a window: once for each prompt of a task, and each of the copies that it answers over.

    These are so many for every task, or each task's own where `copies` is None.
    """
    return sum(len(task.prompt.members) * (1 + len(task.prompt.speeds(copies))) for task in tasks)


class Catalogue:
    """Tasks by name. Reading needs no lock; `put` and `remove` swap the snapshot."""

    def __init__(self, spoken_lm: SpokenLM) -> None:
        self.spoken_lm = spoken_lm
        self._tasks: Mapping[str, ServedTask] = MappingProxyType({})
        self._writing = threading.Lock()

    @property
    def tasks(self) -> Mapping[str, ServedTask]:
        """The present snapshot, in the order of names."""
        return self._tasks

    def served(self, artifact: Artifact, name: str | None = None) -> ServedTask:
        """An artifact made ready to serve. ArtifactError when it knows other units."""
        check_tokenizer(artifact.config, self.spoken_lm, artifact.path)
        prompt = LoadedPrompt.of(artifact, self.spoken_lm.lm, name)
        metrics = {key: value for key, value in artifact.metrics.items() if key != TRAINING_CURVE}
        return ServedTask(prompt.name, revision_of(artifact), artifact.config, metrics, prompt)

    def put(self, *tasks: ServedTask) -> None:
        """Add or replace tasks, all at once."""
        with self._writing:
            merged = {**self._tasks, **{task.name: task for task in tasks}}
            self._tasks = MappingProxyType(dict(sorted(merged.items())))

    def remove(self, name: str) -> None:
        """Stop answering a task; what was accepted is still answered. UnknownName when it is not there."""
        with self._writing:
            if name not in self._tasks:
                raise UnknownName("task", name, self._tasks)
            self._tasks = MappingProxyType({key: task for key, task in self._tasks.items() if key != name})

    def task(self, name: str) -> ServedTask:
        """One task. UnknownName with the nearest names; never another task."""
        tasks = self._tasks
        if name not in tasks:
            raise UnknownName("task", name, tasks)
        return tasks[name]

    def chosen(self, names: Sequence[str]) -> list[ServedTask]:
        """The tasks of a request, each once, in its order; `*` is all of them. UnknownName as above."""
        tasks = self._tasks
        if EVERY_TASK in names:
            return list(tasks.values())
        for name in names:
            if name not in tasks:
                raise UnknownName("task", name, tasks)
        return [tasks[name] for name in dict.fromkeys(names)]


def revision_of(artifact: Artifact) -> str:
    """A short hash of everything that decides an artifact's answers."""
    digest = hashlib.sha256(artifact.config.model_dump_json().encode())
    for name, tensor in sorted(tensors_of(artifact.members).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
