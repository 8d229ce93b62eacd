"""Training and prediction of a true-size GSLM (12 x 1024, random weights): our form, the naive form, the bound.

    python benchmarks/throughput.py [--repeats 3] [--layers 12] [--json FILE]

One process, one thread. Lengths are those of Speech Commands (about 20 units) and Fluent Speech Commands (about
60). The naive form is the reference's: prompt rows inserted and overwritten, every position through every layer
and the output matrix, fp32; it predicts utterance by utterance. The bound is the operations of the rows that
must be computed, by formula, over the matmul rate measured in the same run at the same number of rows.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from naive import NaivePromptedGslm

from speechprompt.lms.batch import collate
from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_step
from speechprompt.speech.units import Units

BATCH = 32
CORPORA = {"Speech Commands": (19.0, 4.0, 12), "Fluent Speech Commands": (74.0, 20.0, 31)}
"""Mean and standard deviation of units an utterance, and labels."""
MARGIN = 0.05


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = GslmConfig(num_hidden_layers=arguments.layers)
    model = GslmForCausalLM(config)
    plain, fast = GslmUnitLM(model), GslmUnitLM(copy.deepcopy(model)).to(dtype=torch.bfloat16)
    report: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
        "layers": arguments.layers,
        "rows": [measure(name, plain, fast, arguments.repeats) for name in CORPORA],
    }
    for row in report["rows"]:
        print(f"\n{row['corpus']}: {row['units']:.1f} units an utterance")
        for key, value in row.items():
            if isinstance(value, float):
                print(f"  {key:46s} {value:10.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(name: str, plain: GslmUnitLM, fast: GslmUnitLM, repeats: int) -> dict[str, Any]:
    """All figures of one corpus; seconds are CPU seconds, medians of `repeats`."""
    mean, deviation, labels = CORPORA[name]
    units = utterances(mean, deviation, 40 * BATCH)
    task = Task(name, {"label": tuple(f"label{i}" for i in range(labels))})
    targets = torch.arange(len(units))[:, None] % labels
    examples = Examples(units, targets)
    options = TrainingOptions(batch_size=BATCH, prompt_length=5, method="before_projection")
    entry = new_entry(task, plain, options, units, targets)
    run = Run(name, copy.deepcopy(entry), options, examples, examples)
    batch_units = [units[i] for i in run.next_batch()]
    tokens = sum(len(row) + 2 for row in batch_units)
    naive = NaivePromptedGslm(plain.model, copy.deepcopy(entry))
    source = naive_source(units[:BATCH], plain)
    ours_step = cpu_seconds(lambda: train_step(fast, [run]), repeats)
    naive_step = cpu_seconds(
        lambda: naive_train_step(naive, source, targets[:BATCH, 0]), max(1, repeats // 2)
    )
    bank = Bank([copy.deepcopy(entry)]).fold(fast)
    ours_predict = cpu_seconds(lambda: ours_scores(fast, bank, batch_units), repeats) / BATCH
    single = [naive_source([row], plain) for row in units[:8]]
    naive_predict = cpu_seconds(lambda: [naive_scores(naive, one) for one in single], 1) / len(single)
    rate = matmul_rate(tokens, plain.width, torch.bfloat16)
    train_bound = operations(tokens, BATCH, plain, 2) / rate
    predict_bound = operations(tokens, BATCH, plain, 1) / rate / BATCH
    return {
        "corpus": name,
        "units": float(np.mean([len(row) for row in units])),
        "bf16 matmul GFLOP/s": rate / 1e9,
        "naive train step": naive_step,
        "our train step": ours_step,
        "train bound": train_bound,
        "train: fraction of the bound": train_bound / ours_step,
        "train: times faster than naive": naive_step / ours_step,
        "naive predict an utterance": naive_predict,
        "our predict an utterance": ours_predict,
        "predict bound": predict_bound,
        "predict: fraction of the bound": predict_bound / ours_predict,
        "predict: times faster than naive": naive_predict / ours_predict,
        **agreement(plain, fast, entry, units[:64]),
    }


def utterances(mean: float, deviation: float, count: int) -> list[Units]:
    """Random units with realistic lengths, the same in every run."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.normal(mean, deviation, count), 3, None).astype(int)
    return [Units(random.integers(0, 100, n)) for n in lengths]


def cpu_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of a piece of work, after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def naive_source(units: list[Units], lm: GslmUnitLM) -> torch.Tensor:
    """Rows `</s> u1..un <s>`, right-padded with 1."""
    rows = torch.full((len(units), max(map(len, units)) + 2), 1)
    for i, row in enumerate(units):
        ids = [2, *lm.lm_ids(torch.from_numpy(row.ids)).tolist(), 0]
        rows[i, : len(ids)] = torch.tensor(ids)
    return rows


def naive_train_step(naive: NaivePromptedGslm, source: torch.Tensor, targets: torch.Tensor) -> None:
    """One step in the naive form: logits everywhere, cross-entropy at the separator."""
    logits = naive(source)[source == 0]
    torch.nn.functional.cross_entropy(logits, targets).backward()


@torch.no_grad()
def naive_scores(naive: NaivePromptedGslm, source: torch.Tensor) -> torch.Tensor:
    """Scores of one utterance in the naive form."""
    return naive(source)[source == 0]


@torch.inference_mode()
def ours_scores(lm: GslmUnitLM, bank: Bank, units: list[Units]) -> torch.Tensor:
    """Scores of a batch in our form."""
    batch = collate(units)
    return classify(lm, bank, batch, torch.zeros_like(batch.lengths))[0].slots["label"]


def operations(tokens: int, rows: int, lm: GslmUnitLM, passes: int) -> float:
    """Floating-point operations of the matrix products that one batch needs.

    Every unit passes 12 D^2 weights a layer (two operations each); in the last layer only keys and values
    (2 D^2), and the separator row the rest (10 D^2). `passes` 2 adds the gradient to the activations; the
    frozen weights need none.
    """
    square = lm.width**2
    full = 12 * square * (lm.layers - 1) * tokens + 2 * square * tokens + 10 * square * rows
    return 2.0 * passes * (full + lm.width * lm.vocabulary_size * rows)


def matmul_rate(rows: int, width: int, dtype: torch.dtype) -> float:
    """Operations a second of a linear layer (rows, D) x (D, 4D)."""
    x, w = torch.randn(rows, width).to(dtype), torch.randn(4 * width, width).to(dtype)
    seconds = cpu_seconds(lambda: [torch.nn.functional.linear(x, w) for _ in range(20)], 5) / 20
    return 2.0 * rows * width * 4 * width / seconds


def agreement(plain: GslmUnitLM, fast: GslmUnitLM, entry: Any, units: list[Units]) -> dict[str, float]:
    """Share of equal predictions, fp32 against bf16, where the fp32 margin is over 0.05 nats."""
    scores = [ours_scores(lm, Bank([entry]).fold(lm), units) for lm in (plain, fast)]
    top = scores[0].topk(2, -1).values
    clear = (top[:, 0] - top[:, 1]) > MARGIN
    same = scores[0].argmax(-1) == scores[1].argmax(-1)
    return {
        "same predictions where clear": float(same[clear].float().mean()),
        "clear": float(clear.float().mean()),
    }


if __name__ == "__main__":
    main()
