"""Pretraining of a GSLM-shaped unit LM: next-unit prediction on the units of any corpus.

One utterance is one row, as GSLM was trained (`</s> u1..un` predicts `u1..un </s>`). Knows no tokenizer: units in,
a `GslmForCausalLM` out. The loop is `lm_training`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprompt.errors import UnitsError
from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM
from speechprompt.pretraining.lm_training import Costs, Pretrained, bits, pieces, pretrain
from speechprompt.pretraining.run_folder import Progress
from speechprompt.pretraining.unit_lm_options import UnitLmOptions
from speechprompt.speech.units import Units

_END, _FIRST_UNIT = 2, 4  # LM ids of `</s>` and of unit 0
Row = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GslmKind:
    """GSLM's architecture at the options' size; an `LmKind` whose rows are LM ids."""

    unit_count: int
    options: UnitLmOptions

    def rows(self, utterances: Sequence[Units]) -> list[Row]:
        """LM ids of utterances in pieces. UnitsError for a unit outside 0..unit_count-1."""
        return lm_rows(utterances, self.unit_count, self.options.max_units)

    def width(self, row: Row) -> int:
        """The units and the end."""
        return len(row) + 1

    def digest(self, rows: Sequence[Row]) -> str:
        """Hash of the rows."""
        return hashlib.sha256(b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows)).hexdigest()

    def new(self, rows: Sequence[Row] = ()) -> GslmForCausalLM:
        """An untrained LM."""
        return new_unit_lm(self.unit_count, self.options)

    def costs(self, model: GslmForCausalLM, rows: Sequence[Row]) -> Costs:
        """The mean cost of units and ends."""
        ids, labels = (tensor.to(model.device) for tensor in _tensors(rows))
        loss: Tensor = model(input_ids=ids, labels=labels).loss
        targets = int((labels[:, 1:] >= 0).sum())
        return Costs(loss, {"bits_per_unit": loss.detach() * targets}, {"bits_per_unit": targets})


def pretrain_unit_lm(
    train: Sequence[Units],
    valid: Sequence[Units],
    unit_count: int,
    folder: str | Path,
    options: UnitLmOptions,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Pretrained[GslmForCausalLM]:
    """Train a unit LM in `folder`, resuming what is there. Errors and side effects as `lm_training.pretrain`."""
    return pretrain(GslmKind(unit_count, options), train, valid, folder, options, device, progress)


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


def bits_per_unit(
    model: GslmForCausalLM, rows: Sequence[Row], batch_units: int = 8192, bf16: bool = False
) -> float:
    """Mean cost of the units (and the end) of rows of LM ids, in bits."""
    kind = GslmKind(model.config.vocab_size - _FIRST_UNIT, UnitLmOptions())
    return bits(kind, model, rows, batch_units, bf16)["bits_per_unit"]


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
        rows += [units.ids[part] + _FIRST_UNIT for part in pieces(len(units), max_units)]
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
