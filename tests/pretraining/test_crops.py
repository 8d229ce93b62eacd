"""Crops gathered where all frames lie, and a cost over all of them, are those of the plain way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pretraining.toy_encoder import SIZES, TOY
from speechprompt.pretraining import crops as crops_module
from speechprompt.pretraining.crops import (
    Crops,
    CropSource,
    ResidentCrops,
    StoredCrops,
    Targets,
    crop_source,
    has_room,
)
from speechprompt.pretraining.frames import SpeechFrames
from speechprompt.pretraining.masked_prediction import (
    MaskedPredictionOptions,
    MaskedPredictor,
    _loss,
    _spans,
    pretrain_encoder,
    worn,
)

CPU = torch.device("cpu")
RUN = replace(TOY, steps=6, crop_frames=20)


def speech_of(lengths: list[int], rng: np.random.Generator) -> SpeechFrames:
    values = rng.standard_normal((sum(lengths), 40)).astype(np.float16)
    return SpeechFrames(values, np.cumsum([0, *lengths]), np.arange(len(lengths)))


def targets_of(lengths: list[int], rng: np.random.Generator, named: bool, trusted: bool) -> Targets:
    clusters = [rng.integers(5, size=n).astype(np.int16) for n in lengths]
    phonemes = [rng.integers(-1, 3, size=n) for n in lengths] if named else None
    trust = [rng.random(n).astype(np.float16) for n in lengths] if trusted else None
    return Targets(clusters, 5, phonemes, 3 if named else 0, trust)


def drawn(source: CropSource, rows: list[int], seed: int) -> Crops:
    return source.draw(rows, np.random.default_rng(seed))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 99), st.booleans(), st.booleans())
def test_gathered_crops_are_those_read_clip_by_clip(
    lengths: list[int], seed: int, named: bool, trusted: bool
) -> None:
    rng = np.random.default_rng(seed)
    speech, targets = speech_of(lengths, rng), targets_of(lengths, rng, named, trusted)
    rows = rng.permutation(len(lengths)).tolist()
    stored, gathered = (
        drawn(kind(speech, targets, 12, CPU), rows, seed) for kind in (StoredCrops, ResidentCrops)
    )
    for name in Crops.__dataclass_fields__:
        one, other = getattr(stored, name), getattr(gathered, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name


def test_frames_move_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    speech, targets = speech_of([7, 4, 9], rng), targets_of([7, 4, 9], rng, True, True)
    whole = drawn(ResidentCrops(speech, targets, 5, CPU), [2, 0, 1], 3)
    monkeypatch.setattr(crops_module, "_PIECE", 3)
    assert torch.equal(drawn(ResidentCrops(speech, targets, 5, CPU), [2, 0, 1], 3).frames, whole.frames)


def test_only_a_gpu_with_room_takes_the_speech_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    speech, targets = speech_of([7, 4], rng), targets_of([7, 4], rng, False, False)
    assert isinstance(crop_source(speech, targets, 5, "cpu"), StoredCrops)
    needed = 11 * (80 + 12)
    for free, roomy in ((2 * needed, True), (2 * needed - 2, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert has_room(speech, torch.device("cuda")) == roomy


@pytest.mark.parametrize("trusted", [True, False])
def test_a_run_that_gathers_its_crops_is_the_run_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    rng = np.random.default_rng(1)
    lengths = [5, 30, 18, 25, 40, 9]
    speech, targets = speech_of(lengths, rng), targets_of(lengths, rng, True, trusted)
    read = pretrain_encoder(speech, targets, tmp_path / "read", RUN)
    monkeypatch.setattr(crops_module, "has_room", lambda speech, device: True)
    gathered = pretrain_encoder(speech, targets, tmp_path / "gathered", RUN)
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, gathered.state_dict()[name]), name
    logs = [
        [{k: v for k, v in json.loads(line).items() if k != "steps_per_second"} for line in text.splitlines()]
        for text in (
            (tmp_path / run / "log.jsonl").read_text(encoding="utf-8") for run in ("read", "gathered")
        )
    ]
    assert logs[0] == logs[1]
    assert any("phoneme_accuracy" in record for record in logs[0])


def picked_loss(model: MaskedPredictor, crops: Crops, options: MaskedPredictionOptions) -> Tensor:
    """The same cost, of the frames picked out that count."""
    hidden = _spans(crops.real, options)
    heard = worn(crops.frames, crops.real, options.warp, options.wear, options.narrow)
    clusters, phonemes = model.guesses(heard, crops.real, hidden)
    costs = functional.cross_entropy(clusters[crops.real], crops.clusters[crops.real], reduction="none")
    weights = torch.where(hidden[crops.real], 1.0, options.visible_weight)
    loss = (costs * weights).sum() / weights.sum()
    known = crops.phonemes >= 0
    if phonemes is None or not known.any():
        return loss
    named = functional.cross_entropy(
        phonemes[known], crops.phonemes[known], reduction="none", label_smoothing=0.1
    )
    trust = crops.trust[known]
    return loss + options.phoneme_weight * (named * trust).sum() / trust.sum().clamp_min(1.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("named", "trusted"), [(False, False), (True, False), (True, True)])
def test_the_cost_is_that_of_the_frames_that_count(seed: int, named: bool, trusted: bool) -> None:
    rng = np.random.default_rng(seed)
    lengths = [3, 11, 7]
    crops = drawn(
        StoredCrops(speech_of(lengths, rng), targets_of(lengths, rng, named, trusted), 9, CPU), [0, 1, 2], 0
    )
    if seed == 3:
        crops = replace(crops, phonemes=torch.full_like(crops.phonemes, -1))
    options = replace(RUN, phoneme_weight=0.7, visible_weight=0.3, narrow=0.5)
    values, slopes = [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MaskedPredictor(SIZES, 5, 3 if named else 0)
        for cost in (_loss, picked_loss):
            torch.manual_seed(seed + 10)
            loss = cost(model, crops, options)
            values.append(loss.item())
            slopes.append(torch.autograd.grad(loss, model.encoder.project.weight)[0])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    torch.testing.assert_close(slopes[0], slopes[1])


def test_a_step_asks_for_no_value() -> None:
    """Tensors without values take part in it: what would wait for a GPU, or is left on the host, fails."""
    rng = np.random.default_rng(0)
    lengths, meta = [3, 11, 7], torch.device("meta")
    source = ResidentCrops(speech_of(lengths, rng), targets_of(lengths, rng, True, True), 9, meta)
    model = MaskedPredictor(SIZES, 5, 3).to(meta)
    loss = _loss(model, drawn(source, [0, 1, 2], 0), replace(RUN, narrow=0.5))
    loss.backward()
    assert all(p.grad is not None and p.grad.device == meta for p in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    rng, gpu = np.random.default_rng(0), torch.device("cuda")
    lengths = [30, 11, 70]
    speech, targets = speech_of(lengths, rng), targets_of(lengths, rng, True, True)
    source = crop_source(speech, targets, 32, gpu)
    assert isinstance(source, ResidentCrops)
    stored = drawn(StoredCrops(speech, targets, 32, CPU), [2, 0, 1], 0)
    for name in Crops.__dataclass_fields__:
        assert torch.equal(getattr(drawn(source, [2, 0, 1], 0), name).cpu(), getattr(stored, name)), name
    model = MaskedPredictor(SIZES, 5, 3).to(gpu)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    try:
        for mode in ("default", "error"):
            torch.cuda.set_sync_debug_mode(mode)
            with torch.random.fork_rng(), torch.autocast("cuda", torch.bfloat16):
                torch.manual_seed(1)
                loss = _loss(model, drawn(source, [2, 0, 1], 0), replace(RUN, narrow=0.5))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


def test_something_is_hidden_where_chance_hides_nothing() -> None:
    real = torch.ones(3, 5, dtype=torch.bool)
    hidden = _spans(real, replace(RUN, span_starts=0.0))
    assert hidden[:, 0].all()
    assert not hidden[:, 1:].any()
