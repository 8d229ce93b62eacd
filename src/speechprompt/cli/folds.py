"""`train --folds`: a prompt for each round, and the numbers of all rounds together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechprompt.cli.materials import few
from speechprompt.cli.terminal import Terminal, interval, percent, table
from speechprompt.cli.training_run import RunFolder, train_resumably
from speechprompt.errors import ArtifactError, OutputExists
from speechprompt.filesystem import replace_folder

if TYPE_CHECKING:
    from speechprompt.evaluation.evaluate import Evaluation
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus
    from speechprompt.speech.splits import Fold
    from speechprompt.spoken_lm import SpokenLM

NUMBERS = "folds.json"
DESCRIPTION = "rounds.json"
"""Beside the rounds while they are trained: what they are trained on."""


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
    drawn: Sequence[Fold],
    shots: int | None,
    initial: Artifact | None,
    force: bool,
) -> tuple[dict[str, Any], list[Any]]:
    """Train and test every round; the result as JSON and as what is printed.

    Finished rounds stay in `OUT.run`, so that the same command goes on after them. CorpusError when a round
    cannot be trained on; ArtifactError when the rounds there are of other options or data.
    """
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.speech.splits import require_trainable, with_fold

    rounds = [
        few(with_fold(corpus, fold), shots, options.seed, splits=options.taught_splits) for fold in drawn
    ]
    for one in rounds:
        require_trainable(one)
    work = RunFolder(out).path
    described = _described(corpus, spoken_lm, options, shots, initial)
    _check_left(work, {**described, "folds": [fold.draw.digest for fold in drawn]})
    evaluations = []
    for number, one in enumerate(rounds, start=1):
        folder = work / f"fold{number}"
        if not folder.exists():
            terminal.say(f"fold {number} of {len(drawn)}")
            train_resumably(terminal, RunFolder(folder), one, spoken_lm, options, initial)
        artifact = Artifact.load(folder, spoken_lm)
        evaluations.append(_evaluate(spoken_lm, artifact, one, number))
    pooled = _pooled(evaluations)
    document = _document(out, evaluations, pooled)
    (work / NUMBERS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    check_folds_output(out, force)
    replace_folder(work, out)
    (out / DESCRIPTION).unlink()
    return document, _parts(out, evaluations, pooled)


def _described(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    options: TrainingOptions,
    shots: int | None,
    initial: Artifact | None,
) -> dict[str, Any]:
    """All that the rounds' prompts depend on besides the folds themselves."""
    from speechprompt.prompting.artifact import content_hash
    from speechprompt.speech.digests import corpus_digest

    started = None if initial is None or initial.path is None else content_hash(initial.path)
    return {
        "lm_fingerprint": spoken_lm.lm.fingerprint,
        "corpus": corpus.name,
        "corpus_digest": corpus_digest(corpus),
        "options": options.model_dump(mode="json"),
        "shots": shots,
        "initial": started,
    }


def _check_left(work: Path, described: Mapping[str, Any]) -> None:
    """Write down what the rounds are trained on. ArtifactError when others, or unknown ones, are there."""
    description = work / DESCRIPTION
    text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    known = description.read_text(encoding="utf-8") if description.exists() else None
    if known != text and any(work.glob("fold*")):
        raise ArtifactError(
            f"{work} is left from a run with other options or data; delete it, or choose another --out"
        )
    work.mkdir(parents=True, exist_ok=True)
    description.write_text(text, encoding="utf-8")


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
