"""What comes of a finished run: the artifact with what says when to trust it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import speechprompt
from speechprompt.prompting.artifact import Artifact, MemberConfig, PromptConfig
from speechprompt.prompting.artifact_tensors import Member
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.heard import heard_in
from speechprompt.prompting.run import Run
from speechprompt.prompting.trust import ValidNumbers, trust_of, trust_together
from speechprompt.prompting.verbalizers import FixedVerbalizer
from speechprompt.speech.manifest import Corpus
from speechprompt.spoken_lm import SpokenLM


def finish(run: Run, spoken_lm: SpokenLM, corpus: Corpus) -> Artifact:
    """The artifact of a finished run, with what says when to trust it."""
    lm, entry, options = spoken_lm.lm, run.entry, run.options
    trust, valid = trust_of(lm, run)
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
        answer_copies=options.answer_copies,
    )
    progress = run.progress
    heard = {"speed_copies": run.train.speed_copies} if options.speed_copies else {}
    beside = {} if run.ngram_fit is None else {"ngrams": run.ngram_fit.numbers}
    metrics = {
        "valid": _valid(valid, progress.best_step, options.answer_copies if audio else 0),
        "trust": dict(trust.numbers),
        "history": progress.history,
        **heard,
        **beside,
    }
    known = heard_in((*corpus.split("train"), *corpus.split("valid")))
    return Artifact(config, run.answering, metrics, domain=trust.domain, heard=known)


def finish_together(runs: Sequence[Run], spoken_lm: SpokenLM, corpus: Corpus) -> Artifact:
    """The artifact of one finished run, or of several that answer together."""
    alone = [finish(run, spoken_lm, corpus) for run in runs]
    first = alone[0]
    if len(runs) == 1:
        return first
    own = [Calibration(one.config.temperatures) for one in alone]
    trust, valid = trust_together(spoken_lm.lm, runs, own)
    config = first.config.model_copy(
        update={
            "temperatures": dict(trust.calibration.temperatures),
            "threshold": trust.calibration.threshold,
            "trained_parameters": sum(one.config.trained_parameters for one in alone),
            "members": [
                MemberConfig(
                    seed=one.config.seed,
                    streams=one.config.streams,
                    temperatures=dict(one.config.temperatures),
                )
                for one in alone
            ],
        }
    )
    metrics = {
        **first.metrics,
        "valid": _valid(
            valid, max(run.progress.best_step for run in runs), first.metrics["valid"].get("copies", 0)
        ),
        "trust": dict(trust.numbers),
        "history": _mean_history([run.progress.history for run in runs]),
        "members": [
            {
                "seed": one.config.seed,
                **one.metrics["valid"],
                "trained_parameters": one.config.trained_parameters,
            }
            for one in alone
        ],
    }
    others = tuple(
        Member(one.entry, calibration, one.domain)
        for one, calibration in zip(alone[1:], own[1:], strict=True)
    )
    return replace(first, config=config, metrics=metrics, others=others)


def _valid(numbers: ValidNumbers, step: int, copies: int) -> dict[str, float]:
    """What a prompt reached on validation, at which step, and over how many copies of its clips where there are any."""
    return {**numbers._asdict(), "step": step, **({"copies": copies} if copies else {})}


def _mean_history(histories: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """What runs were like on validation, by step: means over those that got so far."""
    by_step: dict[float, list[Mapping[str, float]]] = {}
    for event in chain.from_iterable(histories):
        by_step.setdefault(event["step"], []).append(event)
    return [
        {name: sum(event[name] for event in events) / len(events) for name in events[0]}
        for _, events in sorted(by_step.items())
    ]


def provenance(corpus: Corpus) -> dict[str, Any]:
    """What an artifact remembers of its corpus."""
    counts: Mapping[str, int] = {s: len(corpus.split(s)) for s in ("train", "valid", "test")}
    draws = {"fold": corpus.fold, "shots": corpus.shots}
    return {
        "name": corpus.name,
        "licence": corpus.licence,
        "citation": corpus.citation,
        "split_rule": corpus.split_rule,
        "utterances": dict(counts),
        **{name: asdict(draw) for name, draw in draws.items() if draw is not None},
    }


def versions() -> dict[str, str]:
    """Versions, and the number of threads, that decide the numbers to the last bit."""
    return {
        "speechprompt": speechprompt.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        **{package: version(package) for package in ("torch", "transformers", "numpy")},
    }


def processor(device: torch.device | str) -> str:
    """The model of the GPU, or that of the processor where the system tells it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()
