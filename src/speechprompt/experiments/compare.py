"""One task, several methods on the same frozen LM and the same splits: where prompting stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.errors import CorpusError
from speechprompt.evaluation.baselines import WHOLE, slot_labels
from speechprompt.evaluation.evaluate import Evaluation, answers, split_of
from speechprompt.evaluation.reports import BaselineScore, Report, ReportTable, TaskSection, render_report
from speechprompt.evaluation.summary import interval_groups, summarise
from speechprompt.experiments.demo import Stage
from speechprompt.experiments.methods import METHODS, PROMPT, MethodAnswers, answers_of, check_methods
from speechprompt.experiments.sections import task_section
from speechprompt.experiments.tables import interval_cell, json_text, markdown_table, share_cell
from speechprompt.metrics import (
    Interval,
    McNemar,
    accuracy_interval,
    macro_f1,
    mcnemar,
    paired_difference_interval,
)
from speechprompt.prompting.finishing import versions
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.splits import folds, require_trainable, with_fold
from speechprompt.spoken_lm import SpokenLM

HEADINGS = (
    *("method", "trained parameters", "seconds", "accuracy % [95 %]", "macro-F1 %"),
    *("prompt minus it, points [95 %]", "McNemar p"),
)


@dataclass(frozen=True, slots=True)
class MethodScore:
    """A method on the test split; `difference` is prompt minus it, None for the prompt itself.

    Accuracy and difference are over all seeds, McNemar's test is of the first seed's answers.
    """

    name: str
    accuracy: Interval
    macro_f1: float
    trained_parameters: int
    seconds: float
    difference: Interval | None = None
    test: McNemar | None = None

    def cells(self) -> tuple[str, ...]:
        """The method's row under `HEADINGS`."""
        return (
            self.name,
            f"{self.trained_parameters:,}",
            f"{self.seconds:.1f}",
            interval_cell(self.accuracy),
            share_cell(self.macro_f1),
            interval_cell(self.difference, signed=True),
            "" if self.test is None else f"{self.test.p_value:.3g}",
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods on one task; `section` is the prompt's, with the others as its baselines."""

    task: str
    corpus: str
    spoken_lm: str
    lm_fingerprint: str
    seeds: int
    utterances: dict[str, int]
    interval_over: str
    methods: tuple[MethodScore, ...]
    section: TaskSection

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and words, without the prompt's section."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "section"}
        return {**plain, "methods": [asdict(score) for score in self.methods]}

    def sentence(self) -> str:
        """What was compared, on how much."""
        counts = ", ".join(f"{count} {split}" for split, count in self.utterances.items())
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        return (
            f"{self.task} of {self.corpus} on {self.spoken_lm}: {counts} utterances, {seeds}; "
            f"intervals over {self.interval_over}"
        )

    def cells(self) -> list[tuple[str, ...]]:
        """A row a method, under `HEADINGS`."""
        return [score.cells() for score in self.methods]

    def document(self, form: str) -> str:
        """The comparison as .json, .md or .html."""
        if form == ".json":
            return json_text(self.to_json())
        if form == ".md":
            return f"{self.sentence()}\n\n{markdown_table(HEADINGS, self.cells())}\n"
        origins = {
            "spoken LM": f"{self.spoken_lm} ({self.lm_fingerprint})",
            "corpus": self.corpus,
            **versions(),
        }
        note = (
            "Every method learns on the same train split and is stopped on the same valid split. Accuracy and "
            "difference are over all seeds; McNemar's test is of the first seed's answers. Seconds are those of one "
            "training with its answers on this machine."
        )
        table = ReportTable(HEADINGS, tuple(self.cells()), note=note)
        title = f"Methods on {self.task}"
        return render_report(Report(title, (self.section,), origins, self.sentence(), table))


def compare_methods(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    stage: Stage,
    methods: Sequence[str] = METHODS,
    seeds: int = 1,
    steps: int | None = None,
) -> Comparison:
    """Train each method on train, stop it on valid, score it on test.

    `steps` bounds the updates of prompt, LoRA and fine-tuning alike. Errors: those of `check_methods`, of the
    corpus and of training. Side effects: the unit store.
    """
    chosen = check_methods(methods, spoken_lm)
    corpus = first_fold(corpus)
    require_trainable(corpus)
    for split in ("valid", "test"):
        split_of(corpus, split)
    with stage("encoding") as update:
        corpus = encode_corpus(
            corpus,
            spoken_lm,
            listener=lambda n, total: update(n, total, "clips"),
            most_units=spoken_lm.lm.max_units,
        ).corpus
    task = Task.of_corpus(corpus)
    changes = {} if steps is None else {"steps": steps}
    variants = [TrainingOptions(seed=seed, **changes) for seed in range(seeds)]
    corpus = with_speed_copies(corpus, spoken_lm, [options.copying for options in variants]).corpus
    found = []
    for name in chosen:
        with stage(name) as update:
            found.append(answers_of(name, spoken_lm, corpus, task, variants, update))
    return _compared(found, corpus, task, spoken_lm, seeds)


def first_fold(corpus: Corpus) -> Corpus:
    """The corpus, or where it comes in folds its first round: fold1 tests and fold2 validates."""
    count = sum(split.startswith("fold") for split in corpus.splits())
    return with_fold(corpus, folds(corpus, count)[0]) if count else corpus


def _compared(
    found: Sequence[MethodAnswers], corpus: Corpus, task: Task, spoken_lm: SpokenLM, seeds: int
) -> Comparison:
    test = corpus.split("test")
    truth = slot_labels([{slot: u.labels[slot] for slot in task.slots} for u in test], WHOLE)
    groups = interval_groups([u.speaker for u in test])
    right = {one.name: _right(one, truth) for one in found}
    scores = tuple(_score(one, right, truth, groups) for one in found)
    return Comparison(
        task=task.name,
        corpus=corpus.name,
        spoken_lm=spoken_lm.name,
        lm_fingerprint=spoken_lm.lm.fingerprint,
        seeds=seeds,
        utterances=corpus.splits(),
        interval_over="utterances" if groups is None else "speakers",
        methods=scores,
        section=_section(found[0], scores, corpus, spoken_lm),
    )


def _right(one: MethodAnswers, truth: Sequence[str]) -> NDArray[np.bool_]:
    """Which utterances are right, (seeds, B)."""
    table = np.array([[a == b for a, b in zip(row, truth, strict=True)] for row in one.predictions])
    if not table.size:
        raise CorpusError("the test split is empty, so there is nothing to compare on")
    return table


def _score(
    one: MethodAnswers,
    right: dict[str, NDArray[np.bool_]],
    truth: Sequence[str],
    groups: Sequence[str] | None,
) -> MethodScore:
    ours, prompts = right[one.name], right[PROMPT]
    score = MethodScore(
        name=one.name,
        accuracy=accuracy_interval(ours, groups),
        macro_f1=float(np.mean([macro_f1(truth, row) for row in one.predictions])),
        trained_parameters=one.trained_parameters,
        seconds=one.seconds,
    )
    if one.name == PROMPT:
        return score
    difference = paired_difference_interval(prompts, ours, groups)
    return replace(score, difference=difference, test=mcnemar(prompts[0], ours[0]))


def _section(
    prompt: MethodAnswers, scores: Sequence[MethodScore], corpus: Corpus, spoken_lm: SpokenLM
) -> TaskSection:
    """The first seed's prompt in detail, with the accuracy over all seeds and the other methods beside it."""
    artifact, test = prompt.artifacts[0], corpus.split("test")
    rows = answers(spoken_lm.lm, artifact, test)
    numbers = replace(summarise(rows, artifact.entry.task.slots), accuracy=scores[0].accuracy)
    others = tuple(
        BaselineScore(s.name, s.accuracy, s.macro_f1, s.difference, s.trained_parameters, s.seconds)
        for s in scores
        if s.difference is not None
    )
    evaluation = Evaluation(artifact.name, "test", numbers, tuple(rows), others)
    section = task_section(artifact, evaluation, spoken_lm, test)
    if len(prompt.predictions) == 1:
        return section
    note = f"Accuracy is the mean over {len(prompt.predictions)} seeds; all else is of the first."
    return replace(section, notices=(*section.notices, note))
