"""When to trust a trained prompt: temperatures, threshold and domain, all from its own training and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechprompt.lms.protocol import UnitLM
from speechprompt.metrics import expected_calibration_error
from speechprompt.prompting.calibration import Calibration, fit_temperature, threshold_for
from speechprompt.prompting.domain import FITTED_ON, Domain, fit_domain
from speechprompt.prompting.members import combined
from speechprompt.prompting.outputs import Outputs, heard_outputs, mean_scores, outputs_of, scores_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run


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


def trust_of(lm: UnitLM, run: Run) -> tuple[Trust, ValidNumbers]:
    """Fit everything for a run whose entry is in its best state, over all hearings of validation; and how good it is.

    The threshold follows the options `answer_coverage` and `answer_error`; without either nothing is abstained
    from. The domain is fitted on at most 2,048 training utterances, spread over the split. Validation that is heard
    once has the numbers by which training chose that state.
    """
    heard, targets = heard_outputs(lm, run.entry, run.valid), run.valid.targets
    scores = mean_scores(heard)
    trust = _trust(scores, targets, run.options, _domain(lm, run, heard))
    if len(heard) > 1:
        return trust, _reached(scores, targets)
    return trust, ValidNumbers(run.progress.best_accuracy, run.progress.best_loss)


def trust_together(
    lm: UnitLM, runs: Sequence[Run], calibrations: Sequence[Calibration]
) -> tuple[Trust, ValidNumbers]:
    """The same for runs that answer together, each with its own calibration before the mean; and how good they are.

    Where they validate on different clips, no clip is new to all of them: each is judged by its own.
    """
    told = [
        (calibration, scores_of(lm, run.entry, run.valid))
        for calibration, run in zip(calibrations, runs, strict=True)
    ]
    if all(run.valid.ids == runs[0].valid.ids for run in runs):
        scores, targets = combined(told), runs[0].valid.targets
    else:
        alone = [combined([one]) for one in told]
        scores = {slot: torch.cat([one[slot] for one in alone]) for slot in alone[0]}
        targets = torch.cat([run.valid.targets for run in runs])
    return _trust(scores, targets, runs[0].options, None), _reached(scores, targets)


def _reached(scores: Mapping[str, Tensor], targets: Tensor) -> ValidNumbers:
    """What log-probabilities (n,C) of every slot reach on targets (n,S)."""
    _, right = _answers(Calibration(), scores, targets)
    nats = [torch.nn.functional.nll_loss(x, targets[:, s]) for s, x in enumerate(scores.values())]
    return ValidNumbers(int(right.sum()) / len(right), float(torch.stack(nats).sum()))


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


def _domain(lm: UnitLM, run: Run, valid: Sequence[Outputs]) -> Domain | None:
    recorded = len(run.train) - run.train.speed_copies
    step = -(-recorded // FITTED_ON)
    chosen = list(range(0, recorded, step))
    part = Examples([run.train.units[i] for i in chosen], run.train.targets[chosen])
    taught = outputs_of(lm, run.entry, part).hidden
    return fit_domain(taught, part.targets[:, 0], *(heard.hidden for heard in valid))
