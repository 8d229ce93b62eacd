"""What scores may depend on: the utterance and its prompt, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.benchmarking.naive import NaivePromptedGslm
from speechprompt.lms.batch import collate
from speechprompt.lms.prefix import stack_prefixes
from speechprompt.prompting.bank import Bank, TaskPrompt
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import train_step
from speechprompt.speech.units import Units
from speechprompt.testing import UNIT_COUNT, toy_lm
from toys import CORPUS, entry_of, run_of, scores, scores_alone, some_units, with_garbage

LM = toy_lm()
METHODS = ("before_projection", "after_projection", "input")
TASKS = [Task.of_corpus(CORPUS, slots) for slots in (["word"], ["length", "word"])]
KINDS = st.fixed_dictionaries(
    {
        "recipe": st.sampled_from(["default", "paper"]),
        "task": st.sampled_from(TASKS),
        "method": st.sampled_from(METHODS),
        "prompt_length": st.integers(0, 6),
        "shifts_positions": st.booleans(),
        "decoding": st.sampled_from(["parallel", "autoregressive"]),
        "verbalizer": st.sampled_from(["random", "frequency", "learnable"]),
        "initialisation": st.sampled_from(["units", "normal"]),
        "seed": st.integers(0, 99),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scores_alone_equal_scores_in_any_mixture(data: st.DataObject) -> None:
    entries = [entry_of(LM, **kind) for kind in data.draw(st.lists(KINDS, min_size=1, max_size=4))]
    lengths = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    rows = data.draw(st.lists(st.integers(0, len(entries) - 1), min_size=len(lengths), max_size=len(lengths)))
    garbage = data.draw(st.sampled_from([0, 7, -1, 10**9, -(2**40)]))
    units = some_units(lengths, seed=data.draw(st.integers(0, 9)))
    batch = with_garbage(collate(units), garbage, data.draw(st.integers(0, 5)))
    together = scores(LM, entries, batch, torch.tensor(rows))
    for row, k in enumerate(rows):
        alone = scores_alone(LM, entries[k], units[row])
        assert set(together[row]) == set(alone) == set(entries[k].task.slots)
        for slot, values in alone.items():
            torch.testing.assert_close(together[row][slot], values, atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(KINDS)
def test_a_folded_bank_gives_the_scores_of_an_unfolded_one(kind: dict[str, object]) -> None:
    entry, batch = entry_of(LM, **kind), collate(some_units([3, 11]))
    rows = torch.zeros(2, dtype=torch.int64)
    unfolded = classify(LM, Bank([entry]), batch, rows)[0].slots
    folded = scores(LM, [entry], batch, rows)
    for slot, values in unfolded.items():
        torch.testing.assert_close(torch.stack([row[slot] for row in folded]), values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_folded_bank_stays_as_it_was_while_its_prompt_trains(method: str) -> None:
    entry, batch, rows = entry_of(LM, method=method), collate(some_units([5])), torch.zeros(1).long()
    bank = Bank([entry])
    folded = bank.fold(LM)
    before = classify(LM, folded, batch, rows)[0].slots["word"]
    classify(LM, bank, batch, rows)[0].slots["word"][0, 0].backward()
    assert float(entry.prompt.vectors.grad.abs().max()) > 0
    with torch.no_grad():
        for parameter in entry.parameters():
            parameter += 1
    assert torch.equal(classify(LM, folded, batch, rows)[0].slots["word"], before)
    assert not torch.equal(classify(LM, bank, batch, rows)[0].slots["word"], before)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_prompt_is_the_bare_lm_exactly(method: str) -> None:
    entry = entry_of(LM, method=method, prompt_length=0, verbalizer="random")
    units, zero = some_units([9])[0], torch.zeros(1, dtype=torch.int64)
    ids = torch.tensor([[2, *LM.lm_ids(torch.from_numpy(units.ids)).tolist(), 0]])
    with torch.no_grad():
        rows = torch.where((ids == 0)[..., None], entry.prompt.separator, LM.model.embed_tokens(ids))
        bare = LM.model(inputs_embeds=rows).logits[0]
        prefixes = Bank([entry]).fold(LM).prefixes(LM, zero)
        states = LM.states(collate([units]), prefixes, entry.prompt.separator[None])
    assert torch.equal(LM.heads_of(states[-1])["units"][0], bare)
    for slot, values in scores_alone(LM, entry, units).items():
        expected = bare[-1, entry.verbalizer.columns(slot)].log_softmax(-1)
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(
    kind=KINDS.filter(lambda kind: kind["method"] != "after_projection" and not kind["shifts_positions"]),
    lengths=st.lists(st.integers(0, 25), min_size=1, max_size=4),
)
def test_the_naive_form_gives_the_same_logits(kind: dict[str, object], lengths: list[int]) -> None:
    entry, units = entry_of(LM, **{**kind, "streams": "units"}), some_units(lengths)
    source = torch.ones(len(units), max(lengths) + 2, dtype=torch.int64)
    for i, row in enumerate(units):
        source[i, : len(row) + 2] = torch.tensor([2, *LM.lm_ids(torch.from_numpy(row.ids)).tolist(), 0])
    rows, batch = torch.zeros(len(units), dtype=torch.int64), collate(units)
    with torch.no_grad():
        naive = NaivePromptedGslm(LM.model, entry)(source)
        bank = Bank([entry]).fold(LM)
        states = LM.states(batch, bank.prefixes(LM, rows), bank.separators(rows))[-1]
        ours = entry.verbalizer.outputs(LM.heads_of(states)["units"])
        last = LM.forward(batch, bank.prefixes(LM, rows), bank.separators(rows))[:, -1]
    valid = source != 1
    torch.testing.assert_close(ours[valid], naive[valid], atol=1e-5, rtol=1e-5)
    at_separator = entry.verbalizer.outputs(LM.heads_of(last)["units"])
    torch.testing.assert_close(at_separator, naive[source == 0], atol=1e-5, rtol=1e-5)


def test_predicting_first_does_not_break_training() -> None:
    """Tables made in inference mode must not end up in a graph."""
    lm = toy_lm()
    with torch.inference_mode():
        before = classify(lm, Bank([entry_of(lm)]), collate(some_units([5])), torch.zeros(1).long())
    assert before[0].slots["word"].isfinite().all()
    train_step(lm, [run_of(lm)])


def test_in_bfloat16_scores_stay_close_and_what_trains_stays_float32() -> None:
    lm, units = toy_lm(), some_units([12])[0]
    entry = entry_of(lm)
    expected = scores_alone(lm, entry, units)
    fingerprint = lm.fingerprint
    lm.to(dtype=torch.bfloat16)
    assert lm.fingerprint == fingerprint
    for slot, values in scores_alone(lm, entry, units).items():
        torch.testing.assert_close(values, expected[slot], atol=0.1, rtol=0)
    run = run_of(lm)
    train_step(lm, [run])
    assert {p.dtype for p in run.entry.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_prefix_of_peft_is_an_after_projection_prompt_that_shifts_positions() -> None:
    peft = pytest.importorskip("peft")
    lm, length = toy_lm(), 4
    numbers = torch.randn(length, lm.layers * 2 * lm.width, generator=torch.Generator().manual_seed(0))
    prefix = numbers.view(length, lm.layers, 2, lm.heads, lm.head_dim).permute(1, 2, 3, 0, 4)
    ids = torch.tensor([[2, 5, 9, 7, 4], [2, 8, 8, 10, 6]])
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=length,
        num_layers=lm.layers,
        token_dim=lm.width,
        num_attention_heads=lm.heads,
    )
    wrapped = peft.get_peft_model(toy_lm().model, config)
    wrapped.prompt_encoder["default"].embedding.weight.data.copy_(numbers)
    with torch.no_grad():
        theirs = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        prefixes = stack_prefixes([prefix], torch.zeros(2, dtype=torch.int64), [True])
        batch = collate([Units(np.array(row[1:]) - 4) for row in ids.tolist()])
        ours = LM.heads_of(LM.states(batch, prefixes, None)[-1])["units"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_through_peft_wraps_the_projections_and_trains() -> None:
    peft = pytest.importorskip("peft")
    model = toy_lm().model
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    wrapped = peft.get_peft_model(model, lora)
    trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2
    assert all("q_proj" in name or "v_proj" in name for name in trained)
    optimiser = torch.optim.SGD(trained.values(), lr=1.0)
    ids = torch.randint(4, UNIT_COUNT + 4, (3, 8), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(3):
        loss = wrapped(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_entries_are_used_whole() -> None:
    """`trained_parameters` counts every number that learns."""
    entry = entry_of(LM, method="before_projection", prompt_length=3)
    assert isinstance(entry, TaskPrompt)
    assert entry.trained_parameters() == 2 * 2 * 3 * 16 + 16 + 5 * (2 * 16 + UNIT_COUNT)


def test_a_verbalizer_of_the_state_never_asks_the_output_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy_lm()
    entry = entry_of(lm, streams="state", prompt_length=2)
    width = next(iter(entry.verbalizer.parameters())).shape[1]
    assert width == lm.width != lm.vocabulary_size
    bank, rows = Bank([entry]), torch.zeros(2, dtype=torch.int64)
    batch = collate(some_units([5, 9]))
    hidden = lm.forward(batch, bank.prefixes(lm, rows), bank.separators(rows))[:, -1]
    monkeypatch.setattr(lm, "heads_of", lambda hidden: pytest.fail("the output layer was asked"))
    found = classify(lm, bank.fold(lm), batch, rows)[0].slots
    for slot, ours in found.items():
        weight = next(iter(entry.verbalizer.parameters()))[entry.verbalizer.columns(slot)]
        torch.testing.assert_close(ours, (hidden @ weight.T).log_softmax(-1), atol=1e-5, rtol=1e-5)
