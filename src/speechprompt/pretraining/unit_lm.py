"""Pretraining of a GSLM-shaped unit LM: next-unit prediction on the units of any corpus.

One utterance is one row, as GSLM was trained (`</s> u1..un` predicts `u1..un </s>`); rows of like length
share a batch, so that hardly a column is padding. Knows no tokenizer: units in, a `GslmForCausalLM` out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprompt.errors import TrainingError, UnitsError
from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM
from speechprompt.pretraining.batches import Batches, bucketed
from speechprompt.pretraining.optimisation import Schedule, optimise
from speechprompt.pretraining.run_folder import Progress, RunFolder
from speechprompt.pretraining.unit_lm_options import UnitLmOptions
from speechprompt.speech.units import Units

_END, _FIRST_UNIT = 2, 4  # LM ids of `</s>` and of unit 0
Row = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PretrainedUnitLm:
    """A trained LM and its held-out cost in bits per unit, ends of utterances counted as units."""

    model: GslmForCausalLM
    bits_per_unit: float


def pretrain_unit_lm(
    train: Sequence[Units],
    valid: Sequence[Units],
    unit_count: int,
    folder: str | Path,
    options: UnitLmOptions,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> PretrainedUnitLm:
    """Train from `folder`'s state, or from scratch, to the end of the schedule.

    Errors: TrainingError without training or held-out units, when `folder` holds another run, or on a loss
    that is not a number; UnitsError for a unit outside 0..unit_count-1.
    Side effects: `folder` gets options.json, log.jsonl and state.pt.
    """
    train_rows = lm_rows(train, unit_count, options.max_units)
    valid_rows = lm_rows(valid, unit_count, options.max_units)
    if not train_rows or not valid_rows:
        raise TrainingError(
            "a unit LM needs utterances to train on and others to hold out; one of them is empty"
        )
    material = hashlib.sha256(b"".join(hashlib.sha256(row.tobytes()).digest() for row in train_rows))
    described = {**asdict(options), "unit_count": unit_count, "material": material.hexdigest()}
    run = RunFolder(folder, described, progress)
    model = new_unit_lm(unit_count, options)
    torch.nn.Module.to(model, device)  # transformers' own `to` defies type checkers
    batches = Batches([len(row) + 1 for row in train_rows], options.batch_units, options.seed)

    def loss_at(step: int) -> Tensor:
        ids, labels = (tensor.to(device) for tensor in _tensors([train_rows[i] for i in batches.at(step)]))
        loss: Tensor = model(input_ids=ids, labels=labels).loss
        return loss

    def evaluate() -> dict[str, float]:
        return {"bits_per_unit": bits_per_unit(model, valid_rows, options.batch_units, options.bf16)}

    schedule = Schedule(
        options.steps,
        options.learning_rate,
        options.warmup_steps,
        options.weight_decay,
        save_every=options.save_every,
    )
    optimise(model, loss_at, evaluate, schedule, run, options.seed, options.bf16)
    model.train(False)
    return PretrainedUnitLm(model, bits_per_unit(model, valid_rows, options.batch_units, bf16=False))


def new_unit_lm(unit_count: int, options: UnitLmOptions) -> GslmForCausalLM:
    """An untrained LM over `unit_count` units; the same seed gives the same weights."""
    config = GslmConfig(
        vocab_size=unit_count + _FIRST_UNIT,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=options.inner,
        max_units=options.max_units,
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        return GslmForCausalLM(config)


@torch.no_grad()
def bits_per_unit(
    model: GslmForCausalLM, rows: Sequence[Row], batch_units: int = 8192, bf16: bool = False
) -> float:
    """Mean cost of the units (and the end) of rows of LM ids, in bits."""
    model.train(False)
    device = model.device
    nats, count = 0.0, 0
    for batch in bucketed([len(row) + 1 for row in rows], range(len(rows)), batch_units):
        ids, labels = (tensor.to(device) for tensor in _tensors([rows[i] for i in batch]))
        targets = int((labels[:, 1:] >= 0).sum())
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            nats += float(model(input_ids=ids, labels=labels).loss) * targets
        count += targets
    return nats / count / math.log(2)


def save_unit_lm(model: GslmForCausalLM, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write config.json and model.safetensors, weights rounded to `dtype`; `model` stays as it is."""
    state = {name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["output_projection.weight"]  # it is the embedding table
    model.save_pretrained(folder, state_dict=state)


def lm_rows(utterances: Sequence[Units], unit_count: int, max_units: int) -> list[Row]:
    """LM ids of utterances, cut to pieces of at most `max_units`; empty ones are left out."""
    rows = []
    for units in utterances:
        if len(units) and int(units.ids.max()) >= unit_count:
            raise UnitsError(f"unit {int(units.ids.max())} is not among the {unit_count} units of this LM")
        rows += [
            units.ids[start : start + max_units] + _FIRST_UNIT for start in range(0, len(units), max_units)
        ]
    return rows


def _tensors(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Input ids (B,N+2) `</s> u1..un </s>` and labels, -100 over the padding."""
    width = max(len(row) for row in rows) + 2
    ids = np.full((len(rows), width), _END)
    labels = np.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        ids[i, 1 : len(row) + 1] = row
        labels[i, 1 : len(row) + 2] = ids[i, 1 : len(row) + 2]
    return torch.from_numpy(ids), torch.from_numpy(labels)
