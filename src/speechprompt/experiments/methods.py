"""Ways to classify speech with one frozen unit LM, and what each answers to the same test utterances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from speechprompt.errors import UnknownName
from speechprompt.evaluation.baselines import LABEL_JOINT
from speechprompt.evaluation.evaluate import run_baselines
from speechprompt.experiments.demo import Update
from speechprompt.experiments.tuning import finetuning_run, lora_run, require_gslm, require_peft
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.finishing import finish
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_runs
from speechprompt.speech.manifest import Corpus
from speechprompt.spoken_lm import SpokenLM

PROMPT = "prompt"
BASELINES = ("n-gram", "probe")
METHODS = (PROMPT, *BASELINES, "lora", "finetune")

Start = Callable[[UnitLM, Task, TrainingOptions, Examples, Examples], tuple[UnitLM, Run]]


@dataclass(frozen=True, slots=True)
class MethodAnswers:
    """What a method answered: a row a seed (one where nothing is drawn), a joined label an utterance.

    `seconds` are those of one training with its answers. `artifacts` hold the prompts, for the method prompt.
    """

    name: str
    predictions: tuple[tuple[str, ...], ...]
    trained_parameters: int
    seconds: float
    artifacts: tuple[Artifact, ...] = ()


def prompt_run(
    lm: UnitLM, task: Task, options: TrainingOptions, train: Examples, valid: Examples
) -> tuple[UnitLM, Run]:
    """The frozen LM itself and the run that trains a prompt on it."""
    entry = new_entry(task, lm, options, train.units, train.targets)
    return lm, Run(PROMPT, entry, options, train, valid)


STARTS: Mapping[str, Start] = {PROMPT: prompt_run, "lora": lora_run, "finetune": finetuning_run}


def check_methods(names: Sequence[str], spoken_lm: SpokenLM | None = None) -> list[str]:
    """The methods in the order of `METHODS`, prompt always among them; checked before anything is trained.

    UnknownName for a name that is none, MissingExtra for lora without peft, UsageError for methods that the LM
    does not take (looked at when it is given).
    """
    for name in names:
        if name not in METHODS:
            raise UnknownName("method", name, METHODS)
    chosen = [name for name in METHODS if name == PROMPT or name in names]
    if "lora" in chosen:
        require_peft()
    for name in chosen:
        if spoken_lm is not None and name in STARTS and name != PROMPT:
            require_gslm(spoken_lm.lm, name)
    return chosen


def answers_of(
    name: str,
    spoken_lm: SpokenLM,
    corpus: Corpus,
    task: Task,
    variants: Sequence[TrainingOptions],
    update: Update,
) -> MethodAnswers:
    """Train a method on an encoded corpus, once for each set of options, and answer the test split."""
    if name in BASELINES:
        return _baseline(name, spoken_lm, corpus, task)
    found = [_trained(name, spoken_lm, corpus, task, options, update) for options in variants]
    return MethodAnswers(
        name,
        tuple(one.predictions[0] for one in found),
        found[0].trained_parameters,
        sum(one.seconds for one in found) / len(found),
        tuple(artifact for one in found for artifact in one.artifacts),
    )


def load_learners() -> None:
    """Import what the baselines learn with, so that loading it is no part of what is timed."""
    import sklearn.feature_extraction.text
    import sklearn.linear_model
    import sklearn.svm  # noqa: F401


def _baseline(name: str, spoken_lm: SpokenLM, corpus: Corpus, task: Task) -> MethodAnswers:
    load_learners()
    started = perf_counter()  # with the hidden states that a probe needs
    [result] = run_baselines(spoken_lm, corpus, list(task.slots), "test", [name])
    seconds = perf_counter() - started
    return MethodAnswers(name, (result.predictions,), result.trained_parameters, seconds)


def _trained(
    name: str, spoken_lm: SpokenLM, corpus: Corpus, task: Task, options: TrainingOptions, update: Update
) -> MethodAnswers:
    train = Examples.to_train(task, corpus.split("train"), options)
    valid, test = (
        Examples.of(task, corpus.split(split), options.answer_copies) for split in ("valid", "test")
    )
    started = perf_counter()
    lm, run = STARTS[name](spoken_lm.lm, task, options, train, valid)

    def listen(event: Mapping[str, Any]) -> None:
        if "step" in event:
            update(event["step"], options.steps, f"seed {options.seed}")

    train_runs(lm, [run], listen)
    scores = scores_of(lm, run.entry, test)
    seconds = perf_counter() - started
    best = {slot: values.argmax(1).tolist() for slot, values in scores.items()}
    predictions = tuple(
        LABEL_JOINT.join(labels[best[slot][row]] for slot, labels in task.slots.items())
        for row in range(len(test))
    )
    artifacts: tuple[Artifact, ...] = ()
    if name == PROMPT:
        artifact = finish(run, spoken_lm, corpus)
        artifacts = (replace(artifact, metrics={**artifact.metrics, "training_seconds": round(seconds, 3)}),)
    return MethodAnswers(name, (predictions,), run.entry.trained_parameters(), seconds, artifacts)
