"""Continuing utterances with a pGSLM: a unit a step, its duration and F0 one step later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.pgslm_config import PgslmConfig
from speechprompt.lms.pgslm_streams import SHIFT, f0_edges, streams_of
from speechprompt.speech.units import Units

if TYPE_CHECKING:
    from speechprompt.lms.pgslm import PgslmForCausalLM


@dataclass(frozen=True, slots=True)
class Temperatures:
    """How freely each stream is drawn; 0 takes the most likely value.

    Of a continuous stream it is the scale of a Laplace distribution around the prediction (truncated at 0 for
    durations). The authors' choices: discrete 0.7, 0.25, 0.7; continuous 0.7, 0.125, 0.00125.
    """

    units: float = 0.0
    duration: float = 0.0
    f0: float = 0.0


@torch.no_grad()
def continuations(
    model: PgslmForCausalLM,
    batch: UnitBatch,
    max_new_units: int,
    temperatures: Temperatures,
    generator: torch.Generator | None,
) -> list[Units]:
    """The new units of each row; what `PgslmForCausalLM.generate` documents."""
    config = model.config
    rows, mask, known = _prompt_rows(config, batch)
    units: list[Tensor] = []
    prosody: list[dict[str, Tensor]] = []
    ended = torch.zeros(len(batch), dtype=torch.bool, device=mask.device)
    past = None
    # one step more than units, because the last unit's prosody comes a step after it
    for _ in range(max_new_units + SHIFT):
        out = model(rows["units"], rows["duration"], rows["f0"], mask, past, use_cache=True)
        past = out.past_key_values
        unit = _next_unit(config, out.logits[:, -1], temperatures.units, generator)
        current = known or {
            "duration": _next_duration(config, out.duration_logits[:, -1], temperatures.duration, generator),
            "f0": _next_f0(config, out.f0_logits[:, -1], temperatures.f0, generator),
        }
        known = None
        units.append(unit)
        prosody.append(current)
        ended |= unit == config.eos_token_id
        if bool(ended.all()):
            break
        rows = {"units": unit[:, None]} | {name: value[:, None] for name, value in current.items()}
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], 1)
    return _utterances(config, units, prosody, max_new_units)


def _prompt_rows(
    config: PgslmConfig, batch: UnitBatch
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor] | None]:
    """Left-padded rows up to the last unit, their mask, and that unit's own prosody, which is known."""
    streams = streams_of(config, batch)
    width = batch.unit_ids.shape[1] + 1
    columns = torch.arange(width, device=batch.lengths.device) - (width - 1 - batch.lengths[:, None])
    mask = (columns >= 0).long()
    rows = {name: stream.gather(1, columns.clamp(min=0)) for name, stream in streams.source.items()}
    last = batch.lengths[:, None] + SHIFT
    known = {name: streams.source[name].gather(1, last)[:, 0] for name in ("duration", "f0")}
    return rows, mask, known


def _next_unit(
    config: PgslmConfig, logits: Tensor, temperature: float, generator: torch.Generator | None
) -> Tensor:
    allowed = torch.zeros(config.vocab_size, dtype=torch.bool, device=logits.device)
    allowed[: config.unit_count] = allowed[config.eos_token_id] = True
    return _draw(logits, allowed, temperature, generator)


def _next_duration(
    config: PgslmConfig, logits: Tensor, temperature: float, generator: torch.Generator | None
) -> Tensor:
    if not config.discrete_duration:
        drawn = _laplace(logits[:, 0].float(), temperature, generator, lowest=0.0)
        return drawn.round().clamp(min=1)
    values = torch.arange(logits.shape[-1], device=logits.device)
    return _draw(logits, (values >= 1) & (values <= config.max_duration), temperature, generator)


def _next_f0(
    config: PgslmConfig, logits: Tensor, temperature: float, generator: torch.Generator | None
) -> Tensor:
    if not config.discrete_f0:
        return _laplace(logits[:, 0].float(), temperature, generator)
    allowed = torch.arange(logits.shape[-1], device=logits.device) < config.f0_bins
    return _draw(logits, allowed, temperature, generator)


def _draw(logits: Tensor, allowed: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Ids (B,) among those allowed."""
    logits = logits.float().masked_fill(~allowed, -torch.inf)
    if temperature == 0:
        return logits.argmax(-1)
    shares = (logits / temperature).softmax(-1).cpu()
    return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)


def _laplace(
    mean: Tensor, scale: float, generator: torch.Generator | None, lowest: float | None = None
) -> Tensor:
    """Values (B,) around predicted medians, by the inverse of the distribution function above `lowest`."""
    if scale == 0:
        return mean
    share = torch.rand(mean.shape, generator=generator).to(mean.device)
    if lowest is not None:
        below = (mean - lowest) / scale
        share_below = torch.where(below > 0, 0.5 * (-below.abs()).exp(), 1 - 0.5 * (-below.abs()).exp())
        share = share_below + share * (1 - share_below)
    side = share - 0.5
    drawn = mean - scale * side.sign() * torch.log1p(-2 * side.abs().clamp(max=0.5 - 1e-7))
    return drawn if lowest is None else drawn.clamp(min=lowest)


def _utterances(
    config: PgslmConfig, units: list[Tensor], prosody: list[dict[str, Tensor]], limit: int
) -> list[Units]:
    ids = torch.stack(units, 1)[:, :limit].cpu().numpy()
    # the first step's prosody belongs to the prompt's last unit
    streams = {
        name: torch.stack([values[name] for values in prosody[SHIFT:]], 1).cpu().numpy()
        if len(prosody) > SHIFT
        else np.zeros((len(ids), 0))
        for name in ("duration", "f0")
    }
    f0 = streams["f0"] if not config.discrete_f0 else _centres(config)[streams["f0"].astype(np.int64)]
    found = []
    for i, row in enumerate(ids):
        ends = np.flatnonzero(row == config.eos_token_id)
        count = int(ends[0]) if len(ends) else len(row)
        found.append(
            Units(
                row[:count], streams["duration"][i, :count].astype(np.int64), f0[i, :count].astype(np.float32)
            )
        )
    return found


def _centres(config: PgslmConfig) -> NDArray[np.float64]:
    """A value inside each bin: the middle between its edges, at the ends as far out as the neighbour is wide."""
    edges = np.asarray(f0_edges(config))
    middles = (edges[1:] + edges[:-1]) / 2
    return np.concatenate([[2 * edges[0] - middles[0]], middles, [2 * edges[-1] - middles[-1]]])
