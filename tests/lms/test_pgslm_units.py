"""pGSLM under prompts: rows as specified, invariants of mixed batches, training, missing streams, save and load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_cases import assert_golden
from lms.toy_pgslm import KINDS, fairseq_tensors, prosodic_units, slow_states, toy_lm, toy_pgslm
from speechprompt.errors import CheckpointError, UnitsError, UnknownName, UsageError
from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.pgslm_units import PgslmUnitLM
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank, TaskPrompt
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.losses import label_losses
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.readings import OURS, UTTERANCE, stream_sizes
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_runs
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import load_unit_lm
from speechprompt.testing import UNIT_COUNT

METHODS = ["before_projection", "after_projection", "input"]
TASK = Task("pitch", {"pitch": ("low", "high"), "pace": ("slow", "fast")})
UNITS = prosodic_units([5, 9, 1, 7], seed=2)


def corpus(rows: int, seed: int = 0) -> Examples:
    """Utterances whose units say nothing: one label is in the pitch, the other in the durations."""
    random = np.random.default_rng(seed)
    units, targets = [], []
    for i in range(rows):
        high, fast, count = i % 2, (i // 2) % 2, int(random.integers(4, 9))
        ids = random.integers(0, UNIT_COUNT, count)
        durations = random.integers(1, 3, count) + (0 if fast else 3)
        units.append(Units(ids, durations, random.normal(0.4 if high else -0.4, 0.1, count)))
        targets.append([high, fast])
    return Examples(units, torch.tensor(targets))


TRAIN, VALID = corpus(32), corpus(16, seed=1)


def entry_of(lm: UnitLM, **changes: object) -> TaskPrompt:
    options = TrainingOptions.of_recipe("default", {"prompt_length": 3, **changes})
    return new_entry(TASK, lm, options, TRAIN.units, TRAIN.targets)


def run_of(lm: UnitLM, **changes: object) -> Run:
    options = {"batch_size": 8, "steps": 60, "evaluations": 6, "learning_rate": 2e-2, **changes}
    entry = entry_of(lm, **options)
    return Run("toy", entry, TrainingOptions.of_recipe("default", options), TRAIN, VALID)


@torch.no_grad()
def scores(lm: UnitLM, entries: Sequence[TaskPrompt], units: Sequence[Units], rows: Tensor) -> list[Tensor]:
    """Each row's scores, all slots in one vector."""
    found: list[Tensor] = [torch.empty(0)] * len(units)
    for entry in classify(lm, Bank(entries).fold(lm), collate(units), rows):
        for place, row in enumerate(entry.rows.tolist()):
            found[row] = torch.cat([values[place] for values in entry.slots.values()])
    return found


def hidden(lm: UnitLM, batch: UnitBatch, separators: Tensor) -> Tensor:
    with torch.no_grad():
        return lm.forward(batch, None, separators)


def test_the_protocol_is_kept() -> None:
    assert isinstance(toy_lm(), UnitLM)


@pytest.mark.parametrize("separator_prosody", ["last", "start"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_behind_an_utterance_are_as_documented(kind: str, separator_prosody: str) -> None:
    """Every layer, position by position, against the plain re-computation over streams spelt out here."""
    lm = toy_lm(kind, seed=4, separator_prosody=separator_prosody)
    config, tensors = lm.model.config, fairseq_tensors(lm.model)
    separators = torch.randn(len(UNITS), lm.width, generator=torch.Generator().manual_seed(0))
    answers = torch.tensor([[3, 11]] * len(UNITS))
    states = lm.states(collate(UNITS).with_answers(answers), None, separators)
    for i, units in enumerate(UNITS):
        durations = [min(int(d), 5) if config.discrete_duration else int(d) for d in units.durations]
        bins = [sum(v > e for e in config.f0_edges) for v in units.f0.tolist()]
        f0, ends = (bins, (9, 8)) if config.discrete_f0 else (units.f0.tolist(), (-5.0, 0.0))
        behind = 1 if separator_prosody == "last" else 0
        known = len(units) - 1 + behind
        rows = {
            "units": [config.bos_token_id, *units.ids.tolist(), config.bos_token_id, 3, 11],
            "durations": [0, 0, *durations[:known], *[0] * (3 - behind)],
            "f0": [ends[0], ends[1], *f0[:known], *[ends[1]] * (3 - behind)],
        }
        place, count = len(units) + 1, len(units) + 4
        replaced = {**tensors, "decoder.embed_tokens.weight": tensors["decoder.embed_tokens.weight"].clone()}
        unknown = config.vocab_size - 1
        replaced["decoder.embed_tokens.weight"][unknown] = separators[i]
        rows["units"][place] = unknown
        slow, logits = slow_states(replaced, config, rows["units"], rows["durations"], rows["f0"])
        for layer in range(lm.layers + 1):
            assert_golden(states[layer][i, :count], slow[layer])
        heads = lm.heads_of(states[-1][i, :count])
        assert heads.keys() == logits.keys() == {"units", "duration", "f0"}
        for name, values in heads.items():
            assert_golden(values, logits[name])


@torch.no_grad()
def test_forward_is_the_separator_and_answers_of_states() -> None:
    lm, separators = toy_lm(), torch.randn(len(UNITS), 16)
    batch = collate(UNITS).with_answers(torch.tensor([[3], [4], [5], [6]]))
    states = lm.states(batch, None, separators)[-1]
    found = lm.forward(batch, None, separators, before=1)
    for i, units in enumerate(UNITS):
        assert_golden(found[i], states[i, len(units) : len(units) + 3])


def test_the_separator_sees_the_last_units_prosody_or_not() -> None:
    last, start = toy_lm(), toy_lm(separator_prosody="start")
    units = UNITS[0]
    changed = Units(units.ids, np.r_[units.durations[:-1], units.durations[-1] % 5 + 1], units.f0)
    separators = torch.randn(1, 16)
    for lm, differs in ((last, True), (start, False)):
        one, other = (hidden(lm, collate([u]), separators) for u in (units, changed))
        assert torch.equal(one, other) is not differs
    assert last.fingerprint != start.fingerprint


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_alone_equals_in_any_mixed_batch(kind: str, method: str) -> None:
    lm = toy_lm(kind)
    entries = [entry_of(lm, method=method, prompt_length=n, seed=n) for n in (0, 1, 4)]
    entries.append(entry_of(lm, method=method, decoding="autoregressive", shifts_positions=True))
    rows = torch.tensor([0, 1, 2, 3, 2, 1, 0, 3])
    units = [*UNITS, *prosodic_units([3, 12, 2, 6], seed=9)]
    together = scores(lm, entries, units, rows)
    for i, row in enumerate(rows.tolist()):
        alone = scores(lm, [entries[row]], [units[i]], torch.zeros(1, dtype=torch.int64))[0]
        assert torch.allclose(together[i], alone, atol=1e-5), i


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_an_empty_prompt_is_the_bare_lm(method: str) -> None:
    lm = toy_lm()
    entry = entry_of(lm, method=method, prompt_length=0)
    batch, rows = collate(UNITS), torch.zeros(len(UNITS), dtype=torch.int64)
    bank = Bank([entry])
    prompted = lm.forward(batch, bank.prefixes(lm, rows), bank.separators(rows))
    assert torch.equal(prompted, hidden(lm, batch, bank.separators(rows)))


@torch.no_grad()
def test_a_folded_prompt_is_the_unfolded_one() -> None:
    lm = toy_lm()
    raw = Prompt.normal("before_projection", 4, lm, torch.Generator().manual_seed(0))
    after = Prompt("after_projection", raw.prefix(lm), raw.separator)
    batch, rows = collate(UNITS), torch.zeros(len(UNITS), dtype=torch.int64)
    outs = []
    for prompt in (raw, after):
        bank = Bank([TaskPrompt(TASK, prompt, entry_of(lm).verbalizer)])
        outs.append(lm.forward(batch, bank.prefixes(lm, rows), bank.separators(rows)))
    assert_golden(*outs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_all_that_trains_and_nothing_frozen(kind: str, method: str) -> None:
    lm, frozen = toy_lm(kind), toy_lm(kind).model.state_dict()
    entries = [entry_of(lm, method=method), entry_of(lm, method=method, decoding="autoregressive")]
    rows = torch.tensor([0, 1, 0, 1])
    targets = [torch.tensor([[0, 1], [1, 0]])] * 2
    losses = label_losses(lm, Bank(entries), collate(UNITS), rows, targets)
    sum((entry.loss for entry in losses), torch.zeros(())).backward()
    for entry in entries:
        for name, parameter in entry.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, frozen[name])


def test_labels_that_only_prosody_tells_are_learnt() -> None:
    """Units are noise here: the prosody LM learns the labels, and the same LM without prosody cannot.

    Counts of units would be noise too, which a verbalizer of 32 utterances learns by heart.
    """
    found = {}
    for kind in ("continuous", "continuous_no_prosody"):
        run = run_of(toy_lm(kind, seed=2), prompt_length=4, steps=150, select_by="loss", streams="state")
        train_runs(run_lm := toy_lm(kind, seed=2), [run])
        assert run_lm.fingerprint == toy_lm(kind, seed=2).fingerprint
        found[kind] = run.progress.best_accuracy
    assert found["continuous"] > 0.8
    assert found["continuous_no_prosody"] < 0.7


def test_joint_training_equals_separate_training() -> None:
    lm = toy_lm()
    apart = [run_of(lm, steps=6, seed=s, prompt_length=2 + s) for s in (0, 1)]
    for run in apart:
        train_runs(lm, [run])
    joint = [run_of(lm, steps=6, seed=s, prompt_length=2 + s) for s in (0, 1)]
    train_runs(lm, joint)
    for one, other in zip(apart, joint, strict=True):
        for name, tensor in one.entry.state_dict().items():
            assert torch.allclose(tensor, other.entry.state_dict()[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("units", "name"),
    [([Units([1])], "durations"), ([Units([1], [1])], "f0"), ([UNITS[0], Units([1], [1])], "f0")],
)
def test_missing_streams_are_named(units: list[Units], name: str) -> None:
    with pytest.raises(UnitsError, match=f"reads {name}"):
        hidden(toy_lm(), collate(units), torch.randn(len(units), 16))


@pytest.mark.parametrize("kind", ["no_prosody", "continuous_no_prosody"])
def test_an_lm_without_prosody_needs_none_and_hears_none(kind: str) -> None:
    lm, separators = toy_lm(kind), torch.randn(len(UNITS), 16)
    bare = [Units(units.ids) for units in UNITS]
    without = toy_pgslm(kind, f0_edges=None)
    for other in (lm, PgslmUnitLM(without)):
        assert torch.equal(hidden(lm, collate(UNITS), separators), hidden(other, collate(bare), separators))


@pytest.mark.parametrize("kind", ["discrete", "continuous", "mixed"])
def test_neutral_streams_are_zero_frames_and_the_mean_pitch(kind: str) -> None:
    lm, separators = toy_lm(kind, missing_streams="neutral"), torch.randn(len(UNITS), 16)
    batch = collate(UNITS)
    bare = replace(batch, durations=None, f0=None)
    zeros = replace(batch, durations=torch.zeros_like(batch.durations), f0=torch.zeros_like(batch.f0))
    assert torch.equal(hidden(lm, bare, separators), hidden(lm, zeros, separators))
    assert not torch.equal(hidden(lm, batch, separators), hidden(lm, bare, separators))
    assert lm.fingerprint == toy_lm(kind).fingerprint


def test_padding_may_hold_anything() -> None:
    lm, batch, separators = toy_lm(), collate(UNITS), torch.randn(len(UNITS), 16)
    dirty = replace(
        batch, unit_ids=batch.unit_ids.clone(), durations=batch.durations.clone(), f0=batch.f0.clone()
    )
    padding = torch.arange(batch.unit_ids.shape[1]) >= batch.lengths[:, None]
    dirty.unit_ids[padding], dirty.durations[padding], dirty.f0[padding] = 10**6, -7, torch.nan
    assert torch.equal(hidden(lm, batch, separators), hidden(lm, dirty, separators))


def test_foreign_units_and_long_utterances_are_refused() -> None:
    lm = toy_lm()
    for units, reason in (
        (Units([UNIT_COUNT], [1], np.zeros(1)), f"unit {UNIT_COUNT}"),
        (Units([1], [1], np.array([np.nan])), "finite"),
        (Units([1] * 201, [1] * 201, np.zeros(201)), "limit of 200"),
    ):
        with pytest.raises(UnitsError, match=reason):
            hidden(lm, collate([units]), torch.randn(1, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_save_load_same_scores(tmp_path: Path, kind: str) -> None:
    lm = toy_lm(kind)
    lm.model.save_pretrained(tmp_path)
    loaded = load_unit_lm(tmp_path)
    assert isinstance(loaded, PgslmUnitLM)
    assert loaded.fingerprint == lm.fingerprint
    entry, rows = entry_of(lm), torch.zeros(len(UNITS), dtype=torch.int64)
    for ours, theirs in zip(
        scores(lm, [entry], UNITS, rows), scores(loaded, [entry], UNITS, rows), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_fingerprint_outlives_precision_and_covers_the_streams() -> None:
    lm = toy_lm()
    before = lm.fingerprint
    assert lm.to(dtype=torch.bfloat16).fingerprint == before
    assert hidden(lm, collate(UNITS), torch.randn(len(UNITS), 16)).dtype == torch.bfloat16
    others = [toy_pgslm(f0_edges=[e + 0.01 for e in lm.model.config.f0_edges]), toy_pgslm(reads_f0=False)]
    assert len({before, toy_lm(seed=1).fingerprint, *(PgslmUnitLM(m).fingerprint for m in others)}) == 4


def test_unknown_options_and_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="last"):
        toy_lm(separator_prosody="lst")
    with pytest.raises(UnknownName, match="neutral"):
        toy_lm(missing_streams="neutrl")
    lm = toy_lm()
    lm.model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="a pGSLM"):
        PgslmUnitLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_a_verbalizer_over_all_streams_mixes_with_others(kind: str, tmp_path: Path) -> None:
    lm = toy_lm(kind)
    sizes = stream_sizes(lm)
    assert list(sizes) == ["units", "duration", "f0", *OURS]
    heads = sum(size for name, size in sizes.items() if name not in OURS)
    plain, joint = entry_of(lm), entry_of(lm, streams="all", seed=3)
    assert plain.verbalizer.weight.shape == (4, sum(sizes[name] for name in UTTERANCE))
    assert joint.verbalizer.weight.shape == (4, heads)
    bank, rows = Bank([plain, joint]), torch.tensor([0, 1, 1, 0])
    bank = bank.fold(lm)
    mixed = {scores.entry: scores for scores in classify(lm, bank, collate(UNITS), rows)}
    for k, entry in enumerate((plain, joint)):
        for place, row in enumerate(mixed[k].rows.tolist()):
            [alone] = classify(lm, Bank([entry]).fold(lm), collate([UNITS[row]]), torch.tensor([0]))
            for slot, scores in alone.slots.items():
                ours, theirs = mixed[k].slots[slot][place].detach(), scores[0].detach()
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    run = run_of(lm, streams="all", steps=4, evaluations=1)
    weight = run.entry.verbalizer.weight.detach().clone()
    train_runs(lm, [run])
    columns = (run.entry.verbalizer.weight != weight).any(0)
    assert columns[: sizes["units"]].any()
    assert columns[sizes["units"] :].any()
    with pytest.raises(UsageError, match="learnable"):
        TrainingOptions.of_recipe("default", {"streams": "all", "verbalizer": "random"})


def test_the_folder_says_what_stands_under_the_separator(tmp_path: Path) -> None:
    model = toy_pgslm(separator_prosody="start")
    model.save_pretrained(tmp_path)
    read = PgslmUnitLM.from_pretrained(tmp_path)
    assert read.separator_prosody == "start"
    assert (
        read.fingerprint == PgslmUnitLM(model, "start").fingerprint != PgslmUnitLM(model, "last").fingerprint
    )
