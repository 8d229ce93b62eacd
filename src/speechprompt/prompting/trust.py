"""When to trust a trained prompt: temperatures, threshold and domain, all from its own training and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechprompt.lms.batch import collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.metrics import expected_calibration_error
from speechprompt.prompting.bank import Bank, TaskPrompt
from speechprompt.prompting.calibration import Calibration, fit_temperature, threshold_for
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.domain import FITTED_ON, Domain, fit_domain
from speechprompt.prompting.members import combined
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.speech.buckets import length_buckets

BATCH_ROWS = 128


@dataclass(frozen=True, slots=True)
class Trust:
    """How a prompt's scores become probabilities and abstentions, what it knows, and the numbers on validation."""

    calibration: Calibration
    domain: Domain | None
    numbers: Mapping[str, Any]


class ValidNumbers(NamedTuple):
    """Share of validation with all slots right, and the loss in nats."""

    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Outputs:
    """Of examples in their order, on the CPU: log-probabilities (n,C) of every slot, states (n,D) at the separator."""

    scores: Mapping[str, Tensor]
    hidden: Tensor


@torch.no_grad()
def outputs_of(lm: UnitLM, entry: TaskPrompt, examples: Examples) -> Outputs:
    """Run a prompt over examples."""
    bank = Bank([entry]).fold(lm)
    scores = {slot: torch.empty(len(examples), len(labels)) for slot, labels in entry.task.slots.items()}
    hidden = torch.empty(len(examples), lm.width)
    for indices in length_buckets([len(units) for units in examples.units], BATCH_ROWS, None):
        batch = collate([examples.units[i] for i in indices]).to(lm.device)
        found = classify(lm, bank, batch, torch.zeros_like(batch.lengths))[0]
        hidden[indices] = found.hidden.float().cpu()
        for slot, values in found.slots.items():
            scores[slot][indices] = values.float().cpu()
    return Outputs(scores, hidden)


def trust_of(lm: UnitLM, run: Run) -> Trust:
    """Fit everything for a run whose entry is in its best state.

    The threshold follows the options `answer_coverage` and `answer_error`; without either nothing is abstained
    from. The domain is fitted on at most 2,048 training utterances, spread over the split.
    """
    valid = outputs_of(lm, run.entry, run.valid)
    return _trust(valid.scores, run.valid.targets, run.options, _domain(lm, run, valid))


def trust_together(
    lm: UnitLM, runs: Sequence[Run], calibrations: Sequence[Calibration]
) -> tuple[Trust, ValidNumbers]:
    """The same for runs that answer together, each with its own calibration before the mean; and how good they are.

    Where they validate on different clips, no clip is new to all of them: each is judged by its own.
    """
    told = [
        (calibration, outputs_of(lm, run.entry, run.valid).scores)
        for calibration, run in zip(calibrations, runs, strict=True)
    ]
    if all(run.valid.ids == runs[0].valid.ids for run in runs):
        scores, targets = combined(told), runs[0].valid.targets
    else:
        alone = [combined([one]) for one in told]
        scores = {slot: torch.cat([one[slot] for one in alone]) for slot in alone[0]}
        targets = torch.cat([run.valid.targets for run in runs])
    _, right = _answers(Calibration(), scores, targets)
    nats = [torch.nn.functional.nll_loss(x, targets[:, s]) for s, x in enumerate(scores.values())]
    numbers = ValidNumbers(int(right.sum()) / len(right), float(torch.stack(nats).sum()))
    return _trust(scores, targets, runs[0].options, None), numbers


def _trust(
    scores: Mapping[str, Tensor], targets: Tensor, options: TrainingOptions, domain: Domain | None
) -> Trust:
    """Temperatures and threshold from validation's log-probabilities (n,C) of every slot and targets (n,S)."""
    temperatures = temperatures_of(scores, targets)
    product, right = _answers(Calibration(temperatures), scores, targets)
    raw, _ = _answers(Calibration(), scores, targets)
    threshold = threshold_for(product, right, options.answer_coverage, options.answer_error)
    answered = product.double() >= threshold
    numbers = {
        "threshold": threshold,
        "coverage": float(answered.float().mean()),
        # a quotient of counts: the mean of float32 puts one in ten above a bound of .1
        "error_among_answers": int((~right[answered]).sum()) / count
        if (count := int(answered.sum()))
        else None,
        "calibration_error": expected_calibration_error(product.clamp(max=1).numpy(), right.numpy()),
        "calibration_error_before": expected_calibration_error(raw.clamp(max=1).numpy(), right.numpy()),
    }
    return Trust(Calibration(temperatures, threshold), domain, numbers)


def temperatures_of(scores: Mapping[str, Tensor], targets: Tensor) -> dict[str, float]:
    """The temperature of every slot, from validation's log-probabilities (n,C) and targets (n,S)."""
    return {slot: fit_temperature(values, targets[:, s]) for s, (slot, values) in enumerate(scores.items())}


def _answers(
    calibration: Calibration, outputs: Mapping[str, Tensor], targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The product of the slots' best scores (n,), and whether all slots are right (n,)."""
    product, right = torch.ones(len(targets)), torch.ones(len(targets), dtype=torch.bool)
    for s, (slot, scores) in enumerate(outputs.items()):
        best = calibration.apply(slot, scores).max(-1)
        product, right = product * best.values, right & (best.indices == targets[:, s])
    return product, right


def _domain(lm: UnitLM, run: Run, valid: Outputs) -> Domain | None:
    recorded = len(run.train) - run.train.speed_copies
    step = -(-recorded // FITTED_ON)
    chosen = list(range(0, recorded, step))
    part = Examples([run.train.units[i] for i in chosen], run.train.targets[chosen])
    return fit_domain(outputs_of(lm, run.entry, part).hidden, part.targets[:, 0], valid.hidden)
