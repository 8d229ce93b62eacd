"""Units changed in training only: what a step draws, what it may not touch, and that it can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import TrainingError
from speechprompt.prompting.augmentation import augmented
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.prompting.training import evaluate_run, train_runs
from speechprompt.speech.units import Units, deduplicate
from speechprompt.testing import toy_lm
from toys import TEST, run_of

LM = toy_lm()
ALL: dict[str, Any] = {"unit_masking": 0.2, "unit_dropout": 0.2, "span_dropout": 0.3, "unit_jitter": 0.2}
SHARES = st.sampled_from([0.0, 0.1, 0.5, 0.95])
ROWS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, shares=st.tuples(SHARES, SHARES, SHARES, SHARES), step=st.integers(0, 9))
def test_a_changed_row_is_still_units(rows: list[list[int]], shares: tuple[float, ...], step: int) -> None:
    options = TrainingOptions(**dict(zip(ALL, shares, strict=True)))
    units = [deduplicate(row) for row in rows]
    before = [(row.ids.copy(), row.durations) for row in units]
    changed = augmented(units, options, step)
    heard = {int(unit) for row in units for unit in row.ids}
    for row in changed:
        assert len(row) >= 1
        assert {int(unit) for unit in row.ids} <= heard
        assert (row.ids[1:] != row.ids[:-1]).all()
    assert all(
        np.array_equal(row.ids, ids) and row.durations is d
        for row, (ids, d) in zip(units, before, strict=True)
    )
    assert list(changed) == list(augmented(units, options, step))
    if not any(shares):
        assert changed is units


def test_each_option_does_what_it_says() -> None:
    rows = [Units(np.arange(400) + 400 * i, np.full(400, 3), np.arange(400)) for i in range(8)]
    masked, dropped, cut, stretched = (augmented(rows, TrainingOptions(**{name: 0.3}), 5) for name in ALL)
    own = np.mean([np.mean(np.isin(a.ids, b.ids)) for a, b in zip(masked, rows, strict=True)])
    assert own == pytest.approx(
        0.7 + 0.3 / 8, abs=0.04
    )  # an eighth of the stand-ins come from the row itself
    assert np.mean([len(row) / 400 for row in dropped]) == pytest.approx(0.7, abs=0.05)
    for row in cut:
        assert 0.69 * 400 <= len(row) <= 400
        assert np.sum(np.diff(row.f0) != 1) <= 1  # one hole, and the streams stay together
    frames = [int(row.durations.sum()) for row in stretched if row.durations is not None]
    assert all(0.69 * 1200 <= count <= 1.31 * 1200 for count in frames)
    assert len(set(frames)) > 4


def test_steps_and_seeds_draw_differently() -> None:
    rows = [deduplicate(np.arange(60) % 7)]
    lengths = {
        (seed, step): augmented(rows, TrainingOptions(unit_dropout=0.5, seed=seed), step)[0].ids.tobytes()
        for seed in range(2)
        for step in range(3)
    }
    assert len(set(lengths.values())) == 6


def test_units_without_durations_cannot_be_jittered() -> None:
    run = run_of(LM)
    bare = Examples([Units(row.ids) for row in run.train.units], run.train.targets)
    with pytest.raises(TrainingError, match="durations"):
        type(run)("bare", run.entry, TrainingOptions(unit_jitter=0.1), bare, run.valid)


def test_validation_and_inference_hear_the_units_as_they_are() -> None:
    plain, worn = run_of(LM), run_of(LM, **ALL)
    assert evaluate_run(LM, plain) == evaluate_run(LM, worn)
    for slot, scores in scores_of(LM, plain.entry, TEST).items():
        assert torch.equal(scores, scores_of(LM, worn.entry, TEST)[slot])
    train_runs(LM, [plain])
    train_runs(LM, [worn])
    assert not torch.equal(plain.entry.prompt.vectors, worn.entry.prompt.vectors)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_resumed_run_hears_what_an_uninterrupted_one_does(recipe: str, tmp_path: Path) -> None:
    whole, parts = run_of(LM, recipe=recipe, **ALL), run_of(LM, recipe=recipe, **ALL)
    train_runs(LM, [whole])

    class Stopped(Exception):
        pass

    def stop(event: Any) -> None:
        if event["event"] == "step" and event["step"] == 8:
            raise Stopped

    with pytest.raises(Stopped):
        train_runs(LM, [parts], stop, tmp_path / "checkpoint.pt", checkpoint_every=3)
    resumed = run_of(LM, recipe=recipe, **ALL)
    train_runs(LM, [resumed], checkpoint=tmp_path / "checkpoint.pt")
    for name, tensor in whole.entry.state_dict().items():
        assert torch.equal(tensor, resumed.entry.state_dict()[name]), name
