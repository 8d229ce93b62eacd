"""One row of a reproduction: its corpus ready to train on, its finished runs on disk, and its numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from speechprompt.corpora.registry import describe, prepare
from speechprompt.encoding import encode_corpus
from speechprompt.errors import CorpusError, WorkError
from speechprompt.evaluation.baselines import WHOLE, NgramBaseline, slot_labels
from speechprompt.evaluation.evaluate import evaluate, split_of
from speechprompt.evaluation.reports import TaskSection
from speechprompt.evaluation.summary import rightness
from speechprompt.experiments.answers import SavedAnswers, load_value, save_value
from speechprompt.experiments.compare import first_fold
from speechprompt.experiments.demo import Update
from speechprompt.experiments.methods import load_learners
from speechprompt.experiments.paper_table import PaperRow, paper_row
from speechprompt.experiments.roots import CorpusRoot
from speechprompt.experiments.sections import task_section
from speechprompt.metrics import macro_f1
from speechprompt.prompting.artifact import CONFIG, Artifact, save_metrics
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training_copies import with_training_copies
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.splits import require_trainable
from speechprompt.spoken_lm import SpokenLM

ANSWERS, SECTION = "answers.json", "section.json"


class AbsentCorpus(WorkError):
    """A corpus that is not on this machine; the message says where to get it."""


@dataclass(frozen=True, slots=True)
class RowRun:
    """A row with its encoded corpus and the options of each seed; `key` hashes corpus, units and LM.

    `folder` holds a prompt folder a seed and the n-gram's answers, each under a name that ends in a hash of
    what it depends on.
    """

    name: str
    paper: PaperRow | None
    corpus: Corpus
    task: Task
    variants: tuple[TrainingOptions, ...]
    folder: Path
    key: str
    notices: tuple[str, ...]

    @property
    def positive(self) -> str | None:
        """The label whose scores make the equal error rate; None where accuracy is the metric."""
        return None if self.paper is None else self.paper.positive

    def run_folder(self, options: TrainingOptions) -> Path:
        """Where the prompt of one seed lies, once it is trained."""
        text = f"{self.key} {options.model_dump_json()}"
        return self.folder / f"seed{options.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def pending(self) -> list[TrainingOptions]:
        """The options that are not trained yet."""
        return [options for options in self.variants if not (self.run_folder(options) / CONFIG).is_file()]

    def start(self, options: TrainingOptions, spoken_lm: SpokenLM) -> Run:
        """A training that has not begun."""
        train = Examples.to_train(self.task, self.corpus.split("train"), options)
        valid = Examples.of(self.task, self.corpus.split("valid"), options.answer_copies)
        entry = new_entry(self.task, spoken_lm.lm, options, train.units, train.targets)
        return Run(f"{self.name} seed {options.seed}", entry, options, train, valid)

    def answers(self, spoken_lm: SpokenLM) -> list[SavedAnswers]:
        """Every seed's answers to the test split; prompts that were not scored yet are scored and the file kept."""
        folders = [self.run_folder(options) for options in self.variants]
        for folder in folders:
            if not (folder / ANSWERS).is_file():
                self._score(folder, spoken_lm)
        return [load_value(SavedAnswers, folder / ANSWERS) for folder in folders]

    def section(self) -> TaskSection:
        """The first seed's section of a report; call `answers` first."""
        return load_value(TaskSection, self.run_folder(self.variants[0]) / SECTION)

    def _score(self, folder: Path, spoken_lm: SpokenLM) -> None:
        artifact = Artifact.load(folder, spoken_lm)
        found = evaluate(spoken_lm, artifact, self.corpus, "test", baselines=())
        save_metrics(artifact, {**artifact.metrics, "test": found.to_json()})
        save_value(task_section(artifact, found, spoken_lm, self.corpus.split("test")), folder / SECTION)
        scores = None
        if self.positive is not None:
            [(slot, labels)] = self.task.slots.items()
            place = labels.index(self.positive)
            scores = tuple(float(row.slots[slot].scores[place]) for row in found.rows)
        slots = list(found.numbers.slots.values())
        answers = SavedAnswers(
            right=tuple(rightness(found.rows).tolist()),
            positive_scores=scores,
            macro_f1=float(np.mean([slot.macro_f1.estimate for slot in slots])),
            trained_parameters=artifact.config.trained_parameters,
            seconds=float(artifact.metrics.get("training_seconds", 0.0)),
        )
        save_value(answers, folder / ANSWERS)

    def ngram(self) -> SavedAnswers:
        """The n-gram baseline on the same rows, from its file when it ran before."""
        path = self.folder / f"ngram-{self.key[:12]}.json"
        if not path.is_file():
            save_value(self._fit_ngram(), path)
        return load_value(SavedAnswers, path)

    def _fit_ngram(self) -> SavedAnswers:
        train, test = self.corpus.split("train"), self.corpus.split("test")
        told, truth = (
            slot_labels([{slot: u.labels[slot] for slot in self.task.slots} for u in rows], WHOLE)
            for rows in (train, test)
        )
        units, asked = ([u.units.ids.tolist() for u in rows if u.units is not None] for rows in (train, test))
        load_learners()
        started = perf_counter()
        baseline = NgramBaseline().fit(units, told)
        found = baseline.predict(asked)
        seconds = perf_counter() - started
        scores = None
        if self.positive is not None:
            scores = tuple(found.scores[:, found.labels.index(self.positive)].tolist())
        right = tuple(a == b for a, b in zip(truth, found.predictions, strict=True))
        return SavedAnswers(
            right, scores, macro_f1(truth, found.predictions), baseline.trained_parameters, seconds
        )

    def is_positive(self) -> list[bool]:
        """Which test utterances have the positive label."""
        [slot] = self.task.slots
        return [u.labels[slot] == self.positive for u in self.corpus.split("test")]


def open_row(
    name: str,
    roots: Mapping[str, CorpusRoot],
    spoken_lm: SpokenLM,
    out: Path,
    variants: Sequence[TrainingOptions],
    update: Update,
) -> RowRun:
    """Prepare a row's manifest, encode its corpus and check that it can be trained on.

    AbsentCorpus when its folder is unknown or not there; else the errors of reading, encoding and splits. Side
    effects: the manifest under `out`, the unit store.
    """
    chosen = _present(name, roots)
    slug = name.replace(":", "--")
    prepared = prepare(
        name,
        chosen.root,
        out / "manifests" / f"{slug}.jsonl",
        split_rule=chosen.split_rule,
        split_list=chosen.split_list,
        variant=chosen.variant,
        force=True,
    )
    corpus = first_fold(Corpus.read(prepared.manifest))
    require_trainable(corpus)
    for split in ("valid", "test"):
        split_of(corpus, split)
    encoded = encode_corpus(
        corpus,
        spoken_lm,
        listener=lambda n, total: update(n, total, "clips"),
        most_units=spoken_lm.lm.max_units,
    )
    copied = with_training_copies(
        encoded.corpus,
        spoken_lm,
        variants,
        listener=lambda n, total: update(n, total, "copies at other speeds"),
    )
    return RowRun(
        name=name,
        paper=paper_row(name),
        corpus=copied.corpus,
        task=Task.of_corpus(encoded.corpus),
        variants=tuple(variants),
        folder=out / "runs" / slug,
        key=_key(encoded.corpus, spoken_lm),
        notices=(*prepared.notices, *corpus.notices, *encoded.notices, *copied.notices),
    )


def _present(name: str, roots: Mapping[str, CorpusRoot]) -> CorpusRoot:
    corpus = name.partition(":")[0]
    about = describe(corpus)
    where = f"get {about.title} at {about.url}"
    if corpus not in roots:
        raise AbsentCorpus(f"no folder for {corpus}; {where}, and name its folder in the file of --roots")
    if not roots[corpus].root.is_dir():
        raise AbsentCorpus(f"{roots[corpus].root} is not there; {where}, or correct the file of --roots")
    return roots[corpus]


def _key(corpus: Corpus, spoken_lm: SpokenLM) -> str:
    """A hash of all that a training reads: labels, splits, speakers and units of every utterance, and the LM."""
    digest = hashlib.sha256(f"{spoken_lm.lm.fingerprint} {dict(corpus.slots)}".encode())
    for u in corpus.utterances:
        if u.units is None:
            raise CorpusError(f"{corpus.name}: utterance '{u.id}' has no units")
        streams = (u.units.ids, u.units.durations, u.units.f0)
        digest.update(f"\0{u.id}\0{u.split}\0{u.speaker}\0{sorted(u.labels.items())}\0".encode())
        for stream in streams:
            digest.update(b"-" if stream is None else stream.tobytes())
    return digest.hexdigest()
