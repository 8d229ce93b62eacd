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
from speechprompt.spoken_lm import multiplies_bfloat16


def half_precision(device: torch.device, asked: bool) -> torch.autocast:
    """Products in bfloat16 where they are asked for and the device multiplies it in hardware; else fp32.

    A processor without such instructions takes several times as long for bfloat16 as for fp32.
    """
    return torch.autocast(
        device.type, torch.bfloat16, enabled=asked and (device.type != "cpu" or multiplies_bfloat16())
    )


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
    left as it was. An interruption (Ctrl-C) between two updates saves the state before it goes on its way.
    """
    on_gpu = next(model.parameters()).is_cuda
    optimiser = torch.optim.AdamW(
        _groups(model, schedule.weight_decay),
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
        fused=on_gpu or None,
    )
    first = _resume(model, optimiser, run)
    loop = _Loop(model, optimiser, loss_at, evaluate, schedule, run, seed, bf16, done=first)
    try:
        while loop.done < schedule.steps:
            loop.step()
    except KeyboardInterrupt:
        if loop.whole and loop.done > first:
            loop.save()
        raise


class _Loop:
    """The running optimisation: `done` updates, and whether no update is half made (`whole`)."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        loss_at: Callable[[int], Tensor],
        evaluate: Callable[[], dict[str, float]],
        schedule: Schedule,
        run: RunFolder,
        seed: int,
        bf16: bool,
        done: int,
    ) -> None:
        self.model, self.optimiser, self.loss_at, self.evaluate = model, optimiser, loss_at, evaluate
        self.schedule, self.run, self.seed, self.bf16, self.done = schedule, run, seed, bf16, done
        self.whole = True
        self.device = next(model.parameters()).device
        self._started, self._since = time.monotonic(), done
        self._total = torch.zeros((), device=self.device)

    def step(self) -> None:
        """One update, and the records that are due after it."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate_at(self.done)
        self.model.train()
        # the states of a GPU's generator, too, lie on the host: keeping and seeding them waits for nothing
        with torch.random.fork_rng(), half_precision(self.device, self.bf16):
            torch.manual_seed(self.seed * 1_000_003 + self.done)
            loss = self.loss_at(self.done)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip_norm)
        self.whole = False
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.done += 1
        self.whole = True
        self._total += loss.detach()
        last = self.done == self.schedule.steps
        if self.done % self.schedule.log_every == 0 or last:
            self._log()
        if self.done % self.schedule.save_every == 0 or last:
            self.save()
            self.run.log({"step": self.done, "steps": self.schedule.steps, **self.evaluate()})

    def save(self) -> None:
        """Write the state that a later run goes on from."""
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        self.run.save_state({"step": self.done, **state})

    def _log(self) -> None:
        made, now = self.done - self._since, time.monotonic()
        mean = float(self._total) / made
        if not mean < float("inf"):
            raise TrainingError(f"the loss is {mean} at step {self.done}; lower the learning rate")
        rate = round(made / (now - self._started), 3)
        self.run.log(
            {"step": self.done, "steps": self.schedule.steps, "loss": mean, "steps_per_second": rate}
        )
        self._started, self._since = now, self.done
        self._total.zero_()


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
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = optimiser.defaults["fused"]  # the state may be of a run on another device
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
