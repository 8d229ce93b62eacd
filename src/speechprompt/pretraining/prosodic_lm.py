"""Pretraining of a pGSLM-shaped LM: next unit, and each unit's duration and F0, on the units of any corpus.

The sibling of `unit_lm.py`: one utterance is one row, rows of like length share a batch. Knows no tokenizer: units
with durations and mean-normalised log-F0 in, a `PgslmForCausalLM` out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechprompt.errors import TrainingError, UnitsError
from speechprompt.lms.batch import collate
from speechprompt.lms.pgslm import PgslmForCausalLM
from speechprompt.lms.pgslm_config import SPECIALS, PgslmConfig
from speechprompt.lms.pgslm_streams import Streams, stream_losses, streams_of
from speechprompt.pretraining.batches import Batches, bucketed
from speechprompt.pretraining.optimisation import Schedule, optimise
from speechprompt.pretraining.run_folder import Progress, RunFolder
from speechprompt.pretraining.unit_lm_options import UnitLmOptions
from speechprompt.speech.units import Units


@dataclass(frozen=True, slots=True)
class ProsodicLmOptions(UnitLmOptions):
    """Sizes and schedule as of a unit LM, and what is made of prosody.

    A stream that is not read (`reads_duration`, `reads_f0`) is neither input nor target: an LM without both is a
    unit LM of the same size. `prosody_weight` is the weight of a stream's loss beside the units'.
    """

    reads_duration: bool = True
    reads_f0: bool = True
    max_duration: int = 20
    f0_bins: int = 32
    prosody_weight: float = 0.5


@dataclass(frozen=True, slots=True)
class PretrainedProsodicLm:
    """A trained LM and its held-out costs: bits a unit (ends counted), and bits of each duration and F0 bin."""

    model: PgslmForCausalLM
    bits: dict[str, float]


def pretrain_prosodic_lm(
    train: Sequence[Units],
    valid: Sequence[Units],
    unit_count: int,
    folder: str | Path,
    options: ProsodicLmOptions,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> PretrainedProsodicLm:
    """Train from `folder`'s state, or from scratch, to the end of the schedule.

    Units without F0 are taken as unvoiced where F0 is not read. Errors: TrainingError without training or held-out
    units, when `folder` holds another run, or on a loss that is not a number; UnitsError for a unit outside
    0..unit_count-1 and for a missing stream. Side effects: `folder` gets options.json, log.jsonl and state.pt.
    """
    train_rows, valid_rows = (_rows(rows, options) for rows in (train, valid))
    if not train_rows or not valid_rows:
        raise TrainingError(
            "a prosodic LM needs utterances to train on and others to hold out; one of them is empty"
        )
    described = {**asdict(options), "unit_count": unit_count, "material": _digest(train_rows)}
    run = RunFolder(folder, described, progress)
    model = new_prosodic_lm(unit_count, options, f0_edges(train_rows, options.f0_bins))
    torch.nn.Module.to(model, device)  # transformers' own `to` defies type checkers
    batches = Batches([len(row) + 3 for row in train_rows], options.batch_units, options.seed)

    def loss_at(step: int) -> Tensor:
        streams = streams_of(model.config, collate([train_rows[i] for i in batches.at(step)]).to(device))
        losses = stream_losses(model.config, _logits(model, streams), streams)
        return losses.total / losses.rows

    def evaluate() -> dict[str, float]:
        return bits_of_streams(model, valid_rows, options.batch_units, options.bf16)

    schedule = Schedule(
        options.steps,
        options.learning_rate,
        options.warmup_steps,
        options.weight_decay,
        save_every=options.save_every,
    )
    optimise(model, loss_at, evaluate, schedule, run, options.seed, options.bf16)
    model.train(False)
    return PretrainedProsodicLm(model, bits_of_streams(model, valid_rows, options.batch_units, bf16=False))


def new_prosodic_lm(
    unit_count: int, options: ProsodicLmOptions, edges: Sequence[float] | None = None
) -> PgslmForCausalLM:
    """An untrained LM over `unit_count` units; the same seed gives the same weights, whatever streams are read."""
    weights = [options.prosody_weight * reads for reads in (options.reads_duration, options.reads_f0)]
    config = PgslmConfig(
        vocab_size=unit_count + SPECIALS,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=options.inner,
        max_units=options.max_units,
        max_duration=options.max_duration,
        f0_bins=options.f0_bins,
        f0_edges=None if edges is None else list(edges),
        reads_duration=options.reads_duration,
        reads_f0=options.reads_f0,
        loss_weights=[1.0, *weights],
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        return PgslmForCausalLM(config)


def f0_edges(rows: Sequence[Units], bins: int) -> list[float]:
    """The `bins` - 1 ascending edges between which voiced units are spread evenly; 0, no pitch, falls where it falls.

    Evenly over -1 to 1 where no unit is voiced.
    """
    values = np.concatenate([row.f0[row.f0 != 0] for row in rows if row.f0 is not None] or [np.zeros(0)])
    shares = np.arange(1, bins) / bins
    edges = np.quantile(values, shares) if len(values) else 2 * shares - 1
    return [float(edge) for edge in edges]


@torch.no_grad()
def bits_of_streams(
    model: PgslmForCausalLM, rows: Sequence[Units], batch_units: int = 8192, bf16: bool = False
) -> dict[str, float]:
    """Mean cost in bits of units (`bits_per_unit`), durations and F0 bins that the LM was trained to predict."""
    model.train(False)
    nats, counts = (
        dict.fromkeys(("units", "duration", "f0"), 0.0),
        dict.fromkeys(("units", "duration", "f0"), 0),
    )
    for batch in bucketed([len(row) + 3 for row in rows], range(len(rows)), batch_units):
        streams = streams_of(model.config, collate([rows[i] for i in batch]).to(model.device))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            losses = stream_losses(model.config, _logits(model, streams), streams)
        for name in nats:
            nats[name] += float(getattr(losses, name))
            counts[name] += int((~streams.masked[name]).sum())
    names = {"units": "bits_per_unit", "duration": "bits_per_duration", "f0": "bits_per_f0"}
    weights = dict(zip(names, model.config.loss_weights or (), strict=True))
    return {names[n]: nats[n] / max(1, counts[n]) / math.log(2) for n in names if weights[n] > 0}


def _logits(model: PgslmForCausalLM, streams: Streams) -> dict[str, Tensor]:
    source = streams.source
    found = model(source["units"], source["duration"], source["f0"])
    return {"units": found.logits, "duration": found.duration_logits, "f0": found.f0_logits}


def _rows(utterances: Sequence[Units], options: ProsodicLmOptions) -> list[Units]:
    """Utterances cut to pieces of at most `max_units`, with all streams; empty ones are left out."""
    rows = []
    for units in utterances:
        if units.durations is None or (units.f0 is None and options.reads_f0):
            raise UnitsError(
                "a prosodic LM learns from units with durations and F0; encode with a prosody tokenizer"
            )
        f0 = units.f0 if units.f0 is not None else np.zeros(len(units), np.float32)
        for start in range(0, len(units), options.max_units):
            part = slice(start, start + options.max_units)
            rows.append(replace(units, ids=units.ids[part], durations=units.durations[part], f0=f0[part]))
    return rows


def _digest(rows: Sequence[Units]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        for stream in (row.ids, row.durations, row.f0):
            digest.update(b"-" if stream is None else hashlib.sha256(stream.tobytes()).digest())
    return digest.hexdigest()
