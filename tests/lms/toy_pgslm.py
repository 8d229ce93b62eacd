"""Random pGSLMs of every kind, as models and as checkpoints, and a plain re-computation of what they should say."""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt.lms.pgslm import PgslmForCausalLM
from speechprompt.lms.pgslm_config import PgslmConfig
from speechprompt.lms.pgslm_units import PgslmUnitLM
from speechprompt.speech.units import Units
from speechprompt.testing import UNIT_COUNT

EDGES = [-0.5, -0.2, -0.05, 0.0, 0.1, 0.3, 0.7]
KINDS = {
    "discrete": {},
    "continuous": {"discrete_duration": False, "discrete_f0": False},
    "mixed": {"discrete_duration": True, "discrete_f0": False},
    "no_prosody": {"reads_duration": False, "reads_f0": False},
    "continuous_no_prosody": {
        "discrete_duration": False,
        "discrete_f0": False,
        "reads_duration": False,
        "reads_f0": False,
    },
}


def toy_pgslm(kind: str = "discrete", seed: int = 0, **sizes: Any) -> PgslmForCausalLM:
    """Two layers of width 16 over 20 units, 5 frames and 8 bins; norms and biases are drawn too."""
    config = PgslmConfig(
        **{
            "vocab_size": UNIT_COUNT + 4,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_duration": 5,
            "f0_bins": len(EDGES) + 1,
            "f0_edges": EDGES,
            "max_units": 200,
            **KINDS[kind],
            **sizes,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PgslmForCausalLM(config)
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def toy_lm(kind: str = "discrete", seed: int = 0, **options: Any) -> PgslmUnitLM:
    return PgslmUnitLM(toy_pgslm(kind, seed), **options)


def prosodic_units(lengths: list[int], seed: int = 0) -> list[Units]:
    """Random utterances with durations beyond the LM's maximum and F0 beyond its edges."""
    random = np.random.default_rng(seed)
    return [
        Units(
            random.integers(0, UNIT_COUNT, n),
            random.integers(1, 9, n),
            np.where(random.random(n) < 0.2, 0, random.normal(0, 0.4, n)).astype(np.float32),
        )
        for n in lengths
    ]


def fairseq_tensors(model: PgslmForCausalLM) -> dict[str, Tensor]:
    """The model's weights under the reference's names, with what it stores besides."""
    renamed = {"decoder.version": torch.tensor([3.0])}
    for name, tensor in model.state_dict().items():
        for ours, place in (("duration_input", 0), ("f0_input", 1)):
            if name.startswith(ours):
                layer = getattr(model, ours)
                kind = "embed" if isinstance(layer, torch.nn.Embedding) else "proj"
                renamed[f"decoder.{kind}_other_list.{place}.{name.rsplit('.')[-1]}"] = tensor
        if name.startswith("decoder."):
            renamed[name] = tensor
    renamed["decoder.embed_tokens.weight"] = model.embed_tokens.weight.detach()
    renamed["decoder.output_projection.weight"] = model.embed_tokens.weight.detach()
    renamed["decoder.project_out_dim.weight"] = model.output_projection.weight.detach()
    return renamed


def write_checkpoint(model: PgslmForCausalLM, path: Path, layout: str = "cfg", **options: Any) -> None:
    """A checkpoint as the reference writes it, in its newer (`cfg`) or older (`args`) layout."""
    config = model.config
    task = {
        "stream_shifts": "1,1",
        "ignore_duration_input": not config.reads_duration,
        "ignore_f0_input": not config.reads_f0,
        "data": "/nowhere/data_config.json",
        **options,
    }
    sizes = {"decoder_attention_heads": config.num_attention_heads}
    weights = {"loss_weights": ";".join(str(w) for w in config.loss_weights)}
    state: dict[str, Any] = {"model": fairseq_tensors(model), "args": None}
    if layout == "cfg":
        state["cfg"] = {"model": argparse.Namespace(**sizes), "task": task, "criterion": weights}
    else:
        state["args"] = argparse.Namespace(**sizes, **task, **weights)
    torch.save(state, path)


def slow_states(
    tensors: dict[str, Tensor], config: PgslmConfig, ids: list[int], durations: list[float], f0: list[float]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """States and logits of one row of already shifted streams, in double precision, position by position."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    width, count = config.hidden_size, len(ids)
    x = torch.stack(
        [
            weights["decoder.embed_tokens.weight"][unit] * math.sqrt(width)
            + _input(weights, 0, duration if config.reads_duration else 0)
            + _input(weights, 1, value if config.reads_f0 else 0)
            + _position(config.vocab_size - 2 + place, width)
            for place, (unit, duration, value) in enumerate(zip(ids, durations, f0, strict=True))
        ]
    )
    states = [x]
    for layer in range(config.num_hidden_layers):
        name = f"decoder.layers.{layer}"
        h = _norm(weights, f"{name}.self_attn_layer_norm", x)
        q, k, v = (_linear(weights, f"{name}.self_attn.{p}_proj", h) for p in "qkv")
        mixed = torch.zeros_like(x)
        size = width // config.num_attention_heads
        for head, t in itertools.product(range(config.num_attention_heads), range(count)):
            part = slice(head * size, head * size + size)
            shares = (k[: t + 1, part] @ q[t, part] / math.sqrt(size)).softmax(0)
            mixed[t, part] = shares @ v[: t + 1, part]
        x = x + _linear(weights, f"{name}.self_attn.out_proj", mixed)
        inner = _linear(weights, f"{name}.fc1", _norm(weights, f"{name}.final_layer_norm", x)).clamp(min=0)
        x = x + _linear(weights, f"{name}.fc2", inner)
        states.append(x)
    out = _norm(weights, "decoder.layer_norm", x) @ weights["decoder.project_out_dim.weight"].T
    sizes = config.stream_sizes
    return states, dict(zip(sizes, out.split(list(sizes.values()), -1), strict=True))


def _input(weights: dict[str, Tensor], place: int, value: float) -> Tensor:
    table = weights.get(f"decoder.embed_other_list.{place}.weight")
    if table is not None:
        return table[int(value)]
    weight, bias = (weights[f"decoder.proj_other_list.{place}.{part}"] for part in ("weight", "bias"))
    return weight[:, 0] * value + bias


def _position(place: int, width: int) -> Tensor:
    half = width // 2
    angles = torch.tensor([place * 10000 ** (-i / (half - 1)) for i in range(half)], dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()])


def _norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
