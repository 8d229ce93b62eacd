"""Which parts of an utterance an answer rests on: scores with each span of units left out, in one batch.

It knows units and log-probabilities; it draws nothing and reads no audio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from speechprompt.errors import UnitsError
from speechprompt.lms.batch import collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact_tensors import Member
from speechprompt.prompting.bank import Bank, BankEntry
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.classifier import classify
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.units import Units

MOST_SPANS = 64
BATCH_ROWS = 64
BATCH_UNITS = 16_384

Span = tuple[int, int]
"""First unit, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Occlusion:
    """An utterance's scores, and its scores without each span.

    `spans` (M) cover the utterance in order; there are none for one of fewer than two units. `scores[slot]`
    (C,) and `without[slot]` (M,C) are log-probabilities in label order, fp32 on the CPU.
    """

    spans: tuple[Span, ...]
    scores: Mapping[str, Tensor]
    without: Mapping[str, Tensor]

    def importance(
        self, slot: str, label: int | None = None, calibration: Calibration | None = None
    ) -> list[float]:
        """How far the log-odds (nats) of a label fall without each span (M); above zero, the span speaks for it.

        `label` is an index in label order, by default the best one. Log-odds do not flatten where an answer is
        sure, as probabilities do.
        """
        whole, without = self.scores[slot], self.without[slot]
        chosen = int(whole.argmax()) if label is None else label
        temperature = 1.0 if calibration is None else calibration.temperatures.get(slot, 1.0)
        fall = _log_odds(whole / temperature, chosen) - _log_odds(without / temperature, chosen)
        return [float(value) for value in fall]


def occlude(
    lm: UnitLM, entry: BankEntry, utterances: Sequence[Units], most_spans: int = MOST_SPANS
) -> list[Occlusion]:
    """Every utterance whole and without each of at most `most_spans` spans; rows of all share batches.

    With `most_spans` at or over the number of units every span is one unit. Scores are those of `classify` for
    one utterance alone. UnitsError when an utterance is empty or over the LM's limit.
    """
    plans = [spans_of(units, most_spans) for units in utterances]
    rows = [
        row
        for units, spans in zip(utterances, plans, strict=True)
        for row in (units, *(without_span(units, span) for span in spans))
    ]
    scores = _scores(lm, entry, rows)
    found, place = [], 0
    for spans in plans:
        last = place + 1 + len(spans)
        found.append(
            Occlusion(
                spans,
                {slot: table[place] for slot, table in scores.items()},
                {slot: table[place + 1 : last] for slot, table in scores.items()},
            )
        )
        place = last
    return found


def occlude_together(
    lm: UnitLM, members: Sequence[Member], utterances: Sequence[Units], most_spans: int = MOST_SPANS
) -> list[Occlusion]:
    """The same for prompts that answer together: the mean of their calibrated log-probabilities."""
    told = [occlude(lm, member.entry, utterances, most_spans) for member in members]
    if len(told) == 1:
        return told[0]

    def mean(slot: str, tables: Sequence[Tensor]) -> Tensor:
        cooled = [m.calibration.cooled(slot, table) for m, table in zip(members, tables, strict=True)]
        return torch.stack(cooled).mean(0)

    return [
        Occlusion(
            each[0].spans,
            {slot: mean(slot, [one.scores[slot] for one in each]) for slot in each[0].scores},
            {slot: mean(slot, [one.without[slot] for one in each]) for slot in each[0].without},
        )
        for each in zip(*told, strict=True)
    ]


def pooled(windows: Sequence[Occlusion]) -> list[Occlusion]:
    """Windows of one clip, restated for the whole clip: a span is left out of the mean log-probability of all.

    A clip's scores are the mean over its windows, as a prediction pools them; every window keeps its spans.
    """
    whole = {slot: torch.stack([w.scores[slot] for w in windows]).mean(0) for slot in windows[0].scores}
    return [
        replace(
            window,
            scores=whole,
            without={
                slot: whole[slot] + (table - window.scores[slot]) / len(windows)
                for slot, table in window.without.items()
            },
        )
        for window in windows
    ]


def spans_of(units: Units, most_spans: int = MOST_SPANS) -> tuple[Span, ...]:
    """At most `most_spans` spans that cover the units, none empty, as equal in frames as whole units allow.

    Units without durations count as one frame each. None for fewer than two units: nothing would be left.

    >>> spans_of(Units([4, 7, 4], [1, 1, 2]), 2)
    ((0, 2), (2, 3))
    """
    if most_spans < 2:
        raise ValueError(f"most_spans is {most_spans}; it must be 2 or more")
    count = len(units)
    if count < 2:
        return ()
    if count <= most_spans:
        return tuple((i, i + 1) for i in range(count))
    ends = np.arange(1, count + 1) if units.durations is None else np.cumsum(units.durations)
    # A unit belongs to the span in which its middle frame lies; a long unit may leave a span without any.
    middles = ends - (0.5 if units.durations is None else units.durations / 2)
    owner = np.minimum((middles * most_spans / ends[-1]).astype(np.int64), most_spans - 1)
    cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), count]
    spans = tuple(pairwise(cuts))
    return spans if len(spans) > 1 else ((0, 1), (1, count))


def without_span(units: Units, span: Span) -> Units:
    """The units without a span; equal neighbours that meet become one unit, as deduplication would have it.

    Its duration is their sum and its f0 their mean by duration. UnitsError for a span outside the units.
    """
    first, last = span
    if not 0 <= first < last <= len(units):
        raise UnitsError(f"no span {first} to {last} in {len(units)} units")
    kept = np.r_[0:first, last : len(units)]
    meets = first > 0 and last < len(units) and units.ids[first - 1] == units.ids[last]
    streams = {name: getattr(units, name) for name in ("durations", "f0")}
    rest = {name: None if row is None else row[kept] for name, row in streams.items()}
    if not meets:
        return Units(units.ids[kept], **rest)
    pair = [first - 1, last]
    weights = np.ones(2) if units.durations is None else units.durations[pair]
    for name, row in rest.items():
        if row is not None:
            merged = (
                weights.sum() if name == "durations" else np.average(streams[name][pair], weights=weights)
            )
            row[first - 1] = merged
            rest[name] = np.delete(row, first)
    return Units(np.delete(units.ids[kept], first), **rest)


def span_seconds(units: Units, spans: Sequence[Span], frame_rate: float) -> list[tuple[float, float]]:
    """Start and end of each span in seconds. UnitsError when the units carry no durations."""
    if units.durations is None:
        raise UnitsError("these units carry no durations, so their times are unknown")
    times = np.concatenate([[0], np.cumsum(units.durations)]) / frame_rate
    return [(float(times[first]), float(times[last])) for first, last in spans]


@torch.no_grad()
def _scores(lm: UnitLM, entry: BankEntry, rows: Sequence[Units]) -> dict[str, Tensor]:
    """Log-probabilities (n,C) of every slot for rows of units, in their order."""
    if any(not len(row) for row in rows):
        raise UnitsError("an utterance without units has nothing to leave out")
    bank = Bank([entry]).fold(lm)
    filled = {slot: torch.empty(len(rows), len(labels)) for slot, labels in entry.task.slots.items()}
    for indices in length_buckets([len(row) for row in rows], BATCH_ROWS, None, BATCH_UNITS):
        batch = collate([rows[i] for i in indices]).to(lm.device)
        scores = classify(lm, bank, batch, torch.zeros_like(batch.lengths))[0].slots
        for slot, values in scores.items():
            filled[slot][indices] = values.float().cpu()
    return filled


def _log_odds(scores: Tensor, label: int) -> Tensor:
    """log p - log(1 - p) of a label (...) from scores (...,C), without rounding where p is near one."""
    others = torch.cat([scores[..., :label], scores[..., label + 1 :]], -1)
    return scores[..., label] - others.logsumexp(-1)
