"""From a labelled corpus to an artifact: encode, start, train, calibrate."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import speechprompt
from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.errors import ArtifactError
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact import Artifact, PromptConfig
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import Listener
from speechprompt.prompting.trust import outputs_of, trust_of
from speechprompt.prompting.verbalizers import FixedVerbalizer
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.splits import require_trainable
from speechprompt.spoken_lm import SpokenLM


def train(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    slots: Sequence[str] | None = None,
    options: TrainingOptions | None = None,
    *,
    name: str | None = None,
    initial: Artifact | None = None,
    listener: Listener | None = None,
    checkpoint: Path | None = None,
) -> Artifact:
    """Train one prompt on a corpus's train split, chosen on its valid split.

    `slots` default to all of the corpus's; `initial` starts from another artifact's vectors. Errors: those of
    the corpus, its audio and training itself. Side effects: the unit store, and `checkpoint` while training.
    """
    return train_many(
        corpus, spoken_lm, slots, [options or TrainingOptions()],
        name=name, initial=initial, listener=listener, checkpoint=checkpoint,
    )[0]  # fmt: skip


def train_many(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    slots: Sequence[str] | None,
    variants: Sequence[TrainingOptions],
    *,
    name: str | None = None,
    initial: Artifact | None = None,
    listener: Listener | None = None,
    checkpoint: Path | None = None,
) -> list[Artifact]:
    """The same for several sets of options (seeds, learning rates, lengths) in one joint run over the bank."""
    from speechprompt.prompting.joint import Job, train_jobs

    require_trainable(corpus)
    task = Task.of_corpus(corpus, slots, name)
    corpus = encode_corpus(corpus, spoken_lm).corpus
    corpus = with_speed_copies(corpus, spoken_lm, [options.copying for options in variants]).corpus
    jobs = [
        Job(task.name if len(variants) == 1 else f"{task.name}-{i}", corpus, task, options, initial)
        for i, options in enumerate(variants)
    ]
    return train_jobs(jobs, spoken_lm, listener, checkpoint)


def start_from(entry: TaskPrompt, initial: Artifact) -> None:
    """Copy another artifact's prompt and separator. ArtifactError when their shapes differ."""
    theirs, ours = initial.entry.prompt, entry.prompt
    if theirs.method != ours.method or theirs.vectors.shape != ours.vectors.shape:
        raise ArtifactError(
            f"{initial.path} holds a prompt '{theirs.method}' of length {theirs.length}; start from it with "
            f"--method {theirs.method} --prompt-length {theirs.length}"
        )
    ours.load_state_dict(theirs.state_dict())


def scores_of(lm: UnitLM, entry: TaskPrompt, examples: Examples) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot for examples, in their order, on the CPU."""
    return dict(outputs_of(lm, entry, examples).scores)


def finish(run: Run, spoken_lm: SpokenLM, corpus: Corpus) -> Artifact:
    """The artifact of a finished run, with what says when to trust it."""
    lm, entry, options = spoken_lm.lm, run.entry, run.options
    trust = trust_of(lm, run)
    audio = any(u.audio is not None for u in corpus.utterances)
    config = PromptConfig(
        schema_version=1,
        task=entry.task.name,
        spoken_lm=spoken_lm.name,
        tokenizer=spoken_lm.tokenizer_name,
        tokenizer_fingerprint=spoken_lm.tokenizer.fingerprint if audio else None,
        lm_fingerprint=lm.fingerprint,
        method=entry.prompt.method,
        prompt_length=entry.prompt.length,
        shifts_positions=entry.shifts_positions,
        decoding=entry.decoding,
        slots={slot: list(labels) for slot, labels in entry.task.slots.items()},
        verbalizer="fixed" if isinstance(entry.verbalizer, FixedVerbalizer) else "learnable",
        verbalizer_name=options.verbalizer,
        streams=list(entry.verbalizer.streams),
        temperatures=dict(trust.calibration.temperatures),
        threshold=trust.calibration.threshold,
        trained_parameters=entry.trained_parameters(),
        recipe=options.recipe,
        options=options.model_dump(mode="json"),
        seed=options.seed,
        versions=versions(),
        corpus=provenance(corpus),
    )
    progress = run.progress
    heard = {"speed_copies": run.train.speed_copies} if options.speed_copies else {}
    metrics = {
        "valid": {"accuracy": progress.best_accuracy, "loss": progress.best_loss, "step": progress.best_step},
        "trust": dict(trust.numbers),
        "history": progress.history,
        **heard,
    }
    return Artifact(config, entry, metrics, domain=trust.domain)


def provenance(corpus: Corpus) -> dict[str, Any]:
    """What an artifact remembers of its corpus."""
    counts: Mapping[str, int] = {s: len(corpus.split(s)) for s in ("train", "valid", "test")}
    return {
        "name": corpus.name,
        "licence": corpus.licence,
        "citation": corpus.citation,
        "split_rule": corpus.split_rule,
        "utterances": dict(counts),
    }


def versions() -> dict[str, str]:
    """Versions, and the number of threads, that decide the numbers to the last bit."""
    return {
        "speechprompt": speechprompt.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        **{package: version(package) for package in ("torch", "transformers", "numpy")},
    }
