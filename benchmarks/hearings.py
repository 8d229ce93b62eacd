"""What more prompts and more hearings bring to a row of the table of results, on clips that no test scores.

    python benchmarks/hearings.py recipes/table.toml --material DATA --row digits --members 8 --copies 4 --out FOLDER

Test rows are dropped. The i-th clip of each speaker and label is held out in fold i mod K, a tenth of the other clips
validates, and the row's prompts train on the rest as they do in `table` without `rotate_validation`. Prints the share
of all held-out clips that the first so many prompts answer rightly together, heard once and over copies at other
speeds, what fewer prompts lose, and the n-gram SVM over the same copies. FOLDER keeps the scores of each fold.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt import Corpus, SpokenLM
from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.evaluation.baselines import NgramBaseline
from speechprompt.evaluation.evaluate import with_answer_copies
from speechprompt.experiments.methods import prompt_run
from speechprompt.experiments.table_options import training_options
from speechprompt.experiments.table_rounds import find_source, read_row
from speechprompt.experiments.table_rows import read_declaration
from speechprompt.metrics import paired_difference_interval
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.members import MEMBER_SEEDS
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_runs
from speechprompt.prompting.trust import temperatures_of
from speechprompt.speech.hearings import hearings_of
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.speech.splits import draw_splits

SPLITS = ("valid", "test")


def with_held_out(corpus: Corpus, fold: int, folds: int) -> Corpus:
    """The corpus without its test rows; the held-out clips of a fold are its test, speakers are forgotten."""
    seen: Counter[tuple[Any, ...]] = Counter()
    rows = []
    for u in corpus.utterances:
        if u.split == "test":
            continue
        group = (u.speaker, *u.labels.values())
        split = "test" if seen[group] % folds == fold else "train"
        seen[group] += 1
        rows.append(replace(u, split=split, speaker=None))
    drawn = {u.id: u.split for u in draw_splits([u for u in rows if u.split == "train"], 0, ("valid",))[0]}
    return replace(corpus, utterances=tuple(replace(u, split=drawn.get(u.id, u.split)) for u in rows))


def fold_scores(
    corpus: Corpus, lm: SpokenLM, values: dict[str, Any], members: int, copies: int
) -> dict[str, Any]:
    """Scores (members, hearings, n, C) of prompts and (hearings, n, C) of the n-gram SVM, and targets (n)."""
    options = training_options(values, 0).options
    corpus = with_speed_copies(encode_corpus(corpus, lm).corpus, lm, [options.copying]).corpus
    for split in SPLITS:
        corpus = with_answer_copies(corpus, lm, split, copies)
    task = Task.of_corpus(corpus)
    [slot] = task.slots
    train = Examples.to_train(task, corpus.split("train"), options)
    valid = Examples.of(task, corpus.split("valid"))
    started = [
        prompt_run(lm.lm, task, options.model_copy(update={"seed": MEMBER_SEEDS * m}), train, valid)
        for m in range(members)
    ]
    frozen, runs = started[0][0], [run for _, run in started]
    train_runs(frozen, runs, lambda event: None, None)
    found: dict[str, Any] = {"targets": {}, "prompts": {}, "n-gram": {}}
    baseline = NgramBaseline().fit([row.ids.tolist() for row in train.units], train.targets[:, 0].tolist())
    order = np.argsort([int(label) for label in baseline.predict([train.units[0].ids.tolist()]).labels])
    for split in SPLITS:
        heard = [Examples.of(task, rows) for rows in hearings_of(corpus.split(split), copies)]
        found["targets"][split] = heard[0].targets[:, 0]
        found["prompts"][split] = torch.stack(
            [torch.stack([scores_of(frozen, run.entry, one)[slot] for one in heard]) for run in runs]
        )
        answers = [baseline.predict([row.ids.tolist() for row in one.units]) for one in heard]
        found["n-gram"][split] = torch.from_numpy(np.array([a.scores for a in answers])[:, :, order])
    return found


def together(fold: dict[str, Any], members: int, heard: list[int]) -> Tensor:
    """Which held-out clips (n) the first members answer rightly over some hearings, calibrated as in `table`."""
    scores = []
    for member in range(members):
        told, asked = (fold["prompts"][split][member, heard].mean(0).log_softmax(1) for split in SPLITS)
        calibration = Calibration(temperatures_of({"": told}, fold["targets"]["valid"][:, None]))
        scores.append(calibration.cooled("", asked))
    return torch.stack(scores).mean(0).argmax(1) == fold["targets"]["test"]


def difference(one: np.ndarray, other: np.ndarray) -> str:
    """How many more clips of (n,) one way answers rightly, paired."""
    found = paired_difference_interval(one[None], other[None], None)
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def show(folds: list[dict[str, Any]], copies: int) -> None:
    """Print accuracies over all folds, and what the most copies and the most prompts gain over fewer."""
    members = len(folds[0]["prompts"]["test"])
    speeds = AnswerCopies(copies).speeds()
    hearings = {0: [0]} | {
        n: [0, *(1 + speeds.index(s) for s in AnswerCopies(n).speeds())]
        for n in range(2, copies + 1, 2)
        if set(AnswerCopies(n).speeds()) <= set(speeds)
    }
    clips = sum(len(fold["targets"]["test"]) for fold in folds)
    print(f"{clips} clips of {len(folds)} folds; copies {', '.join(map(str, hearings))}")
    right = {}
    for m in range(1, members + 1):
        for n, heard in hearings.items():
            right[m, n] = torch.cat([together(fold, m, heard) for fold in folds]).numpy()
    best = right[members, max(hearings)]
    for m in range(1, members + 1):
        own = right[m, max(hearings)]
        lost = [difference(own, right[m, n]) for n in hearings][:-1]
        shown = "  ".join(f"{right[m, n].mean():.4f}" for n in hearings)
        print(f"{m} prompts  {shown}   the last less the others: {', '.join(lost)}")
        print(f"           {members} prompts less {m} over the most copies: {difference(best, own)}")
    parts = []
    for heard in hearings.values():
        parts.append(
            torch.cat([f["n-gram"]["test"][heard].mean(0).argmax(1) == f["targets"]["test"] for f in folds])
        )
    print(f"n-gram     {'  '.join(f'{float(part.float().mean()):.4f}' for part in parts)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("declaration", type=Path)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--row", required=True, help="a row of audio with one slot")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    declaration = read_declaration(given.declaration)
    [row] = declaration.chosen([given.row])
    lm = SpokenLM.load(row.lms[0], "cpu", given.dtype)
    # splits as published: `valid = "utterances"` would draw from the clips that are held out
    given_splits = row.model_copy(update={"valid": "given", "folds": None})
    corpus = read_row(given_splits, find_source(row, given.material, given.out))
    found = []
    for fold in range(given.folds):
        path = given.out / f"{row.name}-{given.dtype}-{given.members}-{given.copies}-{fold}.pt"
        if not path.is_file():
            scores = fold_scores(
                with_held_out(corpus, fold, given.folds),
                lm,
                declaration.options(row, "prompt"),
                given.members,
                given.copies,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(scores, path)
        found.append(torch.load(path, weights_only=True))
        show(found, given.copies)


if __name__ == "__main__":
    main()
