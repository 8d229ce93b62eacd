"""How a case becomes a row: turns, rates, aims; and that the forms do the same work."""

from __future__ import annotations

import pytest
import torch

from speechprompt.benchmarking.case import BOUND, NAIVE, OURS, PEFT, Case, Curve
from speechprompt.benchmarking.clock import Clock, Form
from speechprompt.benchmarking.material import SPEECH_COMMANDS, equal_utterances, fresh_entry, utterances
from speechprompt.benchmarking.memory_stage import LiveBytes, longest_within, step_bytes
from speechprompt.benchmarking.peft_form import PeftPrefix, source_rows
from speechprompt.benchmarking.products import Product
from speechprompt.lms.batch import collate
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.testing import toy_lm


class FixedClock(Clock):
    """A clock on which a call takes as long as it says, a product a second a count."""

    def seconds(self, work: object) -> float:
        return float(work())  # type: ignore[operator]

    def product_seconds(self, products: object, dtype: str) -> float:
        return 2.0


def test_every_form_is_run_in_turns_and_slow_ones_once() -> None:
    calls: list[str] = []
    forms = {
        name: Form(lambda name=name: calls.append(name) or 1.0, 1.0, name == "slow")
        for name in ("ours", "slow")
    }  # type: ignore[func-returns-value, misc]
    assert FixedClock("cpu", 3).in_turns(forms) == {"ours": 1.0, "slow": 1.0}
    assert calls == ["ours", "ours", "slow", "ours", "ours"]


def test_a_median_is_taken() -> None:
    times = iter((9.0, 1.0, 5.0, 2.0))  # the first is the warm-up
    assert FixedClock("cpu", 3).in_turns({OURS: Form(lambda: next(times), 1.0)}) == {OURS: 2.0}


def test_rates_bound_and_aims() -> None:
    forms = {OURS: Form(lambda: 4.0, 32), NAIVE: Form(lambda: 2.0, 4), "other": Form(lambda: 8.0, 32)}
    aims = {BOUND: 0.7, "other": 1.0, PEFT: 1.0, "rate": 5.0}
    case = Case("train", "a case", "utterances", forms, [Product(2, 3, 4, 5)], 100.0, aims=aims)
    row = case.measure(FixedClock("cpu", 1), bandwidth=50.0)
    assert row.rates == {OURS: 8.0, NAIVE: 2.0, "other": 4.0, BOUND: 16.0}
    assert (row.fraction, row.ratio(NAIVE), row.ratio(PEFT)) == (0.5, 4.0, None)
    assert row.reached() == {
        BOUND: (0.5, 0.7),
        "other": (2.0, 1.0),
        "rate": (8.0, 5.0),
    }  # peft was not measured
    assert (row.operations, row.operation_rate) == (240.0, 120.0)
    assert case.measure(FixedClock("cpu", 1), bandwidth=10.0).rates[BOUND] == 3.2
    assert case.measure(FixedClock("cpu", 1), bandwidth=10.0).bound_by == "bytes"


def test_growth_is_compared_with_theory() -> None:
    curve = Curve("growth", "x", "units", "seconds", [1, 2, 4], [1.0, 2.0, 3.0], [10.0, 20.0, 40.0])
    assert curve.growth == (3.0, 4.0)
    assert curve.scaled_theory == [0.75, 1.5, 3.0]


def test_real_products_take_time_by_their_count() -> None:
    torch.set_num_threads(1)
    clock = Clock("cpu", 2, quick=True)
    one = clock.product_seconds([Product(64, 64, 64)], "float32")
    many = clock.product_seconds([Product(64, 64, 64, 1000), Product(8, 16, 8, 0.0, 4)], "float32")
    assert one > 0
    assert many > 20 * one
    assert clock.bandwidth() > 0


def test_peft_does_the_work_that_ours_does() -> None:
    """With peft's rule for positions and the LM's own separator, logits under one prefix are the same."""
    pytest.importorskip("peft")
    lm = toy_lm()
    units = [*utterances(SPEECH_COMMANDS, 3, lm.unit_count), *equal_utterances(2, 1, lm.unit_count)]
    peft = PeftPrefix(lm, 4, 5)
    entry = fresh_entry(lm, units, 5, TrainingOptions(prompt_length=4, shifts_positions=True))
    table = next(p for name, p in peft.model.named_parameters() if p.requires_grad).detach()  # (P, L*2*D)
    vectors = table.view(4, lm.layers, 2, lm.heads, lm.head_dim).permute(1, 2, 3, 0, 4)
    with torch.no_grad():
        entry.prompt.vectors.copy_(vectors)
        entry.prompt.separator.copy_(lm.embedding(torch.tensor(lm.separator_id)))
        entry.verbalizer.weight.copy_(peft.head.weight)  # type: ignore[operator, union-attr]
        bank, batch = Bank([entry]).fold(lm), collate(units)
        rows = torch.zeros_like(batch.lengths)
        hidden = lm.forward(batch, bank.prefixes(lm, rows), bank.separators(rows))[:, -1]
        ours = entry.verbalizer.outputs(lm.heads_of(hidden)["units"])
        theirs = peft.scores(source_rows(units, lm))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_peft_learns_and_leaves_the_lm_alone() -> None:
    pytest.importorskip("peft")
    lm = toy_lm()
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    source, targets = source_rows(utterances(SPEECH_COMMANDS, 6, lm.unit_count), lm), torch.arange(6) % 2
    peft = PeftPrefix(lm, 4, 2)
    losses = [peft.step(source, targets) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, before[name]) for name, p in lm.model.named_parameters())


def test_memory_grows_with_length_and_layers() -> None:
    small, deep = toy_lm(layers=2), toy_lm(layers=4)
    assert step_bytes(small, 20) < step_bytes(small, 40) < step_bytes(deep, 40)
    # at least every layer's input in the feed-forward part, less the last layer's
    assert step_bytes(deep, 40) > 3 * 42 * 4 * deep.width


def test_live_bytes_count_what_is_alive_at_once() -> None:
    weight = torch.zeros(100)
    with LiveBytes([weight]) as live:
        first = torch.ones(1000)
        view, _ = first[:10], weight[:10]
        del first, view
        second = torch.ones(500) + torch.ones(500)
        second += 1
    assert live.most == 3 * 4 * 500


def test_the_longest_input_solves_the_polynomial() -> None:
    lengths = (10, 20, 40, 80)
    square = [7.0 + 3 * n + 0.5 * n * n for n in lengths]
    found = longest_within(7.0 + 3 * 500 + 0.5 * 500**2, lengths, square)
    assert found == pytest.approx(500)
    assert longest_within(7.0 + 3 * 900, lengths, [7.0 + 3 * n for n in lengths]) == pytest.approx(900)
