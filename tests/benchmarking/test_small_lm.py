"""benchmarks/small_lm.py: both forms do the same work, and the plain one is plain."""

from __future__ import annotations

from typing import Any

import pytest
import small_lm
import torch

from speechprompt.benchmarking.case import BOUND, OURS
from speechprompt.benchmarking.clock import Form
from speechprompt.benchmarking.material import QUICK_SIZE, SPEECH_COMMANDS, random_lm
from speechprompt.benchmarking.suite import measured
from speechprompt.lms import decoder_units


def test_both_forms_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(small_lm.CASES, "toy", (QUICK_SIZE, SPEECH_COMMANDS))
    monkeypatch.setattr(small_lm, "BATCH", 4)
    lm = random_lm(QUICK_SIZE, "cpu", torch.float32)
    report = measured(small_lm.cases("toy", lm, seeds=True), 1)
    assert [row.stage for row in report.rows] == ["train", "predict", "seeds", "seeds"]
    assert all({OURS, "plain", BOUND} == row.rates.keys() for row in report.rows[:2])
    [difference] = report.figures
    assert difference.value < 1e-5


def test_the_plain_form_is_plain_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    fast: list[int] = []
    real = decoder_units.run_frozen

    def counted(*parts: Any) -> Any:
        fast.append(1)
        return real(*parts)

    monkeypatch.setattr(decoder_units, "run_frozen", counted)
    step = next(small_lm.cases("tiny-1s", random_lm(QUICK_SIZE, "cpu", torch.float32)))
    ours, plain = (step.forms[name] for name in (OURS, "plain"))  # type: ignore[union-attr]
    assert isinstance(plain, Form)
    plain.run()
    assert not fast
    ours.run()
    assert fast
