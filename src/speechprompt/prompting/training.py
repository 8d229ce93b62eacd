"""Training of one run or of many in one batch, on one frozen unit LM; resumable at any moment.

Joint runs share the forward and backward pass only: each has its own loss (a mean over its own rows), optimiser,
clipping, schedule and random numbers, so that its gradients are those of a separate run.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechprompt.errors import TrainingError
from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.interruption import ctrl_c_between_steps
from speechprompt.prompting.losses import EntryLoss, label_losses, published_loss
from speechprompt.prompting.ngram_weights import add_ngrams
from speechprompt.prompting.run import Examples, Run
from speechprompt.speech.buckets import length_buckets
from speechprompt.speech.digests import unit_bytes
from speechprompt.speech.units import Units

Event = Mapping[str, Any]
Listener = Callable[[Event], None]

EVALUATION_BATCH = 128
SAME_START = 0.02
"""How far a run's start may be from that of its checkpoint, as a share of it; bfloat16 rounds by less."""
ROWS_A_PASS = 64
"""Utterances of joint runs that one pass takes on a CPU, unless a run's own batch is larger: more leave the cache."""


def train_runs(
    lm: UnitLM,
    runs: Sequence[Run],
    listener: Listener | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
) -> None:
    """Train every run until its patience or its steps end, and leave each entry in its best state.

    Then the n-grams that a run's options ask for are fitted beside its prompt (`ngram_weights`).

    `listener` receives events (dicts with `event`: step, evaluation, resumed, ngrams, ngrams_fitted, done).
    `checkpoint` is a file written every so many steps, and when Ctrl-C stops the training, which it does at the end of
    a step (the second time at once); where it exists, training goes on from it with the same results
    as without the interruption, and therefore on as many threads (torch's own setting changes). It stays until the
    caller has kept the results and calls `remove_checkpoint`.
    TrainingError when a run diverges or the checkpoint belongs to other runs.
    """
    tell = listener or (lambda event: None)
    if checkpoint is not None and checkpoint.exists():
        _restore(checkpoint, lm, runs)
        tell({"event": "resumed", "step": max(run.progress.step for run in runs)})
    for run in runs:
        if run.options.learning_rate == "find" and run.progress.step == 0:
            rate = find_learning_rate(lm, run)
            run.set_learning_rate(rate)
            tell({"event": "learning_rate", "run": run.name, "rate": rate})
    with ctrl_c_between_steps() as interrupted:
        for step in _steps(lm, runs, tell):
            if checkpoint is not None and (step % checkpoint_every == 0 or interrupted()):
                _save(checkpoint, lm, runs)
            if interrupted():
                raise KeyboardInterrupt
    for run in runs:
        run.entry.load_state_dict(run.best)
        if run.options.ngrams:
            tell({"event": "ngrams", "run": run.name})
            fit = run.ngram_fit = add_ngrams(lm, run)
            told = {**fit.numbers, "accuracy": run.progress.best_accuracy}
            tell({"event": "ngrams_fitted", "run": run.name, **told})
        tell({"event": "done", "run": run.name, "best_step": run.progress.best_step})


def _steps(lm: UnitLM, runs: Sequence[Run], tell: Listener) -> Iterator[int]:
    """Train every run to its end: how many updates there were, after each and the validations that it calls for."""
    for step in itertools.count(1):
        active = [run for run in runs if not run.progress.finished]
        if not active:
            return
        for run, loss, correct, count in train_step(lm, active):
            tell(_step_event(run, loss, correct, count))
        for run in active:
            if run.progress.step % run.evaluation_interval == 0 or run.progress.step >= run.options.steps:
                tell(_evaluate(lm, run))
        yield step


def remove_checkpoint(path: Path) -> None:
    """Remove the checkpoint of runs whose results are kept, and what a save that was killed left beside it."""
    for file in (path, _unfinished(path)):
        file.unlink(missing_ok=True)


def train_step(lm: UnitLM, runs: Sequence[Run]) -> list[tuple[Run, float, int, int]]:
    """One update of every run, many in a forward and backward pass: (run, loss, correct rows, rows) each."""
    joint = [run for run in runs if run.options.loss == "labels"]
    report: list[tuple[Run, Tensor, Tensor | None, int]] = []
    if joint:
        report += _joint_steps(lm, joint)
    for run in runs:
        if run.options.loss == "published":
            indices = run.next_batch()
            batch = collate(run.training_units(indices)).to(lm.device)
            targets = run.train.targets[indices].to(lm.device)
            nats, divisor = published_loss(lm, run.entry, batch, targets, run.dropouts)
            loss = nats / divisor
            loss.backward()
            report.append((run, loss, None, len(indices)))
    for run, _, _, _ in report:
        run.update()
    return [
        (run, float(loss.detach()), -1 if correct is None else int(correct), count)
        for run, loss, correct, count in report
    ]


def _joint_steps(lm: UnitLM, runs: Sequence[Run]) -> list[tuple[Run, Tensor, Tensor | None, int]]:
    """Losses and gradients of all runs in as few passes as their lengths and `ROWS_A_PASS` allow."""
    chosen = [run.next_batch() for run in runs]
    units = [run.training_units(indices) for run, indices in zip(runs, chosen, strict=True)]
    found: dict[int, EntryLoss] = {}
    most = ROWS_A_PASS if torch.device(lm.device).type == "cpu" else None
    for group in _passes(units, most):
        members = [runs[i] for i in group]
        losses = label_losses(
            lm,
            Bank([run.entry for run in members]),
            collate([row for i in group for row in units[i]]).to(lm.device),
            torch.repeat_interleave(torch.tensor([len(chosen[i]) for i in group])).to(lm.device),
            [runs[i].train.targets[chosen[i]].to(lm.device) for i in group],
            [run.options.label_smoothing for run in members],
            [run.dropouts for run in members],
        )
        torch.stack([entry.loss for entry in losses]).sum().backward()
        found |= dict(zip(group, losses, strict=True))
    return [(run, found[i].loss, found[i].correct, found[i].count) for i, run in enumerate(runs)]


def _passes(units: Sequence[Sequence[Units]], most_rows: int | None) -> list[list[int]]:
    """Runs whose batches' longest rows are within a quarter (and 8 units) of each other, shortest first.

    Together they have at most `most_rows` rows (None: any number), unless a single run has more.
    """
    longest = [max(map(len, rows)) for rows in units]
    groups: list[list[int]] = []
    taken = 0
    for i in sorted(range(len(units)), key=longest.__getitem__):
        taken += len(units[i])
        alike = bool(groups) and longest[i] <= 1.25 * longest[groups[-1][0]] + 8
        if alike and (most_rows is None or taken <= most_rows):
            groups[-1].append(i)
        else:
            groups.append([i])
            taken = len(units[i])
    return groups


def _rows(lm: UnitLM, examples: Examples, indices: Sequence[int]) -> tuple[UnitBatch, Tensor]:
    batch = collate([examples.units[i] for i in indices]).to(lm.device)
    return batch, examples.targets[list(indices)].to(lm.device)


@torch.no_grad()
def evaluate_run(lm: UnitLM, run: Run) -> tuple[float, float]:
    """Accuracy (all slots right) and loss on the run's validation split, in the loss that it trains."""
    if not len(run.valid):
        raise TrainingError(f"'{run.name}' has no validation utterances")
    bank = Bank([run.entry]).fold(lm)
    right, nats, terms = 0, 0.0, 0
    for indices in length_buckets([len(row) for row in run.valid.units], EVALUATION_BATCH, None):
        batch, targets = _rows(lm, run.valid, indices)
        scores = classify(lm, bank, batch, torch.zeros_like(batch.lengths))[0].slots
        hits = [scores[slot].argmax(1) == targets[:, s] for s, slot in enumerate(scores)]
        right += int(torch.stack(hits).all(0).sum())
        if run.options.loss == "published":
            loss, divisor = published_loss(lm, run.entry, batch, targets)
            nats, terms = nats + float(loss), terms + divisor
        else:
            picked = [scores[slot].gather(1, targets[:, [s]]).sum() for s, slot in enumerate(scores)]
            nats, terms = nats - float(torch.stack(picked).sum()), terms + len(indices)
    return right / len(run.valid), nats / terms


def _evaluate(lm: UnitLM, run: Run) -> Event:
    accuracy, loss = evaluate_run(lm, run)
    better = run.judge(accuracy, loss)
    event = {"step": run.progress.step, "epoch": run.progress.epoch, "accuracy": accuracy, "loss": loss}
    run.progress.history.append({name: float(value) for name, value in event.items()})
    return {"event": "evaluation", "run": run.name, **event, "best": better}


def _step_event(run: Run, loss: float, correct: int, count: int) -> Event:
    accuracy = None if correct < 0 else correct / count
    return {
        "event": "step",
        "run": run.name,
        "step": run.progress.step,
        "loss": loss,
        "accuracy": accuracy,
        "count": count,
    }


def find_learning_rate(lm: UnitLM, run: Run, steps: int = 48, low: float = 3e-4, high: float = 0.3) -> float:
    """Range test (Smith 2017): raise the rate from `low` to `high`, take a third of where the loss is lowest.

    Works on a copy: the run itself is left as it was.
    """
    start = {name: tensor.clone() for name, tensor in run.entry.state_dict().items()}
    plain = run.options.model_copy(update={"warmup": 0.0, "schedule": "constant"})
    trial = Run(run.name, run.entry, plain, run.train, run.valid)
    smooth, best, found = None, float("inf"), low
    for i in range(steps):
        rate = low * (high / low) ** (i / (steps - 1))
        trial.set_learning_rate(rate)
        try:
            loss = train_step(lm, [trial])[0][1]
        except TrainingError:
            break
        smooth = loss if smooth is None else 0.8 * smooth + 0.2 * loss
        if smooth < best:
            best, found = smooth, rate
        elif smooth > 2 * best:
            break
    run.entry.load_state_dict(start)
    run.entry.zero_grad(set_to_none=True)  # a trial that diverged leaves its own behind
    return found / 3


def _identity(lm: UnitLM, runs: Sequence[Run]) -> str:
    parts = [lm.fingerprint]
    for run in runs:
        parts += [run.name, run.options.model_dump_json(), str(run.entry.task.slots)]
        parts += [_digest(run.train), _digest(run.valid)]
    return "\n".join(parts)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two starts are one but for rounding: states of an LM that another device computed differ by that."""
    return one.shape == other.shape and float((one - other).norm()) <= SAME_START * float(other.norm())


def _digest(examples: Examples) -> str:
    digest = hashlib.sha256(examples.targets.numpy().tobytes())
    for units in examples.units:
        digest.update(unit_bytes(units))
    return digest.hexdigest()


def _save(path: Path, lm: UnitLM, runs: Sequence[Run]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _unfinished(path)
    state = {"identity": _identity(lm, runs), "threads": torch.get_num_threads()}
    torch.save({**state, "runs": [{"start": run.start, **run.state()} for run in runs]}, scratch)
    scratch.replace(path)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _restore(path: Path, lm: UnitLM, runs: Sequence[Run]) -> None:
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        identity, states, threads = saved["identity"], saved["runs"], int(saved["threads"])
        starts = [state.pop("start") for state in states]
    except Exception as error:
        raise TrainingError(
            f"{path} is not a training checkpoint ({error}); delete it to start over"
        ) from None
    alike = all(_alike(start, run.start) for start, run in zip(starts, runs, strict=False))
    if identity != _identity(lm, runs) or not alike:
        raise TrainingError(
            f"{path} belongs to a run with other options, data or LM; delete it or choose another --out"
        )
    # sums round by the number of threads: another number would not give the uninterrupted result
    torch.set_num_threads(threads)
    for run, state in zip(runs, states, strict=True):
        run.restore(state)
