"""Several prompts in one training run: other tasks, corpora, seeds, rates and lengths over one frozen LM."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprompt.errors import ArtifactError, UsageError
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.finishing import finish_together
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.members import divisions_of, members_of
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
    known: _Known = {}
    runs = [_runs_of(job, spoken_lm.lm, known) for job in jobs]
    train_runs(spoken_lm.lm, [run for members in runs for run in members], listener, checkpoint)
    return [finish_together(members, spoken_lm, job.corpus) for members, job in zip(runs, jobs, strict=True)]


_Known = dict[tuple[int, str, SpeedCopies, int, int], list[tuple[Examples, Examples]]]


def _runs_of(job: Job, lm: UnitLM, known: _Known) -> list[Run]:
    """The trainings of a job, one for each prompt that answers with the others, all of one length."""
    require_trainable(job.corpus, list(job.task.slots))
    options = job.options
    # runs of one task share its examples: hundreds of trials cost the memory of one
    key = id(job.corpus), str(job.task), options.copying, options.divisions, options.answer_copies
    if key not in known:
        known[key] = [
            (
                Examples.to_train(job.task, train, options),
                Examples.of(job.task, valid, options.answer_copies),
            )
            for train, valid in divisions_of(job.corpus, options, job.task.slots)[: options.divisions]
        ]
    examples, runs = known[key], list[Run]()
    for number, own in enumerate(members_of(options), start=1):
        train, valid = examples[(number - 1) % len(examples)]
        if runs:
            own = own.model_copy(update={"prompt_length": runs[0].entry.prompt.length})
        entry = new_entry(job.task, lm, own, train.units, train.targets)
        if job.initial is not None:
            _start_from(entry, job.initial, number if len(job.initial.members) == options.ensemble else 1)
        name = job.name if number == 1 else f"{job.name}, prompt {number}"
        runs.append(Run(name, entry, own, train, valid))
    return runs


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


def _start_from(entry: TaskPrompt, initial: Artifact, number: int) -> None:
    """Copy prompt and separator of one of another artifact's prompts. ArtifactError when their shapes differ."""
    theirs, ours = initial.members[number - 1].entry.prompt, entry.prompt
    if theirs.method != ours.method or theirs.vectors.shape != ours.vectors.shape:
        raise ArtifactError(
            f"{initial.path} holds a prompt '{theirs.method}' of length {theirs.length}; start from it with "
            f"--method {theirs.method} --prompt-length {theirs.length}"
        )
    ours.load_state_dict(theirs.state_dict())
