"""Several prompts in one training run: other tasks, corpora, seeds, rates and lengths over one frozen LM."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprompt.errors import ArtifactError, UsageError
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.finishing import finish
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import Listener, train_runs
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.speeds import SpeedCopies
from speechprompt.speech.splits import require_trainable
from speechprompt.spoken_lm import SpokenLM


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt to train: its name among the others, a corpus that carries units, a task and options."""

    name: str
    corpus: Corpus
    task: Task
    options: TrainingOptions
    initial: Artifact | None = None


def train_jobs(
    jobs: Sequence[Job],
    spoken_lm: SpokenLM,
    listener: Listener | None = None,
    checkpoint: Path | None = None,
) -> list[Artifact]:
    """Train every job in one run over the bank; each ends as it would alone, up to rounding.

    UsageError when two jobs share a name; other errors as `train`. Side effects: `checkpoint`, as `train`.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise UsageError("two prompts of one run share a name; give their tasks or options other names")
    known: dict[tuple[int, str, SpeedCopies], tuple[Examples, Examples]] = {}
    runs = []
    for job in jobs:
        require_trainable(job.corpus, list(job.task.slots))
        # runs of one task share its examples: hundreds of trials cost the memory of one
        key = (id(job.corpus), str(job.task), job.options.copying)
        if key not in known:
            train = Examples.to_train(job.task, job.corpus.split("train"), job.options)
            known[key] = train, Examples.of(job.task, job.corpus.split("valid"))
        train, valid = known[key]
        entry = new_entry(job.task, spoken_lm.lm, job.options, train.units, train.targets)
        if job.initial is not None:
            _start_from(entry, job.initial)
        runs.append(Run(job.name, entry, job.options, train, valid))
    train_runs(spoken_lm.lm, runs, listener, checkpoint)
    return [finish(run, spoken_lm, job.corpus) for run, job in zip(runs, jobs, strict=True)]


def variants_of(
    options: TrainingOptions, choices: Mapping[str, Sequence[Any]]
) -> list[tuple[str, TrainingOptions]]:
    """Every combination of choices, the last changing fastest, with a short name of what was chosen.

    UsageError for a value that an option does not take.
    """
    found = []
    for values in itertools.product(*choices.values()):
        changes = dict(zip(choices, values, strict=True))
        resolved = TrainingOptions.of_recipe(options.recipe, {**options.given(), **changes})
        found.append((name_of(changes), resolved))
    return found


def name_of(changes: Mapping[str, Any]) -> str:
    """`seed-1_learning-rate-0.02`: a name for a folder."""
    return "_".join(f"{name.replace('_', '-')}-{value}" for name, value in changes.items())


def _start_from(entry: TaskPrompt, initial: Artifact) -> None:
    """Copy another artifact's prompt and separator. ArtifactError when their shapes differ."""
    theirs, ours = initial.entry.prompt, entry.prompt
    if theirs.method != ours.method or theirs.vectors.shape != ours.vectors.shape:
        raise ArtifactError(
            f"{initial.path} holds a prompt '{theirs.method}' of length {theirs.length}; start from it with "
            f"--method {theirs.method} --prompt-length {theirs.length}"
        )
    ours.load_state_dict(theirs.state_dict())
