"""What verbalizers read: the LM's heads and state behind an utterance, and what the utterance amounts to as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from speechprompt.errors import UnitsError
from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.prefix import PrefixBatch
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.kinds import MOST_BUCKETS, NgramKind

STATE = "state"
"""The LM's last hidden state (D), read as one of its heads is: more numbers than a small vocabulary has logits."""
MEAN = "mean"
"""The mean (D) over all units, under the prompt, of what the last layer gets: normed states, so no row costs more."""
COUNTS = "counts"
"""How often each unit occurs (unit_count): square roots of the shares, which damp what is said again and again."""
PACE = "pace"
"""How long units last (3 unit_count + `PACE_BINS`): square roots of each unit's share of all log durations, by the
third of the time in which it lies, and of how many units last 1, 2, ... frames, the last being `PACE_BINS` and more."""
PACE_BINS = 16
UTTERANCE = (STATE, MEAN, COUNTS)
OURS = (*UTTERANCE, PACE)
"""Streams that are not heads of the LM."""
LONGEST_NGRAM = 3
FARTHEST_PAIR = 3
_PLACES: dict[NgramKind, list[tuple[int, tuple[int, ...]]]] = {
    "ngrams": [(n, tuple(range(n))) for n in range(1, LONGEST_NGRAM + 1)],
    "pairs": [(1, (0,)), *((1 + apart, (0, apart)) for apart in range(1, FARTHEST_PAIR + 1))],
}
"""Of each kind of n-grams, the numbers that begin their codes and the places of their units.

A stream `ngrams-B` (B) says which 1- to 3-grams of units occur, hashed to B buckets: damped counts, a row of length 1.
`pairs-B` (B) says the same of units and of pairs of units one, two and three places apart (skip-grams).
"""


@dataclass(frozen=True, slots=True)
class States:
    """An LM's last states for a batch under its prompts.

    `hidden` (B,Q,D) are those at the separator and each answer, `mean` (B,D), `counts` (B,unit_count) and `pace`
    (B,3*unit_count+PACE_BINS) what the streams of those names are; None where nobody reads them. `ngrams` holds
    those that are read (B,buckets) by the stream's name.
    """

    hidden: Tensor
    mean: Tensor | None = None
    counts: Tensor | None = None
    pace: Tensor | None = None
    ngrams: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, rows: Tensor | slice) -> States:
        """Those of some utterances."""
        mean, counts, pace = (None if x is None else x[rows] for x in (self.mean, self.counts, self.pace))
        ngrams = {name: x[rows] for name, x in self.ngrams.items()}
        return States(self.hidden[rows], mean, counts, pace, ngrams)

    def at(self, place: int) -> States:
        """Those at one of the Q places."""
        return replace(self, hidden=self.hidden[:, place : place + 1 or None])

    def heads(self, lm: UnitLM, streams: Iterable[str]) -> dict[str, Tensor]:
        """What verbalizers of some `streams` read, (B,Q,.) each, in fp32; LM heads only where one is named."""
        named = set(streams)
        heads = {name for name in named - set(OURS) if ngram_buckets(name) is None}
        found = lm.heads_of(self.hidden) if heads else {}
        ours = {MEAN: self.mean, COUNTS: self.counts, PACE: self.pace, **self.ngrams}
        for name, values in ours.items():
            if values is not None and name in named:
                found[name] = values[:, None].expand(-1, self.hidden.shape[1], -1)
        return {**found, STATE: self.hidden.float()} if STATE in named else found


def states_of(
    lm: UnitLM,
    batch: UnitBatch,
    prefixes: PrefixBatch,
    separators: Tensor,
    streams: Iterable[str],
    before: int = 0,
) -> States:
    """Run the LM and keep what some `streams` read; `hidden` begins `before` rows ahead of the separator.

    UnitsError for units that the LM does not know, or without durations where `pace` is among the streams.
    """
    named = set(streams)
    mean: Tensor | None = None
    if MEAN in named:  # the LM first, for it checks the units
        hidden, mean = lm.forward_with_mean(batch, prefixes, separators, before)
    else:
        hidden = lm.forward(batch, prefixes, separators, before)
    counts = unit_counts(batch, lm.unit_count) if COUNTS in named else None
    pace = unit_pace(batch, lm.unit_count) if PACE in named else None
    ngrams = {name: ngram_values(batch, name) for name in named if ngram_buckets(name) is not None}
    return States(hidden, mean, counts, pace, ngrams)


def unit_counts(batch: UnitBatch, unit_count: int) -> Tensor:
    """The stream `counts` (B,unit_count) of a batch: each row's squares have mean 1."""
    real = _real(batch)
    return _damped_shares(torch.where(real, batch.unit_ids, 0), real.float(), unit_count)


def unit_pace(batch: UnitBatch, unit_count: int) -> Tensor:
    """The stream `pace` (B,3*unit_count+PACE_BINS) of a batch: the squares of either part have mean 1, or are 0.

    UnitsError when the batch has no durations.
    """
    if batch.durations is None:
        raise UnitsError(
            "a prompt with --streams pace reads how long units last, and some of these units carry no durations; "
            "encode the audio again, or train with --streams utterance"
        )
    real = _real(batch)
    frames = torch.where(real, batch.durations, 0)
    ends = frames.cumsum(1)
    thirds = (3 * (2 * ends - frames) // (2 * ends[:, -1:]).clamp(min=1)).clamp(max=2)  # of a unit's middle
    places = torch.where(real, batch.unit_ids + unit_count * thirds, 0)
    by_unit = _damped_shares(places, frames.clamp(min=1).log(), 3 * unit_count)
    by_length = _damped_shares((frames - 1).clamp(0, PACE_BINS - 1), real.float(), PACE_BINS)
    return torch.cat([by_unit, by_length], 1)


def ngram_values(batch: UnitBatch, stream: str) -> Tensor:
    """A stream `ngrams-B` or `pairs-B` (B,buckets) of a batch: 1 + log of how many fall into each, scaled to length 1.

    Rows without units are 0. The hash is multiplicative (D. Knuth, The Art of Computer Programming 3, 6.4). KeyError
    for the name of another stream.
    """
    kind, buckets = _kind(stream), ngram_buckets(stream)
    if kind is None or buckets is None:
        raise KeyError(stream)
    real, ids = _real(batch), batch.unit_ids
    found = torch.zeros(len(batch), buckets, device=ids.device)
    for code, places in _PLACES[kind]:
        if (reach := places[-1]) >= ids.shape[1]:
            continue
        codes = torch.full_like(ids[:, reach:], code)
        for place in places:
            codes = codes * 100_003 + ids[:, place : ids.shape[1] - reach + place]
        spread = (((codes * 2_654_435_761) & 0xFFFF_FFFF) >> 16) * buckets >> 16
        found.scatter_add_(1, spread, real[:, reach:].to(found.dtype))
    damped = torch.where(found > 0, 1 + found.clamp(min=1).log(), 0)
    return torch.nn.functional.normalize(damped, dim=1)


def ngram_stream(buckets: int, kind: NgramKind = "ngrams") -> str:
    """The name of the stream of n-grams in so many buckets."""
    return f"{kind}-{buckets}"


def ngram_buckets(stream: str) -> int | None:
    """How many buckets a stream of n-grams has; None for other streams, and for more than `MOST_BUCKETS`."""
    count = stream.partition("-")[2]
    named = count.isdecimal() and count.isascii()
    if _kind(stream) is None or not named or len(count) > len(str(MOST_BUCKETS)):
        return None
    return int(count) if 0 < int(count) <= MOST_BUCKETS else None


def _kind(stream: str) -> NgramKind | None:
    """Which n-grams a stream is of, if of any."""
    return next((kind for kind in _PLACES if stream.startswith(f"{kind}-")), None)


def _real(batch: UnitBatch) -> Tensor:
    """Which places (B,N) hold units and no padding."""
    return torch.arange(batch.unit_ids.shape[1], device=batch.lengths.device) < batch.lengths[:, None]


def _damped_shares(kinds: Tensor, weights: Tensor, count: int) -> Tensor:
    """Square roots of each kind's share of the weights (B,N), (B,count), scaled by the root of `count`."""
    shares = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    found = shares.new_zeros(len(kinds), count)
    found.scatter_add_(1, kinds, shares)
    return (found * count).sqrt()


def sizes_of(lm: UnitLM, streams: Iterable[str]) -> list[int]:
    """How many numbers each of some streams has. KeyError for a name that is none."""
    known = stream_sizes(lm)
    return [ngram_buckets(name) or known[name] for name in streams]


def stream_sizes(lm: UnitLM) -> dict[str, int]:
    """How many numbers each stream of fixed size has: the LM's heads, 'units' first, and then ours."""
    hidden = torch.zeros(1, 1, lm.width, device=lm.device, dtype=lm.dtype)
    heads = {name: logits.shape[-1] for name, logits in lm.heads_of(hidden).items()}
    return {
        **heads,
        STATE: lm.width,
        MEAN: lm.width,
        COUNTS: lm.unit_count,
        PACE: 3 * lm.unit_count + PACE_BINS,
    }
