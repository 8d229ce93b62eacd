"""`train --folds`: a prompt for each round, and the numbers of all rounds together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechprompt.cli.materials import few
from speechprompt.cli.terminal import Terminal, interval, percent, table
from speechprompt.cli.training_run import RunFolder, train_resumably
from speechprompt.errors import ArtifactError, OutputExists

if TYPE_CHECKING:
    from speechprompt.evaluation.evaluate import Evaluation
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

NUMBERS = "folds.json"


def check_folds_output(out: Path, force: bool) -> None:
    """OutputExists when `out` is there; with `force`, ArtifactError when it is not the output of folds."""
    if not out.exists():
        return
    if not force:
        raise OutputExists(out)
    if not (out / NUMBERS).is_file():
        raise ArtifactError(
            f"{out} does not hold folds, so --force does not replace it; choose another --out"
        )


@dataclass(frozen=True)
class Pooled:
    """All rounds together: each utterance is answered once, by the prompt that did not train on it."""

    prompt: Any
    ngram: Any
    difference: Any


def train_folds(
    terminal: Terminal,
    corpus: Corpus,
    spoken_lm: SpokenLM,
    options: TrainingOptions,
    out: Path,
    count: int,
    shots: int | None,
    initial: Artifact | None,
    force: bool,
) -> tuple[dict[str, Any], list[Any]]:
    """Train and test every round; the result as JSON and as what is printed.

    Finished rounds stay in `OUT.run`, so that the same command goes on after them. UsageError or CorpusError
    when the corpus cannot be divided so.
    """
    from speechprompt.speech.splits import folds, require_trainable, with_fold

    rounds = [few(with_fold(corpus, fold), shots, options.seed) for fold in folds(corpus, count)]
    for one in rounds:
        require_trainable(one)
    work = RunFolder(out).path
    evaluations = []
    for number, one in enumerate(rounds, start=1):
        folder = work / f"fold{number}"
        artifact = _finished(folder, one, spoken_lm, options)
        if artifact is None:
            terminal.say(f"fold {number} of {count}")
            artifact = _train(terminal, folder, one, spoken_lm, options, initial)
        evaluations.append(_evaluate(spoken_lm, artifact, one, number))
    pooled = _pooled(evaluations)
    document = _document(out, evaluations, pooled)
    (work / NUMBERS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if force and out.exists():
        shutil.rmtree(out)
    work.replace(out)
    return document, _parts(out, evaluations, pooled)


def _finished(folder: Path, corpus: Corpus, spoken_lm: SpokenLM, options: TrainingOptions) -> Artifact | None:
    """The prompt of a round that an interrupted command finished with the same options and corpus."""
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.finishing import provenance

    if not folder.exists():
        return None
    artifact = Artifact.load(folder, spoken_lm)
    same = artifact.config.options == options.model_dump(mode="json")
    if same and artifact.config.corpus == provenance(corpus):
        return artifact
    raise ArtifactError(
        f"{folder.parent} is left from a run with other options; delete it, or choose another --out"
    )


def _train(
    terminal: Terminal,
    folder: Path,
    corpus: Corpus,
    spoken_lm: SpokenLM,
    options: TrainingOptions,
    initial: Artifact | None,
) -> Artifact:
    from speechprompt.prompting.artifact import Artifact

    train_resumably(terminal, RunFolder(folder), corpus, spoken_lm, options, initial)
    return Artifact.load(folder, spoken_lm)


def _evaluate(spoken_lm: SpokenLM, artifact: Artifact, corpus: Corpus, number: int) -> tuple[Evaluation, Any]:
    """The round's prompt and the n-gram baseline on the round's test utterances."""
    from speechprompt.evaluation.evaluate import evaluate, run_baselines

    slots = list(artifact.config.slots)
    found = evaluate(spoken_lm, artifact, corpus, "test", baselines=())
    return found, run_baselines(spoken_lm, corpus, slots, "test", ["n-gram"])[0]


def _pooled(evaluations: Sequence[tuple[Evaluation, Any]]) -> Pooled:
    from speechprompt.evaluation.reports import joined_labels
    from speechprompt.evaluation.summary import interval_groups
    from speechprompt.metrics import accuracy_interval, paired_difference_interval

    rows = [row for evaluation, _ in evaluations for row in evaluation.rows]
    answered = [label for _, baseline in evaluations for label in baseline.predictions]
    right = np.array([row.is_right for row in rows])
    baseline = np.array([joined_labels(row)[0] == label for row, label in zip(rows, answered, strict=True)])
    groups = interval_groups([row.speaker for row in rows])
    return Pooled(
        accuracy_interval(right, groups),
        accuracy_interval(baseline, groups),
        paired_difference_interval(right, baseline, groups),
    )


def _document(out: Path, evaluations: Sequence[tuple[Evaluation, Any]], pooled: Pooled) -> dict[str, Any]:
    return {
        "artifact": str(out),
        "folds": [
            {
                "fold": number,
                "accuracy": asdict(evaluation.numbers.accuracy),
                "ngram": asdict(baseline.interval),
                "utterances": evaluation.numbers.utterance_count,
            }
            for number, (evaluation, baseline) in enumerate(evaluations, start=1)
        ],
        "pooled": {
            "accuracy": asdict(pooled.prompt),
            "ngram": asdict(pooled.ngram),
            "difference": asdict(pooled.difference),
        },
    }


def _parts(out: Path, evaluations: Sequence[tuple[Evaluation, Any]], pooled: Pooled) -> list[Any]:
    rows = [
        (
            f"fold {number}",
            e.numbers.utterance_count,
            percent(e.numbers.accuracy.estimate),
            percent(b.accuracy),
            "",
        )
        for number, (e, b) in enumerate(evaluations, start=1)
    ]
    total = sum(e.numbers.utterance_count for e, _ in evaluations)
    rows.append(
        (
            "all",
            total,
            interval(pooled.prompt),
            interval(pooled.ngram),
            interval(pooled.difference, points=True),
        )
    )
    headings = ("", "utterances", "prompt %", "n-gram %", "prompt - n-gram, points [95 %]")
    return [table(headings, rows), f"a prompt for each fold, and {NUMBERS}: {out}"]
