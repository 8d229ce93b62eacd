"""Tuning a copy of the unit LM itself, wholly or through low-rank adapters: what prompting is measured against.

Rows, head, loss, batches and stopping are the prompt's own; only what the optimiser holds differs. The frozen
LM stays as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import Parameter

from speechprompt.errors import MissingExtra, UsageError
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.initialisation import from_units
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import Verbalizer, learnable

FINETUNE_RATE, LORA_RATE = 3e-4, 2e-3
"""Learning rates of the LM's own weights and of the adapters; separator and head keep the prompt's."""
LORA_RANK = 8
LORA_TARGETS = ("q_proj", "v_proj")


class TunedEntry(TaskPrompt):
    """A task without a prompt: separator, head, and the parameters of an LM copy that learn with them."""

    def __init__(
        self, task: Task, prompt: Prompt, verbalizer: Verbalizer, tuned: Iterable[Parameter], rate: float
    ) -> None:
        super().__init__(task, prompt, verbalizer)
        self.tuned, self.rate = nn.ParameterList(tuned), rate


class TuningRun(Run):
    """A run whose optimiser also holds the LM's parameters, at their own rate."""

    def _optimiser(self) -> torch.optim.Optimizer:
        optimiser = super()._optimiser()
        assert isinstance(self.entry, TunedEntry)
        optimiser.add_param_group({"params": list(self.entry.tuned), "lr": self.entry.rate})
        return optimiser


def finetuning_run(
    lm: UnitLM, task: Task, options: TrainingOptions, train: Examples, valid: Examples
) -> tuple[UnitLM, Run]:
    """A copy of the LM of which everything learns, and the run that trains it. UsageError unless it is a GSLM."""
    tuned = _copied(require_gslm(lm, "finetune"))
    tuned.model.requires_grad_(True)
    return tuned, _run("finetune", tuned, FINETUNE_RATE, task, options, train, valid)


def lora_run(
    lm: UnitLM, task: Task, options: TrainingOptions, train: Examples, valid: Examples
) -> tuple[UnitLM, Run]:
    """A copy of the LM with low-rank adapters on queries and values, and the run that trains those.

    MissingExtra without peft; UsageError unless it is a GSLM. Source: LoRA, arXiv 2106.09685.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    tuned = _copied(require_gslm(lm, "lora"))
    config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=list(LORA_TARGETS))
    with torch.random.fork_rng():  # peft draws from the global generator
        torch.manual_seed(options.seed)
        inject_adapter_in_model(config, tuned.model)
    tuned.model.train(False)
    return tuned, _run("lora", tuned, LORA_RATE, task, options, train, valid)


def require_peft() -> None:
    """MissingExtra when peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise MissingExtra("peft", "peft", "the method lora") from None


def require_gslm(lm: UnitLM, method: str) -> GslmUnitLM:
    """The LM, known to be a GSLM. UsageError naming the methods that work on any other."""
    if isinstance(lm, GslmUnitLM):
        return lm
    raise UsageError(
        f"method '{method}' tunes a GSLM, which {type(lm).__name__} is not; "
        "--methods prompt,n-gram,probe works on any LM"
    )


def _copied(lm: GslmUnitLM) -> GslmUnitLM:
    """The same weights again, in fp32 and still frozen."""
    return GslmUnitLM(copy.deepcopy(lm.model), lm.fingerprint).to(dtype=torch.float32)


def _run(
    name: str,
    lm: GslmUnitLM,
    rate: float,
    task: Task,
    options: TrainingOptions,
    train: Examples,
    valid: Examples,
) -> TuningRun:
    generator = torch.Generator().manual_seed(options.seed)
    prompt = from_units(lm, options, 0, train.units, generator)
    parameters = [parameter for parameter in lm.model.parameters() if parameter.requires_grad]
    entry = TunedEntry(
        task, prompt.to(lm.device), learnable(task, lm, generator).to(lm.device), parameters, rate
    )
    return TuningRun(name, entry, options, train, valid)
