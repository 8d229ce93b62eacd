"""The loop that pretraining shares: AdamW, warm-up and linear decay, resumable to the bit.

What a step draws depends on the seed and the step's number only: a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechprompt.errors import TrainingError
from speechprompt.pretraining.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: `steps` updates, a linear ramp of `warmup_steps`, then a line to zero.

    A record goes to the log every `log_every` steps; every `save_every` the state is saved and `evaluate`
    called.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    log_every: int = 20
    save_every: int = 200

    def rate_at(self, step: int) -> float:
        """Learning rate of update `step`, counted from 0."""
        rising = (step + 1) / max(1, self.warmup_steps)
        falling = (self.steps - step) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * min(1.0, rising, falling)


def optimise(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    evaluate: Callable[[], dict[str, float]],
    schedule: Schedule,
    run: RunFolder,
    seed: int,
    bf16: bool,
) -> None:
    """Train `model` in place on `loss_at(step)` from the run's last state to the schedule's end.

    Errors: TrainingError when the loss is no longer a number. Side effects: files of `run`; the global RNG is
    left as it was.
    """
    optimiser = torch.optim.AdamW(
        _groups(model, schedule.weight_decay), lr=schedule.learning_rate, betas=(0.9, 0.98)
    )
    first = _resume(model, optimiser, run)
    device = next(model.parameters()).device
    started, since = time.monotonic(), first
    total = torch.zeros((), device=device)
    for step in range(first, schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(step)
        model.train()
        with torch.random.fork_rng(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            torch.manual_seed(seed * 1_000_003 + step)
            loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        total += loss.detach()
        done = step + 1
        if done % schedule.log_every == 0 or done == schedule.steps:
            mean = float(total) / (done - since)
            if not mean < float("inf"):
                raise TrainingError(f"the loss is {mean} at step {done}; lower the learning rate")
            rate = (done - since) / (time.monotonic() - started)
            run.log({"step": done, "steps": schedule.steps, "loss": mean, "steps_per_second": round(rate, 3)})
            started, since = time.monotonic(), done
            total.zero_()
        if done % schedule.save_every == 0 or done == schedule.steps:
            run.save_state({"step": done, "model": model.state_dict(), "optimiser": optimiser.state_dict()})
            run.log({"step": done, "steps": schedule.steps, **evaluate()})


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, vectors (biases, norms) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _resume(model: nn.Module, optimiser: torch.optim.Optimizer, run: RunFolder) -> int:
    """Load the run's state, if there is one; the number of updates already made."""
    state = run.load_state()
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
