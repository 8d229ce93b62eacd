"""Prompts trained with the public SpeechPrompt-v2 code, read as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from speechprompt.checkpoints import read_checkpoint
from speechprompt.errors import CheckpointError
from speechprompt.lms.fairseq import model_tensors
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import SPECIALS, FixedVerbalizer, LearnableVerbalizer, Verbalizer


def read_reference_prompt(
    path: str | Path, lm: UnitLM, task: Task, verbalizer: Mapping[str, str]
) -> TaskPrompt:
    """Build a task prompt from the reference's `prompt_checkpoint.pt` or `base_prompt_model.pt`.

    `verbalizer` maps label to symbol, as its verbalizer.json does: the unit of a fixed verbalizer, the row of
    a learnable one. Labels may share a symbol. CheckpointError when the file is not one, or fits another LM.
    """
    return reference_prompt(model_tensors(read_checkpoint(path), str(path)), lm, task, verbalizer, str(path))


def reference_prompt(
    tensors: Mapping[str, Tensor],
    lm: UnitLM,
    task: Task,
    verbalizer: Mapping[str, str],
    source: str = "tensors",
) -> TaskPrompt:
    """The same from named tensors; a deep prompt's dead input prompt is left out."""
    try:
        separator = tensors["decoder.sep_embed.weight"][0]
        units = {slot: [int(verbalizer[label]) for label in labels] for slot, labels in task.slots.items()}
    except KeyError as missing:
        raise CheckpointError(f"{source} is not a reference prompt for this task: no {missing}") from None
    prompt = _prompt(tensors, separator, lm, source)
    entry = TaskPrompt(task, prompt, _verbalizer(tensors, units, lm), decoding="autoregressive")
    return entry.to(lm.device)


def _prompt(tensors: Mapping[str, Tensor], separator: Tensor, lm: UnitLM, source: str) -> Prompt:
    deep = [_by_layer(tensors, f"decoder.deep_{kind}_embed_prompts") for kind in ("key", "value")]
    if deep[0]:
        prompt = Prompt("before_projection", torch.stack([torch.stack(rows) for rows in deep]), separator)
    else:
        prompt = Prompt("input", tensors["decoder.prefix_embed_prompts.weight"].clone(), separator)
    expected = Prompt.shape(prompt.method, prompt.length, lm)
    if tuple(prompt.vectors.shape) != expected:
        raise CheckpointError(
            f"{source} holds prompts of shape {tuple(prompt.vectors.shape)}; this LM needs {expected}"
        )
    return prompt


def _by_layer(tensors: Mapping[str, Tensor], stem: str) -> list[Tensor]:
    pattern = re.compile(re.escape(stem) + r"\.(\d+)\.weight")
    found = {int(match[1]): tensor for name, tensor in tensors.items() if (match := pattern.fullmatch(name))}
    return [found[layer] for layer in sorted(found)]


def _verbalizer(tensors: Mapping[str, Tensor], units: Mapping[str, list[int]], lm: UnitLM) -> Verbalizer:
    weight = tensors.get("decoder.prompt_linear_verbalizer.weight")
    if weight is None:
        return FixedVerbalizer(units, lm)
    indices = {slot: torch.tensor(chosen) for slot, chosen in units.items()}
    answers = {slot: lm.lm_ids(ids % lm.unit_count) for slot, ids in indices.items()}
    return LearnableVerbalizer(
        weight.clone(), {slot: ids + SPECIALS for slot, ids in indices.items()}, answers
    )
