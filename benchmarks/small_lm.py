"""A prompt's training step and prediction on small frozen LMs: our own passes beside the plain form and the bound.

    python benchmarks/small_lm.py [--repeats 6] [--cases small-commands,...] [--seeds] [--dtype float32] [--json]

The cases that `speechprompt bench` has no room for, with its clock, bound and tables. Random weights and units, batches
of 32 utterances of like length, P as the default recipe takes it, one thread. The plain form is the LM's modules under
torch's own gradients, in turns with ours on the same batch; how far their answers differ is measured too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from unittest.mock import patch

import torch
from rich.console import Console

from speechprompt.benchmarking import report as form
from speechprompt.benchmarking.bank_stages import SEEDS, joint_case
from speechprompt.benchmarking.case import OURS, Case, Figure
from speechprompt.benchmarking.clock import Form
from speechprompt.benchmarking.material import (
    FLUENT,
    SMALL_SIZE,
    SPEECH_COMMANDS,
    TINY,
    Lengths,
    dtype_of,
    fresh_run,
    random_lm,
    sizes_of,
    utterances,
    weight_bytes,
)
from speechprompt.benchmarking.products import DecoderSizes, prediction_products, training_products
from speechprompt.benchmarking.suite import measured
from speechprompt.cli.terminal import table
from speechprompt.lms import decoder_units
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.bank import FoldedPrompt
from speechprompt.prompting.predictor import window_scores
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Run
from speechprompt.prompting.training import train_step
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.units import Units

BATCH, BATCHES = 32, 40
SMALL, BASE = DecoderSizes(6, 256, 4, 1024, 104), DecoderSizes(4, 1024, 16, 4096, 104)
"""`hubert100-small`, and GSLM with a third of its layers."""
CASES = {
    "small-commands": (SMALL, SPEECH_COMMANDS),
    "small-fluent": (SMALL, FLUENT),
    "tiny-1s": (SMALL_SIZE, TINY),
    "tiny-4s": (SMALL_SIZE, Lengths("four-second clips", 170.0, 15.0, 8)),
    "base-commands": (BASE, SPEECH_COMMANDS),
}
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Measure and print the tables of `speechprompt bench`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", action="store_true", help="eight seeds jointly, too, at batch 32 and 4")
    parser.add_argument("--dtype", choices=DTYPES, default="auto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lms = {name: random_lm(CASES[name][0], "cpu", DTYPES[given.dtype]) for name in given.cases.split(",")}
    found = measured(
        (case for name, lm in lms.items() for case in cases(name, lm, given.seeds)), given.repeats
    )
    if given.json:
        print(json.dumps(found.to_json(), indent=1))
        return
    print(form.sentence(found))
    for headings, cells in form.tables(found):
        Console(width=200).print(table(headings, cells))


def cases(name: str, lm: GslmUnitLM, seeds: bool = False) -> Iterator[Case | Figure]:
    """A step and a prediction in both forms, how far their answers differ, and with `seeds` eight prompts jointly."""
    lengths = CASES[name][1]
    units = utterances(lengths, BATCH * BATCHES, lm.unit_count)
    batches = length_buckets([len(row) for row in units], BATCH)
    batch = [units[i] for i in batches[len(batches) // 2]]
    run = fresh_run(lm, batch, lengths.labels, TrainingOptions(batch_size=BATCH))
    prompt, about = run.entry.fold(lm), (sizes_of(lm), [len(row) for row in batch])
    needs = (run.entry.prompt.length, lengths.labels)
    title = f"{name}, {lm.layers}x{lm.width}, {round(lengths.mean)} units, batch {BATCH}"
    stages = (
        ("train", _step(lm, run), training_products(*about, *needs), 2),
        ("predict", _prediction(lm, prompt, batch), prediction_products(*about, *needs), 1),
    )
    for stage, ours, products, passes in stages:
        forms = {OURS: ours, "plain": plainly(ours)}
        moved = passes * weight_bytes(lm)
        yield Case(stage, title, "utterances", forms, products, moved, dtype_of(lm))
    fast, plain = (window_scores_of(each) for each in (stages[1][1], plainly(stages[1][1])))
    yield Figure(
        "predict", f"{name}, log-probabilities differ by at most", float((fast - plain).abs().max()), ""
    )
    if seeds:
        for size in (BATCH, 4):
            yield joint_case(lm, name, lengths, size, SEEDS)


def plainly(form: Form) -> Form:
    """The same work without the frozen LM's own passes."""

    def run() -> object:
        with patch.object(decoder_units, "runs_frozen", lambda decoder: False):
            return form.run()

    return Form(run, form.amount)


def window_scores_of(form: Form) -> torch.Tensor:
    """The log-probabilities (B,C) that a prediction gives."""
    found = form.run()
    assert isinstance(found, list)
    return torch.stack([scores.slots["label"] for scores in found])


def _step(lm: GslmUnitLM, run: Run) -> Form:
    return Form(lambda: train_step(lm, [run]), len(run.train.units))


def _prediction(lm: GslmUnitLM, prompt: FoldedPrompt, batch: list[Units]) -> Form:
    return Form(lambda: window_scores(lm, [(prompt, row) for row in batch]), len(batch))


if __name__ == "__main__":
    main()
