"""A prompt's training step on small frozen LMs: our backward pass, the plain form, the matmul bound.

    python benchmarks/small_lm.py [--repeats 6] [--cases small-commands,...]

Random weights and units, batch 32, one thread, CPU seconds; both forms take turns on the same batches. The bound is the
matrix products of all layers but the last (and the last one's keys and values), each timed at its own shape into
memory that is there already. `eight seeds` trains eight prompts jointly and one after another.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch

from speechprompt.lms import decoder_units, frozen
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

SMALL, TINY, BASE = (6, 256, 4, 1024, 104), (4, 192, 3, 640, 696), (4, 1024, 16, 4096, 104)
"""Layers, width, heads, inner width, vocabulary; BASE is GSLM with a third of its layers."""
CASES = {
    "small-commands": (SMALL, 20, 4),
    "small-fluent": (SMALL, 73, 20),
    "tiny-1s": (TINY, 40, 6),
    "tiny-4s": (TINY, 170, 15),
    "base-commands": (BASE, 20, 4),
}
"""Sizes of the LM, mean and standard deviation of units an utterance."""


def main() -> None:
    """Measure every case and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", action="store_true", help="eight seeds jointly, too, at batch 32 and 4")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.cases.split(","):
        lm, runs = setting(name, 8 if arguments.seeds else 1)
        measure(name, lm, runs[0], arguments.repeats)
        if arguments.seeds:
            for size in (32, 4):
                jointly(name, *setting(name, 8, size), size, arguments.repeats)


def setting(name: str, seeds: int, batch: int = 32) -> tuple[GslmUnitLM, list[Run]]:
    """An LM in bf16 and runs of so many seeds on random units."""
    (layers, width, heads, inner, vocabulary), mean, deviation = CASES[name]
    torch.manual_seed(0)
    config = GslmConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    lm = GslmUnitLM(GslmForCausalLM(config)).to(dtype=torch.bfloat16)
    random = np.random.default_rng(0)
    lengths = np.clip(random.normal(mean, deviation, 1280), 3, None).astype(int)
    units = [Units(random.integers(0, 100, n)) for n in lengths]
    task = Task(name, {"label": tuple(f"label{i}" for i in range(12))})
    examples = Examples(units, torch.arange(len(units))[:, None] % 12)
    runs = []
    for seed in range(seeds):
        options = TrainingOptions(seed=seed, batch_size=batch)
        entry = new_entry(task, lm, options, examples.units, examples.targets)
        runs.append(Run(str(seed), entry, options, examples, examples))
    return lm, runs


def measure(name: str, lm: GslmUnitLM, run: Run, repeats: int) -> None:
    """Step and prediction in both forms, in turns, beside the bound."""
    batch = collate(run.train.units[:32])
    bank, rows = Bank([run.entry]).fold(lm), torch.zeros(32, dtype=torch.int64)

    def predict() -> None:
        with torch.inference_mode():
            classify(lm, bank, batch, rows)

    found: dict[str, list[float]] = {key: [] for key in ("step", "plain step", "predict", "plain predict")}
    for place in range(repeats + 1):
        for prefix, by_hand in (("", frozen.runs_frozen), ("plain ", lambda decoder: False)):
            with patch.object(decoder_units, "runs_frozen", by_hand):
                run.progress.place = place
                found[prefix + "step"].append(seconds(lambda: train_step(lm, [run])))
                found[prefix + "predict"].append(seconds(predict))
    ours = {key: statistics.median(times[1:]) * 1000 for key, times in found.items()}
    limit = bound(lm, int(np.mean([len(row) + 2 for row in run.train.units]) * 32)) * 1000
    print(
        f"{name:16s} step {ours['plain step']:7.1f} -> {ours['step']:7.1f} ms, bound {limit:7.1f}, "
        f"fraction {limit / ours['plain step']:.3f} -> {limit / ours['step']:.3f}; "
        f"predict {ours['plain predict']:6.1f} -> {ours['predict']:6.1f} ms",
        flush=True,
    )


def jointly(name: str, lm: GslmUnitLM, runs: list[Run], size: int, repeats: int) -> None:
    """All runs in one step against a step each."""
    joint, apart = [], []
    for _ in range(repeats + 1):
        joint.append(seconds(lambda: train_step(lm, runs)))
        apart.append(seconds(lambda: [train_step(lm, [run]) for run in runs]))
    together, alone = statistics.median(joint[1:]), statistics.median(apart[1:])
    print(
        f"{name:16s} batch {size}: {len(runs)} seeds jointly {together * 1000:.1f} ms, "
        f"one after another {alone * 1000:.1f} ({alone / together:.2f} x)",
        flush=True,
    )


def bound(lm: GslmUnitLM, rows: int) -> float:
    """Seconds of the matrix products of a step."""
    width, inner = lm.width, lm.model.config.intermediate_size

    def product(left: int, right: int) -> float:
        x, w = torch.randn(rows, left).to(lm.dtype), torch.randn(left, right).to(lm.dtype)
        out = torch.empty(rows, right, dtype=lm.dtype)
        return statistics.median(seconds(lambda: torch.mm(x, w, out=out)) for _ in range(30))

    layer = 4 * product(width, width) + product(width, inner) + product(inner, width)
    return 2 * ((lm.layers - 1) * layer + 2 * product(width, width))


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
