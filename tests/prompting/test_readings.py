"""What a verbalizer may read of an utterance beside the LM's heads: by definition, alone as in a batch, and learnt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lms.test_huggingface import lm_of
from lms.toy_pgslm import prosodic_units
from lms.toy_pgslm import toy_lm as toy_prosodic_lm
from speechprompt.errors import UnitsError
from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.huggingface import HuggingFaceUnitLM
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.readings import (
    COUNTS,
    MEAN,
    OURS,
    PACE,
    PACE_BINS,
    STATE,
    UTTERANCE,
    states_of,
    stream_sizes,
    unit_counts,
    unit_pace,
)
from speechprompt.prompting.training import train_runs
from speechprompt.speech.units import Units
from speechprompt.testing import UNIT_COUNT, toy_lm
from toys import entry_of, run_of, scores, scores_alone, some_units, with_garbage

LMS = {
    "gslm": toy_lm,
    "pgslm": toy_prosodic_lm,
    "llama": lambda: lm_of("llama"),
    "gpt2": lambda: lm_of("gpt2"),
}


def last_inputs(lm: Any, batch: UnitBatch) -> Tensor:
    """What the last layer gets of a bare LM's units (B,1+N,D)."""
    if isinstance(lm, HuggingFaceUnitLM):
        start = torch.full((len(batch), 1), lm.start_id)
        ids = torch.cat([start, lm.lm_ids(batch.unit_ids)], 1)
        return lm.model(input_ids=ids, output_hidden_states=True).hidden_states[lm.layers - 1]
    return lm.states(batch, None, None)[lm.layers - 1]


@pytest.mark.parametrize("name", LMS)
@pytest.mark.parametrize("before", [0, 1])
def test_the_mean_is_that_of_all_units_in_front_of_the_last_layer(name: str, before: int) -> None:
    lm: UnitLM = LMS[name]()
    units = prosodic_units([5, 24, 1, 9], seed=2)
    batch, rows = collate(units), torch.zeros(4, dtype=torch.int64)
    bank = Bank([entry_of(lm, prompt_length=0, method="after_projection")]).fold(lm)
    prefixes, separators = bank.prefixes(lm, rows), bank.separators(rows)
    with torch.no_grad():
        found = states_of(lm, batch, prefixes, separators, OURS, before)
        plain = states_of(lm, batch, prefixes, separators, [STATE], before)
        states = functional.layer_norm(last_inputs(lm, batch), (lm.width,))
    assert plain.mean is plain.counts is plain.pace is None
    assert torch.equal(found.hidden, plain.hidden)
    assert found.mean is not None
    for i, row in enumerate(units):
        expected = states[i, 1 : len(row) + 1].mean(0)
        torch.testing.assert_close(found.mean[i], expected, atol=1e-5, rtol=1e-5)


def test_counts_are_damped_shares_of_units() -> None:
    batch = with_garbage(collate(some_units([4, 0])), 10**9, 3)
    batch.unit_ids[0, :4] = torch.tensor([7, 2, 7, 7])
    counts = unit_counts(batch, UNIT_COUNT)
    expected = torch.zeros(2, UNIT_COUNT)
    expected[0, 7], expected[0, 2] = (0.75 * UNIT_COUNT) ** 0.5, (0.25 * UNIT_COUNT) ** 0.5
    torch.testing.assert_close(counts, expected)
    assert float(counts[0].square().mean()) == pytest.approx(1)


def test_pace_is_damped_shares_of_log_durations_by_third_and_of_lengths() -> None:
    # middles of the first at 3, 6.5, 9 and 14 of 18 frames
    rows = [Units([7, 2, 7, 7], [6, 1, 4, 7]), Units([3, 5], [1, 1]), Units([], []), Units([1], [900])]
    pace = unit_pace(with_garbage(collate(rows), 10**9, 3), UNIT_COUNT)
    expected = torch.zeros(4, 3 * UNIT_COUNT + PACE_BINS)
    logs = torch.tensor([6.0, 4.0, 7.0]).log()  # unit 2 lasts one frame, whose logarithm is 0
    for third, share in enumerate((logs / logs.sum()).tolist()):
        expected[0, third * UNIT_COUNT + 7] = (share * 3 * UNIT_COUNT) ** 0.5
    lengths = expected[:, 3 * UNIT_COUNT :]
    lengths[0, [0, 3, 5, 6]] = (PACE_BINS / 4) ** 0.5
    lengths[1, 0] = lengths[3, -1] = PACE_BINS**0.5
    expected[3, UNIT_COUNT + 1] = (3 * UNIT_COUNT) ** 0.5
    torch.testing.assert_close(pace, expected)


def test_pace_needs_durations_and_says_so() -> None:
    lm = toy_lm()
    with pytest.raises(UnitsError, match="carry no durations"):
        scores(lm, [entry_of(lm, streams="pace")], collate([Units([1, 2])]), torch.tensor([0]))


def test_a_verbalizer_reads_streams_side_by_side_in_any_mixture() -> None:
    lm = toy_lm()
    sizes = stream_sizes(lm)
    kinds = ("units", "utterance", "state", "mean", "counts", "pace")
    entries = [entry_of(lm, streams=kind, seed=i) for i, kind in enumerate(kinds)]
    widths = [sum(sizes[name] for name in entry.verbalizer.streams) for entry in entries]
    assert widths == [next(iter(entry.verbalizer.parameters())).shape[1] for entry in entries]
    assert set(entries[1].verbalizer.streams) == set(UTTERANCE) == {STATE, MEAN, COUNTS}
    assert set(entries[5].verbalizer.streams) == {*UTTERANCE, PACE}
    units = [Units(row.ids, 1 + row.ids % 20) for row in some_units([3, 30, 0, 17, 1, 9])]
    rows = torch.tensor([1, 0, 2, 3, 4, 5])
    together = scores(lm, entries, collate(units), rows)
    for row, k in enumerate(rows.tolist()):
        for slot, alone in scores_alone(lm, entries[k], units[row]).items():
            torch.testing.assert_close(together[row][slot], alone, atol=1e-5, rtol=0)


def test_it_trains_through_the_mean() -> None:
    """The prompt of a verbalizer that looks at the mean alone still learns: its gradient comes through every row."""
    lm = toy_lm()
    run = run_of(lm, streams="utterance", steps=4, evaluations=1)
    with torch.no_grad():  # only the columns of the mean are heard
        run.entry.verbalizer.weight[:, : lm.width] = 0
        run.entry.verbalizer.weight[:, 2 * lm.width :] = 0
    units, rows = run.train.units[:6], torch.zeros(6, dtype=torch.int64)
    run.entry.prompt.vectors.requires_grad_(True)
    bank = Bank([run.entry])
    [found] = classify(lm, bank, collate(units), rows)
    next(iter(found.slots.values()))[:, 0].sum().backward()
    assert run.entry.prompt.vectors.grad.abs().max() > 0
    before = run.entry.verbalizer.weight.detach().clone()
    train_runs(lm, [run])
    assert (run.entry.verbalizer.weight != before).any(0).all()
