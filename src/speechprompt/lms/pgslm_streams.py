"""Utterances as pGSLM's streams: clipped, quantised, shifted by one; and the losses over them.

    row        0      1      2     ...   n      n+1
    units      start  u1     u2    ...   u_n    end
    duration   pad    start  d1    ...   d_n-1  d_n
    f0         pad    start  f1    ...   f_n-1  f_n

Each row predicts the next column of this table; the end's own duration is 0 frames, its F0 unvoiced (0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from speechprompt.errors import UnitsError
from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.pgslm_config import CONTINUOUS_F0_PADDING, PgslmConfig

SHIFT = 1


@dataclass(frozen=True, slots=True)
class Streams:
    """`source`, `target` and `masked` (B, N+2) under the names units, duration and f0; `lengths` (B,) in rows.

    A masked position is padding on either side of the prediction and costs nothing.
    """

    source: Mapping[str, Tensor]
    target: Mapping[str, Tensor]
    masked: Mapping[str, Tensor]
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class StreamLosses:
    """Summed losses (nats, or absolute error where a stream is continuous); `total` weighs and adds them.

    `rows` is the divisor that the reference uses: all source rows of the batch.
    """

    units: Tensor
    duration: Tensor
    f0: Tensor
    total: Tensor
    rows: int


def stream_ends(config: PgslmConfig) -> dict[str, tuple[float, float]]:
    """Padding and start value of each stream."""
    return {
        "units": (config.unit_count + 1, config.unit_count),
        "duration": (0, 0),
        "f0": (config.f0_bins + 1, config.f0_bins) if config.discrete_f0 else (CONTINUOUS_F0_PADDING, 0.0),
    }


def read_durations(config: PgslmConfig, durations: Tensor) -> Tensor:
    """Durations (..., N) in frames as the LM reads them: clipped where they are discrete, else as numbers."""
    return durations.clamp(max=config.max_duration) if config.discrete_duration else durations.float()


def read_f0(config: PgslmConfig, f0: Tensor) -> Tensor:
    """Mean-normalised log-F0 as the LM reads it: its bin, count(f0 > edge), or the value itself.

    UnitsError for a value that is not a number, and where the LM was loaded without its bins.
    """
    if not bool(torch.isfinite(f0).all()):
        raise UnitsError("an F0 value is not a finite number; encode the corpus again")
    if not config.discrete_f0:
        return f0.float()
    edges = torch.tensor(f0_edges(config), dtype=torch.float64)
    return torch.bucketize(f0.double().cpu(), edges).to(f0.device)


def f0_edges(config: PgslmConfig) -> list[float]:
    """The edges between F0 bins. UnitsError when the LM was loaded without them."""
    if config.f0_edges is None:
        raise UnitsError("this pGSLM was loaded without its F0 bins; give load_pgslm the file f0_bins=…")
    return config.f0_edges


def within(values: Tensor, lengths: Tensor) -> Tensor:
    """Values (B,N) with zeros behind each utterance, whatever the padding holds."""
    return torch.where(torch.arange(values.shape[1], device=values.device) < lengths[:, None], values, 0)


def shifted(values: Tensor, lengths: Tensor, width: int, ends: tuple[float, float]) -> Tensor:
    """Values (B,N) moved right for a source of `width` rows: padding, start, v1, ..., v_n, padding."""
    padding, start = ends
    rows, count = values.shape
    out = values.new_full((rows, max(width, count + 1 + SHIFT)), padding)
    out[:, SHIFT] = start
    valid = torch.arange(count, device=values.device) < lengths[:, None]
    out[:, 1 + SHIFT : 1 + SHIFT + count] = torch.where(valid, values, padding)
    return out[:, :width]


def streams_of(config: PgslmConfig, batch: UnitBatch) -> Streams:
    """Source, target and masks of utterances with durations and F0. UnitsError when a stream is missing."""
    if batch.durations is None or batch.f0 is None:
        raise UnitsError("these units carry no durations or no F0; encode them with a prosody tokenizer")
    ends, lengths, width = stream_ends(config), batch.lengths, batch.unit_ids.shape[1]
    columns = torch.arange(width + 3, device=lengths.device)
    after = columns - lengths[:, None]
    # whole rows: one column more than the source, so that the target is the source one column on
    units = _unit_rows(config, within(batch.unit_ids, lengths), after)
    values = {
        "duration": read_durations(config, within(batch.durations, lengths)),
        "f0": read_f0(config, within(batch.f0, lengths)),
    }
    of_end = {"duration": 0, "f0": read_f0(config, torch.zeros(1)).item()}
    source, target = {"units": units[:, :-1]}, {"units": units[:, 1:]}
    for name, stream in values.items():
        moved = shifted(stream, lengths, width + 3, ends[name])
        source[name] = moved[:, :-1]
        # the end's own prosody is predicted, but no row is left to read it
        target[name] = torch.where(after == 1 + SHIFT, of_end[name], moved)[:, 1:]
    prosody_padded = (after > 1 + SHIFT) | (columns < SHIFT)
    padded = {"units": after > 1, "duration": prosody_padded, "f0": prosody_padded}
    masked = {name: at[:, 1:] | at[:, :-1] for name, at in padded.items()}
    return Streams(source, target, masked, lengths + 2)


def _unit_rows(config: PgslmConfig, unit_ids: Tensor, after: Tensor) -> Tensor:
    """Start, units, end, padding: (B, N+3). UnitsError for a unit that the LM does not know."""
    if unit_ids.numel() and not 0 <= int(unit_ids.min()) <= int(unit_ids.max()) < config.unit_count:
        raise UnitsError(f"unit {int(unit_ids.max())} is not among the {config.unit_count} units of this LM")
    rows = functional.pad(unit_ids, (1, 2), value=config.unit_count)
    padding, end = config.unit_count + 1, config.unit_count + 2
    return torch.where(after <= 0, rows, torch.where(after == 1, end, padding))


def stream_losses(config: PgslmConfig, logits: Mapping[str, Tensor], streams: Streams) -> StreamLosses:
    """Cross-entropy of discrete streams, absolute error of continuous ones, over what is not masked."""
    sums = {}
    for name, predicted in logits.items():
        target = streams.target[name]
        if predicted.shape[-1] == 1:
            costs = (predicted[..., 0].float() - target.float()).abs()
        else:
            costs = functional.cross_entropy(predicted.transpose(1, 2).float(), target, reduction="none")
        sums[name] = costs.masked_fill(streams.masked[name], 0).sum()
    weights = zip(config.loss_weights or (), sums.values(), strict=True)
    total = torch.stack([weight * loss for weight, loss in weights]).sum()
    return StreamLosses(sums["units"], sums["duration"], sums["f0"], total, int(streams.lengths.sum()))
