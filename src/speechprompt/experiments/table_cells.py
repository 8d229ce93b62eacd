"""One cell of a table: a method on one round of a row, measured once and kept under a hash of all it depends on.

Methods fit on train, choose on valid and answer test; none of them sees a test label.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor

from speechprompt.evaluation.baselines import NgramBaseline, all_single
from speechprompt.evaluation.evaluate import run_baselines
from speechprompt.experiments.answers import load_value, save_value
from speechprompt.experiments.demo import Update
from speechprompt.experiments.methods import load_learners, prompt_run
from speechprompt.experiments.mfcc_units import Features, mfcc_features, mfcc_units
from speechprompt.experiments.table_ngrams import NgramAnswers, named, ngrams_over_copies, tuned_ngrams
from speechprompt.experiments.table_options import (
    HEARING,
    TRAINED,
    cnn_options,
    copied_splits,
    hearing_options,
    training_options,
)
from speechprompt.experiments.table_rounds import Round, audio_keys, labels_of
from speechprompt.experiments.table_rows import NEEDS_LM, NGRAM_COPIES, NGRAM_TUNED
from speechprompt.experiments.tuning import finetuning_run
from speechprompt.experiments.unit_cnn import predict, train_cnn
from speechprompt.lms.protocol import UnitLM
from speechprompt.metrics import accuracy
from speechprompt.prompting.answer_copies import answer_scores
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.finishing import processor, versions
from speechprompt.prompting.members import combined, divisions_of, members_of
from speechprompt.prompting.readings import OURS, stream_sizes
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, NgramFit, Run
from speechprompt.prompting.training import remove_checkpoint, train_runs
from speechprompt.prompting.trust import temperatures_of
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.unit_store import file_key
from speechprompt.spoken_lm import SpokenLM

VERSIONS = {
    "majority": "1",
    "n-gram": "1",
    "n-gram copies": "1",
    "n-gram tuned": "1",
    "mfcc n-gram": "1",
    "probe": "1",
    "prompt": "4",
    "cnn": "1",
    "finetune": "4",
}
"""Raise a method's number when a change of code changes what it answers: its cells are then measured again."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a method answered to a round's test utterances (joined labels, in order) and what that cost.

    `trained_parameters` are those of all members of an ensemble; `details` what was chosen on valid; `measured_by` the
    processor and the versions that measured it.
    """

    predictions: tuple[str, ...]
    trained_parameters: int
    cpu_seconds: float
    valid_accuracy: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    measured_by: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A method with its options on one round: `key` identifies everything that its answers depend on.

    `spoken_lm` may be None for methods that ask none (`NEEDS_LM` do); networks compute on `device`.
    """

    method: str
    round: Round
    spoken_lm: SpokenLM | None
    options: Mapping[str, Any]
    folder: Path
    device: str = "cpu"

    @cached_property
    def key(self) -> str:
        """Hash of method, its version, material, LM, options and seed."""
        parts = self._parts
        if self.method in NEEDS_LM:
            lm = self._lm
            parts = {**parts, "lm": lm.fingerprint, "dtype": str(lm.dtype)}
        return _hashed(parts)[:24]

    @cached_property
    def inputs(self) -> str:
        """The same without the LM."""
        return _hashed(self._parts)

    @cached_property
    def _parts(self) -> dict[str, Any]:
        heard = self.method == "mfcc n-gram"
        parts: dict[str, Any] = {
            "method": [self.method, self._version],
            "material": self.round.audio_digest if heard else self.round.units_digest,
            "options": dict(self.options),
            "seed": self.round.seed,
        }
        if copied := self._copied_splits():
            # copies are made of the audio, by the tokenizer that made the units
            parts["audio"] = [
                None if u.audio is None else file_key(u.audio, u.start_seconds, u.end_seconds)
                for split in copied
                for u in self.round.rows(split)
            ]
        if self.method in NEEDS_LM and self._reads_prosody:
            parts["prosody"] = self.round.prosody_digest
        return parts

    @property
    def _version(self) -> str:
        """The method's version; n-grams of one clip a label kept nothing of a single clip before version 2."""
        ngrams = self.method in ("n-gram", NGRAM_COPIES) and all_single(self.round.labels("train"))
        return "2" if ngrams else VERSIONS[self.method]

    def _copied_splits(self) -> list[str]:
        """The splits whose clips are heard at other speeds too."""
        if self.method not in HEARING:
            return []
        taught, answered = copied_splits(hearing_options(self.method, self.options))
        return list(dict.fromkeys([*taught, *answered]))

    @property
    def _lm(self) -> UnitLM:
        assert self.spoken_lm is not None, f"{self.method} asks an LM"
        return self.spoken_lm.lm

    @property
    def _reads_prosody(self) -> bool:
        """Whether the LM, the verbalizer or the training looks at more of an utterance than its units' ids."""
        if self.spoken_lm is not None and set(stream_sizes(self._lm)) - {"units", *OURS}:
            return True
        options = training_options(self.options, 0).options if self.method in TRAINED else None
        return options is not None and (options.streams == "pace" or options.unit_jitter > 0)

    @property
    def path(self) -> Path:
        """The file that holds the cell once it is measured."""
        return self.folder / f"{self.method.replace(' ', '-')}-{self.key}.json"

    @property
    def _checkpoint(self) -> Path:
        return self.path.with_suffix(".training.pt")

    def load(self) -> Cell | None:
        """The cell, if it was measured. WorkError when its file is damaged."""
        return load_value(Cell, self.path) if self.path.is_file() else None

    def run(self, features: FeatureCache, update: Update) -> Cell:
        """Measure the cell and keep it. Trainings leave a checkpoint beside it, from which a second call goes on."""
        started = process_time()
        if self.method in ("majority", "n-gram", "probe"):
            cell = self._baseline()
        elif self.method == NGRAM_COPIES:
            cell = self._ngrams(ngrams_over_copies)
        elif self.method == NGRAM_TUNED:
            cell = self._ngrams(tuned_ngrams)
        elif self.method == "mfcc n-gram":
            cell = self._mfcc(features)
        elif self.method == "cnn":
            cell = self._cnn(update)
        else:
            cell = self._trained(update)
        seconds = round(process_time() - started, 2)
        by = measuring(self.device)
        cell = replace(cell, cpu_seconds=seconds, measured_by=by)
        save_value(cell, self.path)
        remove_checkpoint(self._checkpoint)
        return cell

    def _baseline(self) -> Cell:
        load_learners()
        one = self.round
        [found] = run_baselines(self.spoken_lm, one.corpus, list(one.task.slots), "test", [self.method])
        return Cell(found.predictions, found.trained_parameters, 0)

    def _ngrams(self, method: Callable[[Round, TrainingOptions, int], NgramAnswers]) -> Cell:
        load_learners()
        asked = training_options(self.options, 0)
        found = method(self.round, asked.options, asked.answer_copies)
        return Cell(found.predictions, found.trained_parameters, 0, found.valid_accuracy, found.chosen)

    def _mfcc(self, features: FeatureCache) -> Cell:
        load_learners()
        rows = self.round.corpus.utterances
        train, valid, test = (
            [i for i, u in enumerate(rows) if u.split == s] for s in ("train", "valid", "test")
        )
        best = None
        for form, units in mfcc_units(features.of(self.round.corpus), train, self.round.seed):
            baseline = NgramBaseline().fit([units[i] for i in train], self.round.labels("train"))
            answers = baseline.predict([units[i] for i in valid]).predictions
            reached = accuracy(self.round.labels("valid"), answers)
            if best is None or reached > best[0]:
                best = reached, form, baseline, [units[i] for i in test]
        assert best is not None
        reached, form, baseline, asked = best
        predictions = baseline.predict(asked).predictions
        return Cell(predictions, baseline.trained_parameters, 0, reached, {"clusters": form})

    def _cnn(self, update: Update) -> Cell:
        asked, options = hearing_options(self.method, self.options), cnn_options(self.options)
        task = self.round.task
        train = Examples.to_train(task, self.round.rows("train"), asked.options)
        valid, slots = Examples.of(task, self.round.rows("valid")), task.slots
        counts = [len(labels) for labels in slots.values()]
        trained = train_cnn(train, valid, counts, options, self.round.seed, update, torch.device(self.device))
        test = Examples.of(task, self.round.rows("test"), asked.answer_copies)
        answers = predict(trained.model, *(heard.units for heard in test.hearings()))
        best = dict(zip(slots, answers.T.tolist(), strict=True))
        parameters = sum(p.numel() for p in trained.model.parameters())
        return Cell(named(slots, best), parameters, 0, trained.valid_accuracy, trained.chosen)

    def _trained(self, update: Update) -> Cell:
        """A prompt, an ensemble of prompts (the first takes n-grams, if any), or the whole LM fine-tuned."""
        options, copies = training_options(self.options, self.round.seed)
        task = self.round.task
        divided = divisions_of(self.round.corpus, options, task.slots)
        validated = [valid for _, valid in divided]
        start = prompt_run if self.method == "prompt" else finetuning_run
        started = list[tuple[Any, Run]]()
        for own, (train, valid) in zip(members_of(options), divided, strict=True):
            if started and self.method == "prompt":  # all of one length, as those of `train`
                own = own.model_copy(update={"prompt_length": started[0][1].entry.prompt.length})
            taught = Examples.to_train(task, train, options)
            started.append(start(self._lm, task, own, taught, Examples.of(task, valid)))
        lm, runs = started[0][0], [run for _, run in started]
        self._train(lm, runs, update)
        entries, answering = [run.entry for run in runs], [run.answering for run in runs]
        scores, reached = self._together(lm, entries, validated, copies, answering)
        last = runs[-1]
        details: dict[str, Any] = {
            "prompts": options.ensemble,
            "steps": last.progress.step,
            "best_step": last.progress.best_step,
        }
        if self.method == "prompt":
            details["prompt_length"] = last.entry.prompt.length
        fit = runs[0].ngram_fit
        if fit is not None:
            details |= self._apart(lm, entries, validated, fit, copies)
        if copies:
            alone, _ = self._together(lm, entries, validated, 0, answering)
            right = accuracy(self.round.labels("test"), _joined(self.round.task.slots, alone))
            details["without_copies_on_test"] = right
        parameters = sum(entry.trained_parameters() for entry in entries)
        return Cell(_joined(self.round.task.slots, scores), parameters, 0, reached, details)

    def _together(
        self,
        lm: Any,
        entries: Sequence[TaskPrompt],
        validated: Sequence[tuple[Utterance, ...]],
        copies: int,
        answering: Sequence[TaskPrompt] = (),
    ) -> tuple[dict[str, Tensor], float]:
        """Scores (n,C) on test of all members over so many copies, each calibrated on the clips that validated it.

        And accuracy there: of all together, or the mean of each alone where they validate on different clips. On test
        others may answer, whose n-grams learnt from validation as well.
        """
        task, test = self.round.task, self.round.rows("test")
        told = [
            answer_scores(lm, entry, rows, copies) for entry, rows in zip(entries, validated, strict=True)
        ]
        calibrations = [
            Calibration(temperatures_of(one, Examples.of(task, rows).targets))
            for one, rows in zip(told, validated, strict=True)
        ]
        asked = [
            (c, answer_scores(lm, entry, test, copies))
            for c, entry in zip(calibrations, answering or entries, strict=True)
        ]
        judged = list(zip(calibrations, told, strict=True))
        if all(rows == validated[0] for rows in validated):
            together = [(combined(judged), validated[0])]
        else:
            together = [(combined([one]), rows) for one, rows in zip(judged, validated, strict=True)]
        reached = [accuracy(labels_of(task, rows), _joined(task.slots, scores)) for scores, rows in together]
        return combined(asked), sum(reached) / len(reached)

    def _apart(
        self,
        lm: Any,
        entries: Sequence[TaskPrompt],
        validated: Sequence[tuple[Utterance, ...]],
        fit: NgramFit,
        copies: int,
    ) -> dict[str, Any]:
        """What was chosen for n-grams, and the test accuracy of the prompts and of the n-grams, each alone."""
        labels, first = self.round.labels("test"), entries[0]

        prompts, _ = self._together(lm, [first.reading(fit.prompt), *entries[1:]], validated, copies)
        ngrams = answer_scores(lm, first.reading(fit.ngrams), self.round.rows("test"), copies)
        return {
            "ngrams": fit.numbers,
            "prompt_alone_on_test": accuracy(labels, _joined(first.task.slots, prompts)),
            "ngrams_alone_on_test": accuracy(labels, _joined(first.task.slots, ngrams)),
        }

    def _train(self, lm: Any, runs: Sequence[Run], update: Update) -> None:
        """Train all members in one batch."""

        def listen(event: Mapping[str, Any]) -> None:
            if "step" in event:
                best = [run.progress.best_accuracy for run in runs if run.progress.evaluations]
                told = f"valid {100 * sum(best) / len(best):.1f} %" if best else ""
                update(event["step"], runs[0].options.steps, told)

        train_runs(lm, runs, listen, self._checkpoint)


class FeatureCache:
    """The MFCCs of the last corpus, which all of its rounds share."""

    def __init__(self) -> None:
        self._held: tuple[list[str], dict[str, Features]] = ([], {})

    def of(self, corpus: Corpus) -> list[Features]:
        """A clip's MFCCs (T,39) each, in the corpus's order."""
        keys = audio_keys(corpus)
        if self._held[0] != sorted(keys):
            found = mfcc_features(corpus.utterances)
            self._held = (sorted(keys), dict(zip(keys, found, strict=True)))
        return [self._held[1][key] for key in keys]


def measuring(device: torch.device | str) -> dict[str, str]:
    """The processor or GPU that computes here, and the versions that decide the numbers to the last bit."""
    return {"machine": f"{platform.machine()}, {processor(device)}", **versions()}


def _hashed(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _joined(slots: Mapping[str, Sequence[str]], scores: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The best label of every slot as one, from scores (n,C)."""
    return named(slots, {slot: scores[slot].argmax(1).tolist() for slot in slots})
