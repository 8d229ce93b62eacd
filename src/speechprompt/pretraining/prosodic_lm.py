"""Pretraining of a pGSLM-shaped LM: next unit, and each unit's duration and F0, on the units of any corpus.

The sibling of `unit_lm.py`. Knows no tokenizer: units with durations and log-F0 in, a `PgslmForCausalLM` out. The
loop is `lm_training`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from speechprompt.errors import UnitsError
from speechprompt.lms.batch import collate
from speechprompt.lms.pgslm import PgslmForCausalLM
from speechprompt.lms.pgslm_config import SPECIALS, PgslmConfig
from speechprompt.lms.pgslm_streams import stream_losses, streams_of
from speechprompt.pretraining.lm_training import Costs, Pretrained, bits, pieces, pretrain
from speechprompt.pretraining.run_folder import Progress
from speechprompt.pretraining.unit_lm_options import ProsodicLmOptions
from speechprompt.speech.units import Units

_BITS = {"units": "bits_per_unit", "duration": "bits_per_duration", "f0": "bits_per_f0"}


@dataclass(frozen=True, slots=True)
class PgslmKind:
    """pGSLM's architecture, discrete, at the options' size; an `LmKind` whose rows are units with all streams."""

    unit_count: int
    options: ProsodicLmOptions

    def rows(self, utterances: Sequence[Units]) -> list[Units]:
        """Utterances in pieces; F0 that is missing and not read is 0. UnitsError for a missing stream."""
        rows = []
        for units in utterances:
            if units.durations is None or (units.f0 is None and self.options.reads_f0):
                raise UnitsError(
                    "a prosodic LM learns from units with durations and F0; encode with a prosody tokenizer"
                )
            f0 = units.f0 if units.f0 is not None else np.zeros(len(units), np.float32)
            for part in pieces(len(units), self.options.max_units):
                rows.append(replace(units, ids=units.ids[part], durations=units.durations[part], f0=f0[part]))
        return rows

    def width(self, row: Units) -> int:
        """The units, start, end, and the row by which prosody is late."""
        return len(row) + 3

    def digest(self, rows: Sequence[Units]) -> str:
        """Hash of all streams of the rows."""
        digest = hashlib.sha256()
        for row in rows:
            for stream in (row.ids, row.durations, row.f0):
                digest.update(b"-" if stream is None else hashlib.sha256(stream.tobytes()).digest())
        return digest.hexdigest()

    def new(self, rows: Sequence[Units]) -> PgslmForCausalLM:
        """An untrained LM whose F0 bins spread over these rows."""
        return new_prosodic_lm(self.unit_count, self.options, f0_edges(rows, self.options.f0_bins))

    def costs(self, model: PgslmForCausalLM, rows: Sequence[Units]) -> Costs:
        """The weighted cost of the streams, and each that the LM was trained to predict."""
        streams = streams_of(model.config, collate(rows).to(model.device))
        source = streams.source
        found = model(source["units"], source["duration"], source["f0"])
        logits = {"units": found.logits, "duration": found.duration_logits, "f0": found.f0_logits}
        losses = stream_losses(model.config, logits, streams)
        weights = dict(zip(_BITS, model.config.loss_weights or (), strict=True))
        learnt = [stream for stream in _BITS if weights[stream] > 0]
        return Costs(
            losses.total / losses.rows,
            {_BITS[stream]: getattr(losses, stream).detach() for stream in learnt},
            {_BITS[stream]: int((~streams.masked[stream]).sum()) for stream in learnt},
        )


def pretrain_prosodic_lm(
    train: Sequence[Units],
    valid: Sequence[Units],
    unit_count: int,
    folder: str | Path,
    options: ProsodicLmOptions,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Pretrained[PgslmForCausalLM]:
    """Train a prosodic LM in `folder`, resuming what is there; bits of each duration and F0 bin beside the units'.

    Units without F0 are taken as unvoiced where F0 is not read. Errors and side effects as `lm_training.pretrain`.
    """
    return pretrain(PgslmKind(unit_count, options), train, valid, folder, options, device, progress)


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
    """The `bins` - 1 ascending edges between which voiced units are spread evenly.

    0, no pitch, falls where it falls when F0 is measured from a mean; where all F0 is above 0, that is measured from
    nothing, the first bin is its own. Evenly over -1 to 1 where no unit is voiced.
    """
    values = np.concatenate([row.f0[row.f0 != 0] for row in rows if row.f0 is not None] or [np.zeros(0)])
    if not len(values):
        return [float(edge) for edge in 2 * np.arange(1, bins) / bins - 1]
    lowest = float(values.min())
    if lowest > 0:
        shares = np.arange(1, bins - 1) / (bins - 1)
        return [lowest / 2, *(float(edge) for edge in np.quantile(values, shares))]
    return [float(edge) for edge in np.quantile(values, np.arange(1, bins) / bins)]


def bits_of_streams(
    model: PgslmForCausalLM, rows: Sequence[Units], batch_units: int = 8192, bf16: bool = False
) -> dict[str, float]:
    """Mean cost in bits of units (`bits_per_unit`), durations and F0 bins that the LM was trained to predict."""
    kind = PgslmKind(model.config.unit_count, ProsodicLmOptions())
    return bits(kind, model, rows, batch_units, bf16)
