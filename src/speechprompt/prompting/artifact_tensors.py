"""An artifact's tensors: their names, and the prompts that are made of them once every claim is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprompt.errors import ArtifactError
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.domain import Domain
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.readings import sizes_of
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import FixedVerbalizer, LearnableVerbalizer, Verbalizer

if TYPE_CHECKING:
    from torch import Tensor

    from speechprompt.prompting.artifact import PromptConfig

DOMAIN = "domain."
"""What the names of a domain's tensors begin with; artifacts of 0.1.0 have none."""
HEARD = "heard"
"""The tensor of hashes of the clips that a prompt has heard; prompts from before it was kept have none."""
LARGEST_TENSOR_FILE = 256 * 2**20


@dataclass(frozen=True)
class Member:
    """One of the prompts of an artifact; its calibration counts before the mean over all of them."""

    entry: TaskPrompt
    calibration: Calibration
    domain: Domain | None


def read_tensors(path: Path) -> dict[str, Any]:
    """A safetensors file. ArtifactError when it is missing, damaged or too large for a prompt."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.stat().st_size > LARGEST_TENSOR_FILE:
            raise ArtifactError(f"{path} is over {LARGEST_TENSOR_FILE >> 20} MiB, too large for a prompt")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} is missing or damaged: {error}") from None


def _domain(tensors: dict[str, Any], lm: UnitLM, path: Path) -> Domain | None:
    """Take a domain's tensors out of the file's; None where there are none."""
    found = _taken(tensors, DOMAIN)
    if not found:
        return None
    try:
        return Domain.of_tensors({name: x.to(lm.device) for name, x in found.items()}, lm.width)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{path} does not match its configuration: {error}") from None


def take_heard(tensors: dict[str, Any], path: Path) -> Tensor | None:
    """Take the hashes of heard clips out of the file's tensors; None where there are none."""
    import torch

    found: Tensor | None = tensors.pop(HEARD, None)
    if found is not None and (found.dtype != torch.int64 or found.ndim != 1):
        raise ArtifactError(f"{path} does not match its configuration: '{HEARD}' holds no hashes")
    return found


def _prefix(number: int) -> str:
    """What the names of a member's tensors begin with; those of the first stand as they do where it is alone."""
    return "" if number == 1 else f"member{number}."


def _taken(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Take the tensors of a prefix out of the file's."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in [*tensors] if name.startswith(prefix)}


def tensors_of(members: Sequence[Member]) -> dict[str, Tensor]:
    """All that training made, by name, as copies on the CPU."""
    return {
        _prefix(number) + name: x.detach().cpu().clone()
        for number, member in enumerate(members, start=1)
        for name, x in member.entry.state_dict().items()
    }


def domains_of(members: Sequence[Member]) -> dict[str, Tensor]:
    """What the members know of their training data, by name."""
    return {
        _prefix(number) + DOMAIN + name: x.contiguous()
        for number, member in enumerate(members, start=1)
        if member.domain is not None
        for name, x in member.domain.tensors().items()
    }


def members_from(
    config: PromptConfig, task: Task, tensors: dict[str, Any], lm: UnitLM, path: Path
) -> list[Member]:
    """The prompts that a configuration speaks of, from all tensors of a file; the first takes what is left.

    ArtifactError when tensors are missing, do not fit, are of no use or hold what is no number.
    """
    parts = [_taken(tensors, _prefix(number)) for number in range(2, len(config.members) + 1)]
    configs = [
        (config.model_copy(update={"streams": own.streams}), own.temperatures) for own in config.members
    ]
    found = []
    for (own, temperatures), part in zip(configs or [(config, {})], [tensors, *parts], strict=True):
        domain = _domain(part, lm, path)  # taken out first: what is left must be the prompt, and nothing else
        found.append(Member(_entry(own, task, part, lm, path), Calibration(temperatures), domain))
    return found


def _entry(
    config: PromptConfig, task: Task, tensors: Mapping[str, Any], lm: UnitLM, path: Path
) -> TaskPrompt:
    """Rebuild the task prompt; every tensor must be there, fit, and be finite."""
    import torch

    shape = Prompt.shape(config.method, config.prompt_length, lm)
    try:
        if tensors["prompt.vectors"].shape != shape:
            raise ValueError(f"its prompt is {tuple(tensors['prompt.vectors'].shape)}, not {shape}")
        prompt = Prompt(config.method, torch.empty(shape), torch.empty(lm.width))
        verbalizer = _empty_verbalizer(config, tensors, lm)
        entry = TaskPrompt(task, prompt, verbalizer, config.decoding, config.shifts_positions)
        entry.load_state_dict(dict(tensors), strict=True)
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path} does not match its configuration: {reason}") from None
    _check_values(entry, tensors, lm, path)
    return entry.to(lm.device)


def _check_values(entry: TaskPrompt, tensors: Mapping[str, Any], lm: UnitLM, path: Path) -> None:
    """ArtifactError for values that are not numbers, and for ids that point at nothing."""
    import torch

    weight = getattr(entry.verbalizer, "weight", None)
    outputs = lm.vocabulary_size if weight is None else len(weight)
    for name, tensor in entry.state_dict().items():
        if tensors[name].is_floating_point() != tensor.is_floating_point():
            raise ArtifactError(f"{path}: '{name}' holds {tensors[name].dtype}, not {tensor.dtype}")
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise ArtifactError(f"{path}: '{name}' holds values that are not numbers")
            continue
        limit = outputs if ".columns_" in name else lm.vocabulary_size
        if int(tensor.min()) < 0 or int(tensor.max()) >= limit:
            raise ArtifactError(f"{path}: '{name}' points outside the {limit} outputs")


def _empty_verbalizer(config: PromptConfig, tensors: Mapping[str, Any], lm: UnitLM) -> Verbalizer:
    import torch

    if config.verbalizer == "fixed":
        return FixedVerbalizer({slot: [0] * len(labels) for slot, labels in config.slots.items()}, lm)
    blank = {slot: torch.zeros(len(labels), dtype=torch.int64) for slot, labels in config.slots.items()}
    weight = torch.empty(tensors["verbalizer.weight"].shape[0], sum(sizes_of(lm, config.streams)))
    verbalizer = LearnableVerbalizer(weight, blank, {slot: ids.clone() for slot, ids in blank.items()})
    verbalizer.streams = tuple(config.streams)
    return verbalizer
