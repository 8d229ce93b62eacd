"""Pretraining with prosody: it learns each stream, resumes to the bit, and makes an LM that prompts can use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechprompt.errors import OutputExists, TrainingError, UnitsError
from speechprompt.lms.batch import collate
from speechprompt.lms.pgslm_units import PgslmUnitLM
from speechprompt.pretraining.prosodic_lm import (
    bits_of_streams,
    f0_edges,
    new_prosodic_lm,
    pretrain_prosodic_lm,
)
from speechprompt.pretraining.unit_lm_options import ProsodicLmOptions
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.spoken_lm_folder import write_folder, write_prosody_tokenizer

SMALL = {"layers": 1, "width": 16, "heads": 2, "inner": 32, "batch_units": 200, "bf16": False, "f0_bins": 8}


def rows(count: int, seed: int) -> list[Units]:
    """Units that count upwards; even ones are long and high, odd ones short and low."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        ids = (np.arange(int(random.integers(5, 12))) + int(random.integers(10))) % 10
        durations = np.where(ids % 2, 2, 6)
        found.append(Units(ids, durations, np.where(ids % 2, -0.3, 0.4).astype(np.float32)))
    return found


TRAIN, VALID = rows(60, 0), rows(12, 1)


def test_every_stream_is_learnt(tmp_path: Path) -> None:
    options = ProsodicLmOptions(**SMALL, steps=120, warmup_steps=5, learning_rate=1e-2, save_every=60)
    untrained = bits_of_streams(new_prosodic_lm(10, options, f0_edges(TRAIN, 8)), VALID)
    found = pretrain_prosodic_lm(TRAIN, VALID, 10, tmp_path / "run", options)
    assert set(found.bits) == {"bits_per_unit", "bits_per_duration", "bits_per_f0"}
    for name, bits in found.bits.items():
        assert bits < 0.6 * untrained[name], name
    found.model.save_pretrained(tmp_path / "lm")
    lm = PgslmUnitLM.from_pretrained(tmp_path / "lm")
    assert (lm.unit_count, lm.model.config.f0_edges) == (10, f0_edges(TRAIN, 8))


def test_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    options = ProsodicLmOptions(**SMALL, steps=8, save_every=4)
    whole = pretrain_prosodic_lm(TRAIN, VALID, 10, tmp_path / "whole", options)

    class Stopped(Exception):
        pass

    def stop(record: object) -> None:
        if record["step"] == 4 and "bits_per_unit" in record:  # type: ignore[index,operator]
            raise Stopped

    with pytest.raises(Stopped):
        pretrain_prosodic_lm(TRAIN, VALID, 10, tmp_path / "cut", options, progress=stop)
    resumed = pretrain_prosodic_lm(TRAIN, VALID, 10, tmp_path / "cut", options)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_streams_that_are_not_read_are_not_needed(tmp_path: Path) -> None:
    without = [Units(row.ids, row.durations) for row in TRAIN[:8]]
    options = ProsodicLmOptions(**SMALL, steps=2, reads_f0=False)
    assert set(pretrain_prosodic_lm(without, without, 10, tmp_path / "a", options).bits) == {
        "bits_per_unit",
        "bits_per_duration",
    }
    with pytest.raises(UnitsError, match="prosody tokenizer"):
        pretrain_prosodic_lm(without, without, 10, tmp_path / "b", ProsodicLmOptions(**SMALL))
    with pytest.raises(TrainingError, match="empty"):
        pretrain_prosodic_lm(TRAIN, [], 10, tmp_path / "c", ProsodicLmOptions(**SMALL))


def test_edges_spread_voiced_units_evenly() -> None:
    values = np.linspace(-1, 1, 321).astype(np.float32)
    edges = f0_edges([Units(np.zeros(321, int), np.ones(321, int), values)], 8)
    assert edges == pytest.approx(np.linspace(-0.75, 0.75, 7), abs=0.01)
    assert len(f0_edges([Units([1], [1], np.zeros(1, np.float32))], 8)) == 7


def test_no_pitch_has_a_bin_of_its_own_where_f0_is_absolute() -> None:
    values = np.linspace(4.1, 6.0, 320).astype(np.float32)
    edges = f0_edges([Units(np.zeros(321, int), np.ones(321, int), np.r_[values, np.float32(0)])], 8)
    assert edges == sorted(edges)
    bins = np.searchsorted(edges, np.r_[values, np.float32(0)])
    assert (bins[-1], bins[:-1].min(), bins[:-1].max()) == (0, 1, 7)
    assert np.bincount(bins)[1:].tolist() == pytest.approx([320 / 7] * 7, abs=1)


def test_a_prosodic_tiny_is_a_folder_that_hears_audio(tmp_path: Path) -> None:
    bundled = SpokenLM.load("tiny")
    assert bundled.folder is not None
    tokenizer = write_prosody_tokenizer(tmp_path / "tokenizer", bundled.folder / "tokenizer")
    model = new_prosodic_lm(bundled.tokenizer.unit_count, ProsodicLmOptions(**SMALL), f0_edges(TRAIN, 8))
    folder = write_folder(tmp_path / "lm", model, "prosodic-tiny", "tiny+f0", tokenizer_folder=tokenizer)
    found = SpokenLM.load(folder)
    assert (found.tokenizer_name, found.tokenizer.name) == ("tiny+f0", "tiny+f0")
    times = np.arange(8000) / found.tokenizer.sample_rate
    buzz = sum(np.cos(2 * np.pi * 150 * k * times) / k for k in range(1, 9)).astype(np.float32)
    units = found.tokenizer.encode(buzz)
    assert Units(units.ids, units.durations) == bundled.tokenizer.encode(buzz)
    assert units.f0 is not None
    assert units.f0.shape == units.ids.shape
    with torch.inference_mode():
        assert torch.isfinite(found.lm.unit_states(collate([units]))).all()
    with pytest.raises(OutputExists):
        write_prosody_tokenizer(tmp_path / "tokenizer", "hubert-base-l6-km100")
