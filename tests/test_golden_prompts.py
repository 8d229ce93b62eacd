"""The reference's numbers for prompts on GSLM: states, logits, loss, gradients, five Adam steps, predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden_cases import GoldenCase, assert_golden, golden_case
from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank, BankEntry, TaskPrompt
from speechprompt.prompting.classifier import classify, decode_freely
from speechprompt.prompting.losses import published_loss
from speechprompt.prompting.optimiser import PublishedAdam, clip
from speechprompt.prompting.readings import states_of
from speechprompt.prompting.reference import read_reference_prompt, reference_prompt
from speechprompt.prompting.task import Task
from speechprompt.speech.units import Units

pytestmark = pytest.mark.golden

TRAINED = [
    "a_input_prompt",
    "b_deep_prompt",
    "c_deep_learnable_verbalizer",
    "c2_clip_norm_active",
    "d_freq_greedy",
    "d2_random_greedy",
    "e_shuffled_dict_freq",
    "g_lengths_1_200",
    "m_multi_label_learnable",
]
PREDICTED = [name for name in TRAINED if name not in ("c2_clip_norm_active", "g_lengths_1_200")]
SHORT = 12
"""The words of an answer that are decoded for every clip."""


def task_of(case: GoldenCase, slots: int) -> tuple[Task, dict[str, str]]:
    """Every unit or row that can stand behind a separator, in each of so many slots."""
    path = case.folder / "verbalizer.json"
    if path.exists():
        symbols = json.loads(path.read_text())
    elif case.arguments["linear_verbalizer"]:
        rows = case.tensor("init/decoder.prompt_linear_verbalizer.weight").shape[0] - 4
        symbols = {f"label{i}": str(i) for i in range(rows)}
    else:
        symbols = {f"label{i}": str(i) for i in range(100)}
    return Task("golden", {f"slot{s}": tuple(symbols) for s in range(slots)}), symbols


class Batches:
    """A golden batch under one set of parameters: as many entries as rows differ in their number of labels."""

    def __init__(self, case: GoldenCase, group: str, dtype: torch.dtype = torch.float32) -> None:
        self.case, self.parts = case, case.batches()
        if dtype != torch.float32:  # elsewhere logits are fp32 whatever the LM computes in
            case.lm.to("cpu", dtype)
            case.lm.heads_of = lambda hidden: {"units": case.lm.model.output_projection(hidden)}  # type: ignore[method-assign]
        tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor.clone()
            for name, tensor in case.tensors(group).items()
        }
        slots = max(answers.shape[1] for _, answers, _ in self.parts)
        task, symbols = task_of(case, slots)
        self.entry = reference_prompt(tensors, case.lm, task, symbols)
        self.entries = [
            TaskPrompt(task_of(case, answers.shape[1])[0], self.entry.prompt, self.entry.verbalizer)
            for _, answers, _ in self.parts
        ]

    def loss(self) -> tuple[Tensor, int]:
        pairs = []
        for entry, (batch, answers, _) in zip(self.entries, self.parts, strict=True):
            columns = []
            for s, slot in enumerate(entry.task.slots):
                matches = entry.verbalizer.answers(slot)[None] == answers[:, s, None]
                assert matches.any(1).all()
                columns.append(matches.int().argmax(1))
            pairs.append(published_loss(self.case.lm, entry, batch, torch.stack(columns, 1)))
        return sum((loss for loss, _ in pairs), torch.zeros(())), sum(divisor for _, divisor in pairs)

    @torch.no_grad()
    def states(self) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
        """States of each part, the logits over all outputs, and the part's row numbers."""
        for batch, answers, numbers in self.parts:
            rows = torch.zeros_like(batch.lengths)
            bank = Bank([self.entry]).fold(self.case.lm)
            states = self.case.lm.states(
                batch.with_answers(answers), bank.prefixes(self.case.lm, rows), bank.separators(rows)
            )
            logits = self.entry.verbalizer.outputs(self.case.lm.heads_of(states[-1])["units"])
            yield states, logits, numbers

    def check(self, ours: Tensor, numbers: Tensor, name: str) -> None:
        """Compare the positions of some rows that are units, separators or labels."""
        reference = self.case.tensor(name)[numbers, self.entry.prompt.length :][:, : ours.shape[1]]
        valid = self.case.valid()[numbers][:, : ours.shape[1]]
        assert valid.sum() == self.case.valid()[numbers].sum()
        assert_golden(ours[valid], reference[valid])


def reference_names(entry: TaskPrompt, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters (or their gradients) under the reference's names."""
    named = {"decoder.sep_embed.weight": values["prompt.separator"][None]}
    vectors = values["prompt.vectors"]
    if entry.prompt.method == "input":
        named["decoder.prefix_embed_prompts.weight"] = vectors
    else:
        for kind, rows in zip(("key", "value"), vectors, strict=True):
            for layer, row in enumerate(rows):
                named[f"decoder.deep_{kind}_embed_prompts.{layer}.weight"] = row
    if "verbalizer.weight" in values:
        named["decoder.prompt_linear_verbalizer.weight"] = values["verbalizer.weight"]
    return named


@pytest.mark.parametrize("name", TRAINED)
def test_states_and_logits(shared: Path, name: str) -> None:
    case = golden_case(shared, name)
    batches = Batches(case, "init")
    recorded = sorted(key for key in case.numbers if key.startswith("hidden/"))
    if not recorded and "logits" not in case.numbers:
        pytest.skip("this case records neither states nor logits")
    for states, logits, numbers in batches.states():
        for key in recorded:
            batches.check(states[int(key.split("/")[1])], numbers, key)
        if "features" in case.numbers:
            batches.check(states[-1], numbers, "features")
        batches.check(logits, numbers, "logits")


@pytest.mark.parametrize("name", TRAINED)
def test_loss_and_gradients(shared: Path, name: str) -> None:
    case = golden_case(shared, name)
    batches = Batches(case, "init")
    loss, divisor = batches.loss()
    assert_golden(loss, case.tensor("loss_sum").reshape(()))
    assert divisor == int(case.tensor("sample_size"))
    loss.backward()
    parameters = dict(batches.entry.named_parameters())
    gradients = reference_names(
        batches.entry, {n: p.grad for n, p in parameters.items() if p.grad is not None}
    )
    reference = case.tensors("grad_of_loss_sum")
    assert set(gradients) <= set(reference)
    for key, gradient in reference.items():
        if key in gradients:
            assert_golden(gradients[key], gradient)
        else:  # the input prompt under a deep one never learns
            assert key == "decoder.prefix_embed_prompts.weight"
            assert float(gradient.abs().max()) == 0


@pytest.mark.parametrize("name", TRAINED)
def test_five_adam_steps(shared: Path, name: str) -> None:
    """In float64: Adam divides by gradients, and what a processor rounds in them must not count as ours."""
    case = golden_case(shared, name)
    batches, adam = Batches(case, "init", torch.float64), case.arguments["adam"]
    parameters = list(batches.entry.parameters())
    optimiser = PublishedAdam(parameters, adam["lr"], tuple(adam["betas"]), adam["eps"])
    for step in range(5):
        optimiser.zero_grad()
        loss, divisor = batches.loss()
        (loss / divisor).backward()
        norm = clip(parameters, adam["clip_norm"])
        optimiser.step()
        with torch.no_grad():
            after, _ = batches.loss()
        assert float(norm) == pytest.approx(float(case.numbers["gnorm_at_step"][step]), rel=1e-4)
        assert float(after) == pytest.approx(float(case.numbers["loss_sum_after_step"][step]), rel=1e-5)
    trained = reference_names(batches.entry, {n: p.detach() for n, p in batches.entry.named_parameters()})
    for key, tensor in case.tensors("after5").items():
        if key in trained:
            assert_golden(trained[key], tensor)
    if "after5/logits" in case.numbers:
        for _, logits, numbers in batches.states():
            batches.check(logits, numbers, "after5/logits")


@torch.no_grad()
def continuations(lm: UnitLM, bank: Bank[BankEntry], batch: UnitBatch, answers: list[list[int]]) -> Tensor:
    """What greedy decoding adds to every beginning of each row's answer, the empty one first: LM ids (B,J+1).

    An answer whose every word follows from those before it is what decoding word by word gives.
    """
    rows, width = torch.zeros_like(batch.lengths), max(map(len, answers))
    fed_back = torch.tensor([answer + [0] * (width - len(answer)) for answer in answers])
    verbalizer = bank.entries[0].verbalizer
    prefixes, separators = bank.prefixes(lm, rows), bank.separators(rows)
    states = states_of(lm, batch.with_answers(fed_back), prefixes, separators, verbalizer.streams)
    return verbalizer.outputs(verbalizer.read(lm, states)).argmax(-1)


@pytest.mark.parametrize("name", PREDICTED)
def test_predictions(shared: Path, name: str) -> None:
    """Free greedy decoding gives the reference's strings, except where its own margin is a tie.

    Word by word to the end for short strings and two long ones; the long ones all in one pass besides.
    """
    case = golden_case(shared, name)
    task, symbols = task_of(case, case.batches()[0][1].shape[1])
    entry = read_reference_prompt(case.folder / "prompt_checkpoint.pt", case.lm, task, symbols)
    samples = json.loads((case.folder / "samples.json").read_text())
    margins = json.loads((case.folder / "margins.json").read_text())
    learnable = bool(case.arguments["linear_verbalizer"])
    # the reference prints neither <s> nor </s>
    ids = {"<pad>": 1, "<unk>": 3}
    for i, symbol in enumerate(case.lm.model.config.unit_symbols()):
        ids[str(i) if learnable else symbol] = i + 4
    certain = [sample for key, sample in samples.items() if margins[key] > 1e-3]
    assert len(certain) > len(samples) // 2
    sources = [[int(unit) for unit in sample["src"].split()[:-1]] for sample in certain]
    answers = [[ids[word] for word in sample["predict"].split()] for sample in certain]
    limits = [150 if learnable else 149 - len(source) for source in sources]
    short = [i for i, answer in enumerate(answers) if len(answer) <= SHORT]
    long = [i for i in range(len(answers)) if i not in short]
    with torch.no_grad():
        bank = Bank([entry]).fold(case.lm)
        for chosen in filter(None, (short, long[:2])):
            batch, limit = collate([Units(sources[i]) for i in chosen]), max(limits[i] for i in chosen)
            for i, found in zip(chosen, decode_freely(case.lm, bank, batch, limit=limit), strict=True):
                assert [word for word in found[: limits[i]] if word] == answers[i], certain[i]
    if long:
        batch = collate([Units(sources[i]) for i in long])
        greedy = continuations(case.lm, bank, batch, [answers[i] for i in long])
        for i, found in zip(long, greedy.tolist(), strict=True):
            ended = [entry.verbalizer.end] if len(answers[i]) < limits[i] else []
            assert found[: len(answers[i]) + len(ended)] == answers[i] + ended, certain[i]


def test_constrained_decoding_agrees_where_the_free_answer_is_a_label(shared: Path) -> None:
    case = golden_case(shared, "c_deep_learnable_verbalizer")
    task, symbols = task_of(case, case.batches()[0][1].shape[1])
    entry = read_reference_prompt(case.folder / "prompt_checkpoint.pt", case.lm, task, symbols)
    samples = json.loads((case.folder / "samples.json").read_text()).values()
    batch = collate([Units([int(unit) for unit in sample["src"].split()[:-1]]) for sample in samples])
    with torch.no_grad():
        scores = classify(case.lm, Bank([entry]), batch, torch.zeros_like(batch.lengths))[0].slots["slot0"]
    labels = [task.slots["slot0"][i] for i in scores.argmax(1).tolist()]
    agreeing = [symbols[label] == sample["predict"] for label, sample in zip(labels, samples, strict=True)]
    known = [sample["predict"] in symbols.values() for sample in samples]
    assert all(a for a, k in zip(agreeing, known, strict=True) if k)
    assert any(known)
