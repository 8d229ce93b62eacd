"""Where prosody helps: units only, with durations, with durations and F0, at one size and one budget.

    python benchmarks/prosody_ablation.py --data FOLDER --rows ravdess-emotion,ravdess-gender [--seeds 3] [--steps 200]

FOLDER holds the unpacked corpora of the shared data (`unpack.py NAME --out FOLDER`) and, for ESD, the file
`esd_en_hubert100.jsonl.gz`. Three LMs of one size are pretrained on the same units with the same seed; they differ in
which streams they read and predict. A prompt is then trained on each for every fold and seed. Each fold is tested
once, so all clips are; intervals are over seeds and, where known, speakers. LMs, units and cells are kept in `--cache`
and found again, so a stopped study goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from speechprompt.encoding import encode_corpus
from speechprompt.lms.pgslm_units import PgslmUnitLM
from speechprompt.metrics import accuracy_interval, paired_difference_interval
from speechprompt.pretraining.prosodic_lm import pretrain_prosodic_lm
from speechprompt.pretraining.unit_lm_options import ProsodicLmOptions
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.train import scores_of, train
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.splits import Fold, folds, with_fold
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.spoken_lm_folder import write_folder, write_prosody_tokenizer
from speechprompt.tokenizers.pitch import BatchPitchTracker
from speechprompt.tokenizers.prosody import ProsodyTokenizer

VARIANTS = {
    "units": {"reads_duration": False, "reads_f0": False},
    "durations": {"reads_duration": True, "reads_f0": False},
    "durations+f0": {"reads_duration": True, "reads_f0": True},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: where its clips are, the slots asked at once, and what stays whole between folds."""

    source: str
    slots: tuple[str, ...]
    group: Callable[[Utterance], str | None] = lambda u: u.speaker
    labels: Callable[[Utterance], dict[str, str]] = lambda u: dict(u.labels)
    folds: int = 4
    published_split: bool = False


def _take(utterance: Utterance) -> str:
    return f"take {utterance.extra['take']}"


ROWS = {
    "ravdess": Row("ravdess4", ("emotion", "gender")),
    "esd": Row("esd_en_hubert100.jsonl.gz", ("emotion",), folds=5),
    "barista": Row("barista_intent", ("coffeeDrink", "size", "roast", "numberOfShots"), folds=5),
    "fsdd-speaker": Row("fsdd", ("speaker",), _take, lambda u: {"speaker": str(u.speaker)}),
    "fsdd-digit": Row("fsdd", ("digit",), folds=3),
    "arabic": Row("arabic_speech_commands", ("command",), published_split=True),
}


class Study:
    """The caches, the tokenizer and the LMs of one set of options."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.cache = options, Path(options.cache)
        self.cache.mkdir(parents=True, exist_ok=True)
        bare = SpokenLM.load(options.lm).tokenizer
        self.tokenizer = ProsodyTokenizer(bare, BatchPitchTracker())
        self._lms: dict[tuple[str, bool], SpokenLM] = {}

    def corpus(self, source: str) -> Corpus:
        """A corpus whose utterances carry units; audio is encoded once and kept in the unit store."""
        corpus = Corpus.read(Path(self.options.data) / source)
        if corpus.tokenizer is None:
            encoder = SpokenLM("ablation", lambda: self.tokenizer, lambda: None, self.tokenizer.name)  # type: ignore[arg-type,return-value]
            corpus = encode_corpus(corpus, encoder).corpus
        return corpus

    def lm(self, variant: str, published_units: bool) -> SpokenLM:
        """The LM of a variant over our own units, or over HuBERT's where the corpus comes as units without F0."""
        key = (variant, published_units)
        if key not in self._lms:
            options = self.options
            material = options.unit_material if published_units else options.material
            unit_count = 100 if published_units else self.tokenizer.unit_count
            units = _kept(
                [u for source in material for u in self._train(source)], options.pretraining_utterances
            )
            settings = ProsodicLmOptions(
                layers=options.layers, width=options.width, heads=4, inner=2 * options.width,
                steps=options.pretraining_steps, batch_units=2048, warmup_steps=30, bf16=False, seed=0,
                **VARIANTS[variant],
            )  # fmt: skip
            about = json.dumps([str(settings), material, len(units), self.tokenizer.fingerprint])
            folder = self.cache / f"lm-{variant}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
            held_out = max(1, len(units) // 50)
            found = pretrain_prosodic_lm(units[held_out:], units[:held_out], unit_count, folder, settings)
            bits = ", ".join(f"{name} {value:.3f}" for name, value in found.bits.items())
            print(
                f"# LM {variant}: {len(units)} utterances, {sum(map(len, units))} units; {bits}", flush=True
            )
            lm = PgslmUnitLM(found.model)
            name = "hubert-base-l6-km100" if published_units else self.tokenizer.name
            self._lms[key] = SpokenLM(f"prosodic-{variant}@1", lambda: self.tokenizer, lambda: lm, name)
        return self._lms[key]

    def _train(self, source: str) -> list[Units]:
        rows = self.corpus(source).utterances
        return [u.units for u in rows if u.units is not None and u.split not in ("valid", "test")]

    def cell(
        self, name: str, corpus: Corpus, variant: str, fold: int, seed: int
    ) -> dict[str, dict[str, bool]]:
        """Which test clips of a fold a prompt gets right, by slot; from the cache where it is there."""
        row, options = ROWS[name], self.options
        spoken_lm = self.lm(variant, corpus.tokenizer != self.tokenizer.name)
        training = TrainingOptions(
            steps=options.steps,
            evaluations=4,
            seed=seed,
            prompt_length=options.prompt_length,
            streams=options.streams,
        )
        about = [
            name,
            corpus.name,
            fold,
            len(corpus.utterances),
            spoken_lm.lm.fingerprint,
            training.model_dump_json(),
        ]
        path = self.cache / f"cell-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.json"
        if path.is_file():
            return json.loads(path.read_text())
        entry = train(corpus, spoken_lm, row.slots, training).entry
        test = Examples.of(Task.of_corpus(corpus, row.slots), corpus.split("test"))
        scores = scores_of(spoken_lm.lm, entry, test)
        right = {
            slot: dict(zip(test.ids, (scores[slot].argmax(1) == test.targets[:, s]).tolist(), strict=True))
            for s, slot in enumerate(row.slots)
        }
        path.write_text(json.dumps(right))
        return right


def _kept(units: list[Units], count: int) -> list[Units]:
    """A fixed random subset, in random order."""
    order = np.random.default_rng(0).permutation(len(units))
    return [units[i] for i in order[:count]]


def prepared(study: Study, row: Row) -> tuple[Corpus, list[Corpus]]:
    """A row's corpus with its labels and groups, and the same with the splits of each fold."""
    corpus = study.corpus(row.source)
    utterances = tuple(replace(u, labels=row.labels(u), speaker=row.group(u)) for u in corpus.utterances)
    slots = {slot: tuple(sorted({u.labels[slot] for u in utterances})) for slot in row.slots}
    corpus = replace(corpus, utterances=utterances, slots=slots)
    if row.published_split:
        return corpus, [corpus]
    rounds: Sequence[Fold] = folds(corpus, row.folds)
    return corpus, [with_fold(corpus, fold) for fold in rounds]


def report(study: Study, name: str) -> None:
    """Train the cells of a row and print a line a slot and variant."""
    row = ROWS[name]
    corpus, rounds = prepared(study, row)
    speaker_of = {u.id: u.speaker for u in corpus.utterances}
    variants = [v for v in VARIANTS if v != "durations+f0" or corpus.tokenizer == study.tokenizer.name]
    right: dict[str, dict[str, list[dict[str, bool]]]] = {
        v: {slot: [] for slot in row.slots} for v in variants
    }
    for seed in range(study.options.seeds):
        for variant in variants:
            found: dict[str, dict[str, bool]] = {slot: {} for slot in row.slots}
            for fold, part in enumerate(rounds):
                for slot, answers in study.cell(name, part, variant, fold, seed).items():
                    found[slot].update(answers)
            for slot in row.slots:
                right[variant][slot].append(found[slot])
    for slot in row.slots:
        ids = sorted(right["units"][slot][0])
        speakers = [speaker_of[i] for i in ids]
        groups = [str(s) for s in speakers] if all(speakers) else None
        tables = {v: np.array([[run[i] for i in ids] for run in right[v][slot]]) for v in variants}
        for variant, table in tables.items():
            score = accuracy_interval(table, groups)
            gain = paired_difference_interval(table, tables["units"], groups)
            print(
                f"| {name} {slot} | {len(ids)} | {variant} | {score.estimate:.3f} [{score.low:.3f}, {score.high:.3f}] "
                f"| {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] |",
                flush=True,
            )


def save(study: Study, folder: Path) -> None:
    """Write the LM that reads all streams, with its tokenizer, as a folder that `--lm` takes."""
    source = SpokenLM.load(study.options.lm).folder
    assert source is not None, "only a tokenizer in a folder can be saved with the LM"
    lm = study.lm("durations+f0", published_units=False).lm
    assert isinstance(lm, PgslmUnitLM)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = write_prosody_tokenizer(Path(scratch) / "tokenizer", source / "tokenizer")
        write_folder(folder, lm.model, folder.name, study.tokenizer.name, tokenizer_folder=tokenizer)
    print(f"# saved {folder}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", default=",".join(ROWS), help="any of " + ", ".join(ROWS))
    parser.add_argument("--cache", default=".prosody-ablation")
    parser.add_argument("--lm", default="tiny", help="whose tokenizer makes the units")
    parser.add_argument("--material", nargs="*", default=["speech_commands_3", "barista_intent", "fsdd"])
    parser.add_argument("--unit-material", nargs="*", default=["ljspeech_hubert100.jsonl.gz"])
    for option, default in (
        ("seeds", 3), ("steps", 200), ("prompt-length", 10), ("layers", 2), ("width", 128),
        ("pretraining-steps", 300), ("pretraining-utterances", 3000), ("threads", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--save", type=Path, help="also write the LM of all streams as a spoken-LM folder")
    parser.add_argument("--streams", choices=("units", "all"), default="units")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = Study(options)
    if options.save:
        save(study, options.save)
    print(
        "| task and slot | clips | LM reads | accuracy [95 %] | against units only |\n|---|---|---|---|---|"
    )
    for name in options.rows.split(","):
        report(study, name)


if __name__ == "__main__":
    main()
