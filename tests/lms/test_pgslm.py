"""The pGSLM model: every kind against a plain re-computation, checkpoints, streams, generation, save and load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from golden_cases import assert_golden
from lms.toy_pgslm import (
    EDGES,
    KINDS,
    fairseq_tensors,
    prosodic_units,
    slow_states,
    toy_pgslm,
    write_checkpoint,
)
from speechprompt.errors import CheckpointError, SpeechPromptError, UnitsError
from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.pgslm import PgslmForCausalLM
from speechprompt.lms.pgslm_config import PgslmConfig
from speechprompt.lms.pgslm_fairseq import load_pgslm, read_f0_edges
from speechprompt.lms.pgslm_generation import Temperatures
from speechprompt.lms.pgslm_streams import stream_losses, streams_of
from speechprompt.speech.units import Units

UNITS = prosodic_units([5, 9, 1])
OTHER_SIZES = {"vocab_size": 54, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}


def slow_streams(config: PgslmConfig, units: Units) -> dict[str, list[list[float]]]:
    """Source, target and mask of one utterance, spelt out: streams of whole values first, then the shift."""
    bos, pad, eos = config.vocab_size - 4, config.vocab_size - 3, config.vocab_size - 2
    durations = [float(d) for d in [0, *units.durations.tolist(), 0]]
    f0 = [float(f) for f in units.f0.tolist()] + [0.0]
    if config.discrete_duration:
        durations = [min(d, config.max_duration) for d in durations]
    if config.discrete_f0:
        f0 = [config.f0_bins, *[sum(value > edge for edge in config.f0_edges) for value in f0]]
    else:
        f0 = [0.0, *f0]
    rows = {
        "units": ([bos, *units.ids.tolist(), eos, pad], [0] * (len(units) + 2) + [1]),
        "duration": ([0, *durations], [1] + [0] * (len(units) + 2)),
        "f0": ([config.f0_bins + 1 if config.discrete_f0 else -5.0, *f0], [1] + [0] * (len(units) + 2)),
    }
    return {
        name: [values[:-1], values[1:], [max(pair) for pair in zip(padded[1:], padded, strict=False)]]
        for name, (values, padded) in rows.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_those_of_each_utterance_alone(kind: str) -> None:
    config = toy_pgslm(kind).config
    streams = streams_of(config, collate(UNITS))
    pads = {"units": config.vocab_size - 3, "duration": 0, "f0": config.f0_bins + 1}
    if not config.discrete_f0:
        pads["f0"] = -5.0
    for i, units in enumerate(UNITS):
        for name, (source, target, masked) in slow_streams(config, units).items():
            count, behind = len(source), streams.source[name].shape[1] - len(source)
            for got, expected, pad in (
                (streams.source[name][i], source, pads[name]),
                (streams.target[name][i], target, pads[name]),
                (streams.masked[name][i], masked, 1),
            ):
                assert got[:count].tolist() == pytest.approx(expected), (i, name)
                assert got[count:].tolist() == [pad] * behind
        assert int(streams.lengths[i]) == len(units) + 2


@pytest.mark.parametrize("layout", ["cfg", "args"])
@pytest.mark.parametrize("sizes", [{}, OTHER_SIZES], ids=["toy", "other sizes"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_checkpoint_computes_what_a_plain_recomputation_does(
    tmp_path: Path, kind: str, sizes: dict[str, int], layout: str
) -> None:
    original = toy_pgslm(kind, seed=3, loss_weights=[1.0, 0.25, 2.0], **sizes)
    write_checkpoint(original, tmp_path / "pgslm.pt", layout)
    np.save(tmp_path / "bins.npy", np.array(EDGES))
    model = load_pgslm(tmp_path / "pgslm.pt", tmp_path / "bins.npy")
    config, tensors = model.config, fairseq_tensors(original)
    streams = streams_of(config, collate(UNITS))
    source = streams.source
    out = model(source["units"], source["duration"], source["f0"], output_hidden_states=True)
    logits = {"units": out.logits, "duration": out.duration_logits, "f0": out.f0_logits}
    sums = dict.fromkeys(logits, 0.0)
    for i, units in enumerate(UNITS):
        slow = slow_streams(config, units)
        count = len(units) + 2
        states, expected = slow_states(tensors, config, *(slow[name][0] for name in logits))
        for layer in range(config.num_hidden_layers):
            assert_golden(out.hidden_states[layer][i, :count], states[layer])
        for name, values in logits.items():
            assert_golden(values[i, :count], expected[name])
            for row, target, masked in zip(expected[name], slow[name][1], slow[name][2], strict=True):
                cost = abs(row[0] - target) if len(row) == 1 else -row.log_softmax(0)[int(target)]
                sums[name] += float(cost) * (not masked)
    losses = stream_losses(config, logits, streams)
    for name, total in sums.items():
        assert float(getattr(losses, name)) == pytest.approx(total, rel=1e-5)
    weighed = sums["units"] + 0.25 * sums["duration"] + 2 * sums["f0"]
    assert float(losses.total) == pytest.approx(weighed, rel=1e-5)
    assert losses.rows == sum(len(units) + 2 for units in UNITS)


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20))
def test_a_bin_counts_the_edges_below(values: list[float]) -> None:
    batch = collate([Units([0] * len(values), [1] * len(values), np.array(values, np.float32))])
    source = streams_of(toy_pgslm().config, batch).source["f0"][0, 2:]
    exact = [sum(np.float64(np.float32(v)) > e for e in EDGES) for v in values[: len(source)]]
    assert source.tolist() == exact


def test_a_value_on_an_edge_belongs_below() -> None:
    batch = collate([Units([0, 0, 0], [1, 1, 1], np.array([0.0, 1e-6, -1e-6], np.float32))])
    assert streams_of(toy_pgslm().config, batch).target["f0"][0, 1:4].tolist() == [3, 4, 3]


def test_padding_may_hold_anything() -> None:
    batch = collate(UNITS)
    dirty = UnitBatch(batch.unit_ids.clone(), batch.lengths, batch.durations.clone(), batch.f0.clone())
    padding = torch.arange(batch.unit_ids.shape[1]) >= batch.lengths[:, None]
    dirty.unit_ids[padding], dirty.durations[padding], dirty.f0[padding] = 10**6, -3, torch.nan
    clean, other = (streams_of(toy_pgslm().config, b) for b in (batch, dirty))
    for part in ("source", "target", "masked"):
        for name, stream in getattr(clean, part).items():
            assert torch.equal(stream, getattr(other, part)[name])


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        (Units([1, 2]), "no durations"),
        (Units([1, 2], [1, 2]), "no durations or no F0"),
        (Units([1, 99], [1, 2], np.zeros(2, np.float32)), "unit 99"),
        (Units([1], [1], np.array([np.nan], np.float32)), "finite"),
        (Units([1], [1], np.array([np.inf], np.float32)), "finite"),
    ],
)
def test_streams_that_cannot_be_read_are_named(units: Units, reason: str) -> None:
    with pytest.raises(UnitsError, match=reason):
        streams_of(toy_pgslm().config, collate([units]))


def test_without_bins_an_lm_says_so(tmp_path: Path) -> None:
    write_checkpoint(toy_pgslm(), tmp_path / "pgslm.pt")
    model = load_pgslm(tmp_path / "pgslm.pt")
    with pytest.raises(UnitsError, match="f0_bins"):
        streams_of(model.config, collate(UNITS))


def test_bins_are_read_from_every_published_form(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(EDGES))
    torch.save({8: np.array(EDGES), 4: np.array([1.0, 2.0, 3.0])}, tmp_path / "b.th")
    torch.save({8: torch.tensor(EDGES, dtype=torch.float64)}, tmp_path / "c.th")
    for name in ("a.npy", "b.th", "c.th"):
        assert read_f0_edges(tmp_path / name, 8) == pytest.approx(EDGES)
    write_checkpoint(toy_pgslm(), tmp_path / "pgslm.pt")
    (tmp_path / "b.th").rename(tmp_path / "mean_norm_log_f0_seg_bin.th")
    assert load_pgslm(tmp_path / "pgslm.pt").config.f0_edges == pytest.approx(EDGES)


def test_foreign_bins_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.zeros(3))
    np.save(tmp_path / "down.npy", np.array(EDGES[::-1]))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    torch.save({32: [1.0]}, tmp_path / "none.th")
    (tmp_path / "text.th").write_text("no bins")
    for name in ("few.npy", "down.npy", "objects.npy", "none.th", "text.th", "absent.npy", "absent.th"):
        with pytest.raises(CheckpointError, match=name.split(".")[0]):
            read_f0_edges(tmp_path / name, 8)


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    model = toy_pgslm()
    write_checkpoint(model, tmp_path / "shifted.pt", stream_shifts="0,2")
    damaged = {
        "no_output": {"decoder.project_out_dim.weight": None},
        "no_layer": {"decoder.layers.0.fc1.weight": None},
        "no_bias": {"decoder.layers.1.fc1.bias": None},
        "odd_output": {"decoder.project_out_dim.weight": torch.zeros(7, 16)},
        "odd_layer": {"decoder.layers.1.fc2.bias": torch.zeros(5)},
        "no_prosody": {"decoder.embed_other_list.0.weight": None},
    }
    for name, changes in damaged.items():
        tensors = {**fairseq_tensors(model), **changes}
        torch.save({"model": {k: v for k, v in tensors.items() if v is not None}}, tmp_path / f"{name}.pt")
    torch.save({"weights": 1}, tmp_path / "no_model.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for name in ("shifted", *damaged, "no_model", "text", "absent"):
        with pytest.raises(CheckpointError, match=f"{name}.pt"):
            load_pgslm(tmp_path / f"{name}.pt")


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_checkpoint_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_checkpoint(toy_pgslm(), folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    (folder / "cut.pt").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(SpeechPromptError):
        load_pgslm(folder / "cut.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_through_the_auto_classes(tmp_path: Path, kind: str) -> None:
    model = toy_pgslm(kind)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is PgslmConfig
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(loaded) is PgslmForCausalLM
    for name in ("discrete_f0", "reads_f0", "f0_edges", "loss_weights", "stream_sizes", "eos_token_id"):
        assert getattr(loaded.config, name) == getattr(model.config, name), name
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def naive_continuation(model: PgslmForCausalLM, units: Units, limit: int) -> Units:
    """Greedy continuation that computes every step from the whole utterance anew."""
    config = model.config
    ids, durations = units.ids.tolist(), [float(d) for d in units.durations]
    f0 = units.f0.tolist()
    centres = [-0.65, -0.35, -0.125, -0.025, 0.05, 0.2, 0.5, 0.9]
    while len(ids) < len(units) + limit + 1:
        known = Units(
            ids, np.array([*durations, *[1] * (len(ids) - len(durations))], int), _padded(f0, len(ids))
        )
        source = streams_of(config, collate([known])).source
        rows = {name: stream[:, : len(ids) + 1] for name, stream in source.items()}
        out = model(rows["units"], rows["duration"], rows["f0"])
        if len(durations) < len(ids):
            d, f = out.duration_logits[0, -1], out.f0_logits[0, -1]
            duration = float(
                d[1 : config.max_duration + 1].argmax() + 1 if len(d) > 1 else d[0].round().clamp(min=1)
            )
            durations.append(duration)
            f0.append(centres[int(f[: config.f0_bins].argmax())] if len(f) > 1 else float(f[0]))
        logits = out.logits[0, -1].clone()
        logits[[config.bos_token_id, config.pad_token_id, config.vocab_size - 1]] = -torch.inf
        if int(logits.argmax()) == config.eos_token_id:
            break
        ids.append(int(logits.argmax()))
    start, stop = len(units), min(len(durations), len(units) + limit)
    return Units(ids[start:stop], np.array(durations[start:stop], int), np.array(f0[start:stop], np.float32))


def _padded(values: list[float], count: int) -> np.ndarray:
    return np.array(values + [0.0] * (count - len(values)), np.float32)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_greedy_generation_is_a_step_at_a_time_and_keeps_streams_aligned(kind: str) -> None:
    model = toy_pgslm(kind, seed=1)
    rows = prosodic_units([4, 7, 1], seed=5)
    together = model.generate(collate(rows), max_new_units=12)
    assert any(len(units) for units in together)
    for units, continued in zip(rows, together, strict=True):
        alone = naive_continuation(model, units, 12)
        assert continued.ids.tolist() == alone.ids.tolist()
        assert continued.durations.tolist() == alone.durations.tolist()
        assert continued.f0.tolist() == pytest.approx(alone.f0.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_is_seeded_and_gives_utterances(kind: str) -> None:
    model = toy_pgslm(kind)
    batch = collate([Units([], np.zeros(0, int), np.zeros(0, np.float32)), *UNITS])
    free = Temperatures(1.0, 1.0, 1.0)
    once, again, other = (
        model.generate(batch, 15, free, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert once == again
    assert once != other
    for units in once:
        assert len(units) <= 15
        assert set(units.ids.tolist()) <= set(range(20))
        if len(units):
            assert units.durations.min() >= 1
            assert np.isfinite(units.f0).all()
            streams_of(model.config, collate([units]))


def test_an_empty_continuation_is_empty() -> None:
    assert [len(units) for units in toy_pgslm().generate(collate(UNITS), max_new_units=0)] == [0, 0, 0]
