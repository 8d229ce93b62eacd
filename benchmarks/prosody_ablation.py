"""Where prosody helps: units only, with durations, with durations and F0, at one size and one budget.

    python benchmarks/prosody_ablation.py --data CORPORA --units UNITS --tokenizer tiny --material SOURCE... \
        [--rows ravdess,fsdd-digit] [--seeds 3] [--steps 200] [--json FILE]

CORPORA holds the unpacked corpora of the shared data (`unpack.py NAME --out CORPORA`), UNITS its unit corpora (ESD
and LJSpeech, which have durations but no audio). LMs of one size are pretrained on the same content units with the same
seed; they differ in the streams that they read and predict. On each of them a prompt is trained for every fold, all
seeds in one batch. Each fold is tested once, so all clips are; intervals are over seeds and, where known, speakers. F0
is measured from the utterance's mean (pGSLM's way) or from nothing (absolute); `start` hides the last unit's prosody
from the separator (docs/decisions/0007). Beside them stand SVMs on n-grams of the same units, and of the same units,
durations and F0, which say what the streams carry whoever reads them. Units lie in the usual
store, LMs and cells in `--cache` under the hash of what made them, so a stopped study goes on. `--valid-only` trains
the same and shows no test clip: options are chosen with it, on one row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from prosody_rows import ROWS, VARIANTS, Row, Variant, heard, name_of

from speechprompt.encoding import encode_corpus
from speechprompt.evaluation.baselines import NgramBaseline
from speechprompt.lms.pgslm_units import PgslmUnitLM
from speechprompt.metrics import Interval, accuracy_interval, paired_difference_interval
from speechprompt.pretraining.material import gather, trains
from speechprompt.pretraining.prosodic_lm import PgslmKind, pretrain_prosodic_lm
from speechprompt.pretraining.unit_lm_options import ProsodicLmOptions
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_runs
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.splits import folds, with_fold
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM, content_of, load_tokenizer, with_f0

HUBERT, NGRAM, WHOLE = "hubert-base-l6-km100", "n-gram SVM", "whole intent"
FIELDS = ("split", "official_split")
Answers = Mapping[str, Mapping[str, Sequence[bool]]]
"""Slot -> utterance id -> whether each seed was right."""


class Study:
    """The tokenizer, the pretraining material and the LMs of one set of options."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.cache = options, Path(options.cache)
        self.cache.mkdir(parents=True, exist_ok=True)
        named = Path(options.tokenizer) if Path(options.tokenizer).is_dir() else options.tokenizer
        self.tokenizer = with_f0(content_of(load_tokenizer(named)), "f0", "cpu", "absolute")
        self._lms: dict[tuple[Variant, bool], PgslmUnitLM] = {}

    def corpus(self, source: str, only: Callable[[Utterance], bool] = lambda u: True) -> Corpus:
        """A corpus whose utterances carry units; audio is encoded once and kept in the unit store."""
        folder = Path(self.options.units if source.endswith(".gz") else self.options.data) / source
        corpus = Corpus.read(folder)
        corpus = replace(corpus, utterances=tuple(u for u in corpus.utterances if only(u)))
        if corpus.tokenizer is not None:
            return corpus
        encoder = SpokenLM("none", lambda: self.tokenizer, _no_lm, self.tokenizer.name)
        return encode_corpus(corpus, encoder, skip_unreadable=True).corpus

    @cached_property
    def material(self) -> tuple[Sequence[Units], Sequence[Units]]:
        """Content units to pretrain on and to hold out."""
        corpora = [
            self.corpus(str(Path(s).absolute()), lambda u: trains(u, FIELDS)) for s in self.options.material
        ]
        found = gather(corpora, [], FIELDS, 0.01)
        return found.taught, found.held_out

    @cached_property
    def published(self) -> tuple[Sequence[Units], Sequence[Units]]:
        """Units of HuBERT with durations, for the corpus that has no audio."""
        rows = [u.units for u in self.corpus(self.options.unit_material).utterances if u.units is not None]
        return rows[40:], rows[:40]

    def lm(self, variant: Variant, ours: bool) -> PgslmUnitLM:
        """The LM of a variant over our content units, or over HuBERT's units."""
        key = (replace(variant, separator="last"), ours)
        if key not in self._lms:
            self._lms[key] = self._pretrained(*key)
        return PgslmUnitLM(self._lms[key].model, variant.separator)

    def _pretrained(self, variant: Variant, ours: bool) -> PgslmUnitLM:
        options = self.options
        unit_count = self.tokenizer.unit_count if ours else 100
        taught, held_out = (
            [heard(units, variant) for units in rows] for rows in (self.material if ours else self.published)
        )
        settings = ProsodicLmOptions(
            layers=options.layers, width=options.width, heads=4, inner=2 * options.width, bf16=False,
            steps=options.pretraining_steps, batch_units=4096, warmup_steps=options.pretraining_steps // 10,
            save_every=100, reads_duration=variant.durations, reads_f0=variant.f0 is not None,
        )  # fmt: skip
        kind = PgslmKind(unit_count, settings)
        about = _hash(str(settings), str(unit_count), kind.digest(kind.rows(taught)))
        started = time.process_time()
        found = pretrain_prosodic_lm(taught, held_out, unit_count, self.cache / f"lm-{about}", settings)
        bits = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.bits.items())
        said = f"{len(taught)} utterances, {sum(map(len, taught))} units; {bits}"
        tell(f"LM that reads {name_of(variant)}: {said}; {time.process_time() - started:.0f} CPU seconds")
        return PgslmUnitLM(found.model)


def tell(text: str) -> None:
    """Where the study stands, beside the table."""
    print(text, file=sys.stderr, flush=True)


def _no_lm() -> PgslmUnitLM:
    raise AssertionError("encoding asks for no LM")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def prepared(study: Study, row: Row) -> list[Corpus]:
    """A row's corpus with its labels and groups, with the splits of each fold."""
    corpus = study.corpus(row.source)
    utterances = tuple(replace(u, labels=row.labels(u), speaker=row.group(u)) for u in corpus.utterances)
    slots = {slot: tuple(sorted({u.labels[slot] for u in utterances})) for slot in row.slots}
    corpus = replace(corpus, utterances=utterances, slots=slots)
    return [corpus] if row.published_split else [with_fold(corpus, fold) for fold in folds(corpus, row.folds)]


def training_options(study: Study, train_count: int) -> list[TrainingOptions]:
    """One set of options a seed; a small corpus is heard `--epochs` times at most."""
    options = study.options
    steps = min(options.steps, options.epochs * -(-train_count // 32))
    changes = {
        "steps": steps, "evaluations": 5, "patience": 3, "prompt_length": options.prompt_length,
        "label_smoothing": 0.1, "prompt_dropout": 0.1, "unit_masking": 0.1, "streams": options.streams,
    }  # fmt: skip
    return [TrainingOptions.of_recipe("default", {**changes, "seed": s}) for s in range(options.seeds)]


def cell(study: Study, row: Row, corpus: Corpus, variant: Variant) -> dict[str, object]:
    """What the prompts of one fold and variant do: `right` (Answers), `valid` accuracies, CPU seconds; cached."""
    lm = study.lm(variant, corpus.tokenizer == study.tokenizer.name)
    task = Task.of_corpus(corpus, row.slots)
    parts = {
        split: Examples.of(
            task, [replace(u, units=heard(u.units, variant)) for u in corpus.split(split) if u.units]
        )
        for split in ("train", "valid", "test")
    }
    jobs = training_options(study, len(parts["train"]))
    rows = [
        f"{split} {i} {target.tolist()} {_streams(units)}"
        for split, part in parts.items()
        for i, units, target in zip(part.ids, part.units, part.targets, strict=True)
    ]
    about = _hash(lm.fingerprint, str(task), *(job.model_dump_json() for job in jobs), *rows)
    path = study.cache / f"cell-{about}.json"
    if path.is_file():
        found: dict[str, object] = json.loads(path.read_text())
        return found
    started = time.process_time()
    train, valid, test = parts["train"], parts["valid"], parts["test"]
    runs = [
        Run(f"seed {i}", new_entry(task, lm, job, train.units, train.targets), job, train, valid)
        for i, job in enumerate(jobs)
    ]
    train_runs(lm, runs)
    hits = []
    for run in runs:
        scores = scores_of(lm, run.entry, test)
        hits.append(torch.stack([scores[slot].argmax(1) for slot in row.slots], 1) == test.targets)
    right = {
        slot: {i: [bool(hit[n, s]) for hit in hits] for n, i in enumerate(test.ids)}
        for s, slot in enumerate(row.slots)
    }
    found = {
        "right": right,
        "valid": [run.progress.best_accuracy for run in runs],
        "best_steps": [run.progress.best_step for run in runs],
        "parameters": runs[0].entry.trained_parameters(),
        "seconds": round(time.process_time() - started, 1),
    }
    path.write_text(json.dumps(found))
    return found


def _streams(units: Units) -> str:
    whole = b"".join(b"-" if s is None else s.tobytes() for s in (units.ids, units.durations, units.f0))
    return hashlib.sha256(whole).hexdigest()


def ngram(row: Row, corpus: Corpus, variant: Variant) -> Answers:
    """What an SVM on n-grams of all that a variant hears gets right on a fold's test clips."""
    train, test = corpus.split("train"), corpus.split("test")
    sequences = [[spelled(u.units, variant) for u in part if u.units is not None] for part in (train, test)]
    found = {}
    for slot in row.slots:
        baseline = NgramBaseline().fit(sequences[0], [u.labels[slot] for u in train])
        answers = baseline.predict(sequences[1]).predictions
        found[slot] = {u.id: [u.labels[slot] == answer] for u, answer in zip(test, answers, strict=True)}
    return found


def spelled(units: Units, variant: Variant) -> list[int]:
    """Unit ids, then durations in frames, then F0 in eighths of an octave, each stream in numbers of its own."""
    streams, heard_units = [units.ids], heard(units, variant)
    if variant.durations and heard_units.durations is not None:
        streams.append(10_000 + np.minimum(heard_units.durations, 99))
    if heard_units.f0 is not None:
        eighths = np.round(heard_units.f0 / (np.log(2) / 8)).astype(np.int64)
        streams.append(20_000 + np.where(heard_units.f0 == 0, 500, eighths))
    return [int(one) for stream in streams for one in stream]


def report(study: Study, name: str) -> list[dict[str, object]]:
    """Train the cells of a row and print a line a slot and variant; the same as numbers."""
    row, rounds = ROWS[name], prepared(study, ROWS[name])
    ours = rounds[0].tokenizer == study.tokenizer.name
    variants = {
        label: variant
        for label, variant in VARIANTS.items()
        if (ours or variant.f0 is None) and (row.separator or variant.separator == "last")
        if label == "units" or label in study.options.variants.split(",")
    }
    right: dict[str, dict[str, dict[str, Sequence[bool]]]] = {}
    for label, variant in variants.items():
        cells = [cell(study, row, part, variant) for part in rounds]
        valid = np.mean([cell["valid"] for cell in cells], 0)
        seconds = sum(float(str(cell["seconds"])) for cell in cells)
        best = sorted(step for cell in cells for step in cell["best_steps"])  # type: ignore[attr-defined]
        tell(
            f"{name}: {label}: validation {valid.mean():.3f} ({', '.join(f'{v:.3f}' for v in valid)}), best step "
            f"{best[len(best) // 2]}, {cells[0]['parameters']} trained, {seconds:.0f} CPU seconds"
        )
        right[label] = _merged([cell["right"] for cell in cells], row)  # type: ignore[misc]
    if study.options.valid_only:
        return []
    for label, variant in variants.items():
        if variant.separator == "last":
            name_there = NGRAM if label == "units" else f"{NGRAM}, {label}"
            right[name_there] = _merged([ngram(row, part, variant) for part in rounds], row)
    speaker_of = {u.id: u.speaker for u in rounds[0].utterances}
    return [_line(name, slot, label, right, speaker_of) for slot in right["units"] for label in right]


def _merged(parts: Sequence[Answers], row: Row) -> dict[str, dict[str, Sequence[bool]]]:
    """The folds' answers together, and where a row asks for it those that are right in every slot."""
    found: dict[str, dict[str, Sequence[bool]]] = {s: {} for s in row.slots}
    for part in parts:
        for slot, answers in part.items():
            found[slot].update(answers)
    if row.whole:
        ids = found[row.slots[0]]
        found[WHOLE] = {
            i: [all(hits) for hits in zip(*(found[s][i] for s in row.slots), strict=True)] for i in ids
        }
    return found


def _line(
    name: str,
    slot: str,
    label: str,
    right: Mapping[str, Answers],
    speaker_of: Mapping[str, str | None],
) -> dict[str, object]:
    ids = sorted(right["units"][slot])
    speakers = [speaker_of[i] for i in ids]
    groups = [str(s) for s in speakers] if all(speakers) else None
    tables = {one: np.array([right[one][slot][i] for i in ids]).T for one in (label, "units", NGRAM)}
    score = accuracy_interval(tables[label], groups)
    others = [NGRAM] if label.startswith(NGRAM) else ["units", NGRAM]
    if (last := label.removesuffix(" start")) != label:
        others.append(last)
        tables[last] = np.array([right[last][slot][i] for i in ids]).T
    gains = {one: gain(tables[label], tables[one], groups) for one in others if label != one}
    if last != label:
        tell(f"{name} {slot}: {label} minus last: {_text(gains[last])}")
    shown = [_text(gains[one]) if one in gains else "" for one in ("units", NGRAM)]
    print(
        f"| {name} {slot} | {len(ids)} | {label} | {_text(score, '.3f')} | {shown[0]} | {shown[1]} |",
        flush=True,
    )
    return {
        "row": name, "slot": slot, "reads": label, "clips": len(ids),
        "accuracy": [score.estimate, score.low, score.high],
        "gains": {one: [found.estimate, found.low, found.high] for one, found in gains.items()},
    }  # fmt: skip


def gain(ours: np.ndarray, theirs: np.ndarray, groups: Sequence[str] | None) -> Interval:
    """The paired difference of tables (seeds, clips); the SVM's single run stands against every seed."""
    theirs = np.broadcast_to(theirs, ours.shape) if len(theirs) == 1 else theirs
    return paired_difference_interval(ours, theirs, groups)


def _text(found: Interval, form: str = "+.3f") -> str:
    """An interval, in bold when it is a difference that excludes zero."""
    bold = "**" if form.startswith("+") and found.excludes_zero else ""
    return f"{bold}{found.estimate:{form}} [{found.low:{form}}, {found.high:{form}}]{bold}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of unpacked corpora")
    parser.add_argument("--units", help="folder of unit corpora; needed for the row esd")
    parser.add_argument("--rows", default=",".join(ROWS), help="any of " + ", ".join(ROWS))
    parser.add_argument(
        "--variants", default=",".join(VARIANTS), help="beside units, any of " + ", ".join(VARIANTS)
    )
    parser.add_argument("--tokenizer", default="tiny", help="name or folder; its content units are read")
    parser.add_argument("--material", nargs="+", required=True, help="audio to pretrain on, training rows")
    parser.add_argument("--unit-material", default="ljspeech_hubert100.jsonl.gz")
    parser.add_argument("--cache", default=".prosody-ablation")
    for option, default in (
        ("seeds", 3), ("steps", 200), ("epochs", 30), ("prompt-length", 10), ("layers", 2), ("width", 128),
        ("pretraining-steps", 400), ("threads", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--streams", choices=("state", "units", "all"), default="state")
    parser.add_argument("--valid-only", action="store_true", help="show validation, no test clip")
    parser.add_argument("--json", type=Path, help="also write the lines here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = Study(options)
    if not options.valid_only:
        print(
            "| task and slot | clips | the LM reads | accuracy [95 %] | minus units only | minus n-gram SVM |"
        )
        print("|---|---|---|---|---|---|")
    lines = [line for name in options.rows.split(",") for line in report(study, name)]
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "lines": lines}, indent=1, default=str))


if __name__ == "__main__":
    main()
