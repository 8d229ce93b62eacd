"""The unit LM's stages: a training step and prediction from units, beside the naive form and peft."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechprompt.benchmarking import peft_form
from speechprompt.benchmarking.case import BOUND, NAIVE, OURS, PEFT, Case, Figure
from speechprompt.benchmarking.clock import Form
from speechprompt.benchmarking.material import (
    FLUENT,
    QUICK_SIZE,
    SMALL_SIZE,
    SPEECH_COMMANDS,
    TINY,
    TRUE_SIZE,
    Lengths,
    Settings,
    dtype_of,
    fresh_entry,
    fresh_run,
    random_lm,
    sizes_of,
    targets_of,
    utterances,
    weight_bytes,
)
from speechprompt.benchmarking.naive import SEPARATOR, NaivePromptedGslm
from speechprompt.benchmarking.peft_form import PeftPrefix, source_rows
from speechprompt.benchmarking.products import (
    DecoderSizes,
    Product,
    prediction_products,
    training_products,
)
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.prompting.bank import FoldedPrompt
from speechprompt.prompting.predictor import window_scores
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.training import train_step
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.units import Units

PROMPT_LENGTH = 5
"""The paper's, of every form here."""
MEASURED_BATCHES = 3
"""Batches of a corpus that stand for all of them where every form batches in its own way."""
BATCHES = 40
CLEAR_NATS = 0.05


class UnitWork:
    """Utterances of a corpus on one LM, and every form of working on them.

    Ours is the default recipe's with the paper's prompt length; the naive form computes in fp32, peft in the dtype of
    ours, and all of them update their prompt and head with AdamW.
    """

    def __init__(self, lm: GslmUnitLM, lengths: Lengths, settings: Settings) -> None:
        self.lm, self.lengths, self.settings = lm, lengths, settings
        self.batch_size = settings.batch_size
        self.units = utterances(lengths, (4 if settings.quick else BATCHES) * self.batch_size, lm.unit_count)
        self.options = TrainingOptions(batch_size=self.batch_size, prompt_length=PROMPT_LENGTH)
        self.peft = PeftPrefix(lm, PROMPT_LENGTH, lengths.labels) if peft_form.is_installed() else None
        entry = fresh_entry(lm, self.units, lengths.labels, self.options)
        self.prompt: FoldedPrompt = entry.fold(lm)

    def batches(self) -> list[list[Units]]:
        """A few batches of like length, evenly spread over all of them: how ours goes through a corpus."""
        found = length_buckets([len(row) for row in self.units], self.batch_size)
        step = len(found) / MEASURED_BATCHES
        return [
            [self.units[i] for i in found[int((k + 0.5) * step)]]
            for k in range(min(MEASURED_BATCHES, len(found)))
        ]

    def dataset_order(self) -> list[list[Units]]:
        """As many batches in the order of the corpus: how a user of peft goes through it."""
        size = self.batch_size
        return [self.units[k * size : (k + 1) * size] for k in range(MEASURED_BATCHES)]

    def naive(self, verbalizer: str = "learnable") -> NaivePromptedGslm:
        """The naive form of the paper's kind of prompt."""
        changes = {"method": "before_projection", "verbalizer": verbalizer}
        entry = fresh_entry(self.lm, self.units, self.lengths.labels, self.options.model_copy(update=changes))
        return NaivePromptedGslm(self.lm.pretrained(), entry)

    def training(self, batches: Sequence[Sequence[Units]]) -> Form:
        """Our step on each batch in turn."""
        runs = [fresh_run(self.lm, rows, self.lengths.labels, self.options) for rows in batches]
        return Form(lambda: [train_step(self.lm, [run]) for run in runs], sum(map(len, batches)))

    def prediction(self, batches: Sequence[Sequence[Units]]) -> Form:
        """Our scores of each batch in turn."""
        asked = [[(self.prompt, row) for row in rows] for rows in batches]
        return Form(lambda: [window_scores(self.lm, rows) for rows in asked], sum(map(len, batches)))

    def peft_training(self, batches: Sequence[Sequence[Units]]) -> dict[str, Form]:
        """peft's steps on each batch in turn; nothing where it is not installed."""
        if self.peft is None:
            return {}
        peft, labels = self.peft, self.lengths.labels
        rows = [
            (source_rows(batch, self.lm), targets_of(batch, labels)[:, 0].to(self.lm.device))
            for batch in batches
        ]
        return {PEFT: Form(lambda: [peft.step(*row) for row in rows], sum(map(len, batches)))}

    def peft_prediction(self, batches: Sequence[Sequence[Units]]) -> dict[str, Form]:
        """peft's scores of each batch in turn; nothing where it is not installed."""
        if self.peft is None:
            return {}
        peft, rows = self.peft, [source_rows(batch, self.lm) for batch in batches]
        return {PEFT: Form(lambda: [peft.predict(row) for row in rows], sum(map(len, batches)))}


def lms(settings: Settings) -> Iterator[tuple[str, GslmUnitLM, tuple[Lengths, ...], bool]]:
    """The LMs to measure: name, LM, what it reads, and whether it is the true size that aims are about."""
    true = QUICK_SIZE if settings.quick else TRUE_SIZE
    yield (
        f"GSLM {true.layers}x{true.width}",
        random_lm(true, settings.device),
        (SPEECH_COMMANDS, FLUENT),
        True,
    )
    small = random_lm(SMALL_SIZE, settings.device)
    yield f"small LM {SMALL_SIZE.layers}x{SMALL_SIZE.width}", small, (TINY,), False


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a training step and a prediction differ in: their forms, what they need, and the shares aimed at."""

    stage: str
    ours: Callable[[UnitWork, Sequence[Sequence[Units]]], Form]
    naive: Callable[[UnitWork, Sequence[Units]], dict[str, Form]]
    peft: Callable[[UnitWork, Sequence[Sequence[Units]]], dict[str, Form]]
    products: Callable[[DecoderSizes, Sequence[int], int, int], list[Product]]
    weight_passes: int
    share_on_cpu: float
    share_on_gpu: float


def training_cases(settings: Settings) -> Iterator[Case]:
    """A step on one batch of every form; then each form's own batching."""
    kind = _Kind(
        "train",
        UnitWork.training,
        lambda work, batch: {NAIVE: _naive_training(work, batch)},
        UnitWork.peft_training,
        training_products,
        2,
        0.7,
        0.5,
    )
    return _cases(kind, settings)


def prediction_cases(settings: Settings) -> Iterator[Case]:
    """Scores of one batch in every form; then each form's own batching."""
    kind = _Kind(
        "predict",
        UnitWork.prediction,
        lambda work, batch: {
            NAIVE: _naive_prediction(work, batch),
            "naive, fixed verbalizer": _naive_decoding(work, batch),
        },
        UnitWork.peft_prediction,
        prediction_products,
        1,
        0.75,
        0.6,
    )
    return _cases(kind, settings)


def _cases(kind: _Kind, settings: Settings) -> Iterator[Case]:
    for name, lm, several, is_true_size in lms(settings):
        share = kind.share_on_gpu if lm.device.type == "cuda" else kind.share_on_cpu
        for lengths in several:
            work = UnitWork(lm, lengths, settings)
            batches = work.batches()
            batch = batches[len(batches) // 2]
            yield Case(
                kind.stage,
                f"{name}, {lengths.name}, batch {len(batch)}",
                "utterances",
                {OURS: kind.ours(work, [batch]), **kind.naive(work, batch), **kind.peft(work, [batch])},
                kind.products(sizes_of(lm), list(map(len, batch)), PROMPT_LENGTH, lengths.labels),
                kind.weight_passes * weight_bytes(lm),
                dtype_of(lm),
                {**({BOUND: share} if is_true_size else {}), PEFT: 1.0},
            )
            own = {OURS: _once(kind.ours(work, batches))}
            own |= {key: _once(form) for key, form in kind.peft(work, work.dataset_order()).items()}
            yield Case(
                kind.stage, f"{name}, {lengths.name}, own batching", "utterances", own, aims={PEFT: 1.3}
            )


def agreements(settings: Settings) -> Iterator[Figure]:
    """What bfloat16 changes: equal labels where fp32 is sure by more than a twentieth of a nat, random weights."""
    sizes = QUICK_SIZE if settings.quick else TRUE_SIZE
    plain, fast = (random_lm(sizes, settings.device, dtype) for dtype in (torch.float32, torch.bfloat16))
    for lengths in (SPEECH_COMMANDS, FLUENT):
        units = utterances(lengths, 8 if settings.quick else 64, plain.unit_count)
        entry = fresh_entry(plain, units, lengths.labels, TrainingOptions(prompt_length=PROMPT_LENGTH))
        wide, narrow = (
            torch.stack(
                [
                    scores.slots["label"]
                    for scores in window_scores(lm, [(entry.fold(lm), row) for row in units])
                ]
            )
            for lm in (plain, fast)
        )
        best = wide.topk(2, -1).values
        clear = (best[:, 0] - best[:, 1]) > CLEAR_NATS
        same = (wide.argmax(-1) == narrow.argmax(-1))[clear].float().mean()
        yield Figure("predict", f"equal labels in bfloat16 where clear, {lengths.name}", float(same), "")
        yield Figure("predict", f"clear in fp32, {lengths.name}", float(clear.float().mean()), "")


def _once(form: Form) -> Form:
    return Form(form.run, form.amount, once=True)


def _naive_training(work: UnitWork, batch: Sequence[Units]) -> Form:
    """A step of the naive form: logits at every position, the loss at the separator."""
    naive, source = work.naive(), source_rows(batch, work.lm)
    targets = targets_of(batch, work.lengths.labels)[:, 0].to(source.device)
    optimiser = torch.optim.AdamW(naive.entry.parameters(), 1e-3)

    def step() -> None:
        nn.functional.cross_entropy(naive(source)[source == SEPARATOR], targets).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return Form(step, len(batch), once=not work.settings.quick)


def _naive_prediction(work: UnitWork, batch: Sequence[Units]) -> Form:
    """A few utterances, one at a time, as the reference predicts; one step of decoding with a learnable verbalizer."""
    naive, rows = work.naive(), [source_rows([row], work.lm) for row in batch[:4]]
    return Form(lambda: [_answer(naive, row) for row in rows], len(rows))


def _naive_decoding(work: UnitWork, batch: Sequence[Units]) -> Form:
    """With fixed verbalizers the reference decodes from the first position on: a full pass for each, no cache."""
    naive, row = work.naive("random"), source_rows(batch[len(batch) // 2 :][:1], work.lm)

    def decode() -> None:
        for end in range(1, row.shape[1] + 1):
            _answer(naive, row[:, :end])

    return Form(decode, 1, once=not work.settings.quick)


@torch.no_grad()
def _answer(naive: NaivePromptedGslm, source: Tensor) -> Tensor:
    best: Tensor = naive(source)[:, -1].argmax(-1)
    return best.cpu()
