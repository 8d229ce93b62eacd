from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from speechprompt.errors import TrainingError, UnitsError
from speechprompt.lms.gslm import GslmForCausalLM
from speechprompt.pretraining.optimisation import Schedule
from speechprompt.pretraining.unit_lm import (
    UnitLmOptions,
    _tensors,
    bits_per_unit,
    lm_rows,
    new_unit_lm,
    pretrain_unit_lm,
    save_unit_lm,
)
from speechprompt.speech.units import Units

TOY = UnitLmOptions(
    layers=1, width=16, heads=2, inner=32, steps=6, batch_units=64, warmup_steps=2, save_every=2, bf16=False
)


def counting(rows: int = 12) -> list[Units]:
    """Utterances that count upwards modulo five: an easy language."""
    return [Units((np.arange(4 + i % 7) + i) % 5) for i in range(rows)]


def test_rows_predict_each_unit_and_the_end() -> None:
    ids, labels = _tensors([np.array([7, 8, 9]), np.array([5])])
    assert ids.tolist() == [[2, 7, 8, 9, 2], [2, 5, 2, 2, 2]]
    assert labels[:, 1:].tolist() == [[7, 8, 9, 2], [5, 2, -100, -100]]


def test_padding_costs_nothing() -> None:
    model = new_unit_lm(5, TOY)
    rows = lm_rows(counting(), 5, 100)
    assert bits_per_unit(model, rows) == pytest.approx(bits_per_unit(model, rows, batch_units=1), rel=1e-5)


def test_a_language_of_counting_is_learnt(tmp_path: Path) -> None:
    options = UnitLmOptions(**{**_as_dict(TOY), "steps": 150, "save_every": 150, "learning_rate": 1e-2})
    trained = pretrain_unit_lm(counting(40), counting(10), 5, tmp_path, options)
    assert trained.bits_per_unit < 0.6 * math.log2(6)
    assert not trained.model.training


def test_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain_unit_lm(counting(), counting(3), 5, tmp_path / "whole", TOY)

    class Interrupted(Exception):
        pass

    def stop(record: object) -> None:
        if isinstance(record, dict) and record.get("step") == 4 and "bits_per_unit" in record:
            raise Interrupted

    with pytest.raises(Interrupted):
        pretrain_unit_lm(counting(), counting(3), 5, tmp_path / "parts", TOY, progress=stop)
    resumed = pretrain_unit_lm(counting(), counting(3), 5, tmp_path / "parts", TOY)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    pretrain_unit_lm(counting(), counting(3), 5, tmp_path, TOY)
    other = UnitLmOptions(**{**_as_dict(TOY), "seed": 1})
    with pytest.raises(TrainingError, match="other options"):
        pretrain_unit_lm(counting(), counting(3), 5, tmp_path, other)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    pretrain_unit_lm(counting(), counting(3), 5, tmp_path, TOY)
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match=r"state\.pt is damaged"):
        pretrain_unit_lm(counting(), counting(3), 5, tmp_path, TOY)


def test_foreign_units_and_nothing_to_learn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnitsError, match="unit 5"):
        pretrain_unit_lm([Units(np.array([5]))], counting(3), 5, tmp_path, TOY)
    with pytest.raises(TrainingError, match="empty"):
        pretrain_unit_lm(counting(), [], 5, tmp_path, TOY)


def test_a_saved_lm_loads_rounded_to_half(tmp_path: Path) -> None:
    model = new_unit_lm(5, TOY)
    save_unit_lm(model, tmp_path)
    loaded = GslmForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(
        p.numel() for p in model.parameters()
    ) + 4096


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [schedule.rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[100] == 0.0
    assert rates[10:] == sorted(rates[10:], reverse=True)


def _as_dict(options: UnitLmOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in UnitLmOptions.__dataclass_fields__}
