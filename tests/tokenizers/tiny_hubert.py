"""Small random HuBERTs and clips, for tests."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HubertConfig, HubertModel

from speechprompt.tokenizers.hubert import HubertTokenizer

BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
WIDTH, LAYERS = 32, 2


def tiny_model(kind: dict[str, Any] = BASE, layers: int = LAYERS) -> HubertModel:
    """A random HuBERT with lively norms and biases, whose receptive field and hop are the real one's."""
    config = HubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **kind,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HubertModel(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def centres(count: int = 12, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def tiny_tokenizer(folder: Path, kind: dict[str, Any] = BASE, **options: Any) -> HubertTokenizer:
    model = tiny_model(kind)
    model.save_pretrained(folder)
    return HubertTokenizer.from_pretrained(folder, LAYERS, centres(), **options)


def waveform(samples: int, seed: int = 0) -> np.ndarray:
    """Noise under a slow envelope: what normalises over time must notice what is added to it."""
    random = np.random.default_rng((seed, samples))
    envelope = 0.3 + np.abs(np.sin(np.linspace(0, 7, samples)))
    return (envelope * random.standard_normal(samples)).astype(np.float32)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


def fairseq_checkpoint(model: HubertModel, kind: dict[str, Any], layout: str) -> dict[str, Any]:
    """A model under fairseq's names, written out independently of the reader's table."""
    source = model.state_dict()
    named = {"label_embs_concat": torch.zeros(3, 3), "final_proj.weight": torch.zeros(1)}
    for name, tensor in source.items():
        part = name.split(".")
        if part[:2] == ["feature_extractor", "conv_layers"]:
            if part[3] == "conv":
                named[f"feature_extractor.conv_layers.{part[2]}.0.{part[4]}"] = tensor
            else:
                middle = "2" if kind is BASE else "2.1"
                named[f"feature_extractor.conv_layers.{part[2]}.{middle}.{part[4]}"] = tensor
        elif part[0] == "feature_projection":
            stem = "layer_norm" if part[1] == "layer_norm" else "post_extract_proj"
            named[f"{stem}.{part[2]}"] = tensor
        elif part[0] == "masked_spec_embed":
            named["mask_emb"] = tensor
        elif part[1] == "pos_conv_embed":
            ending = {"original0": "weight_g", "original1": "weight_v", "bias": "bias"}[part[-1]]
            named[f"encoder.pos_conv.0.{ending}"] = tensor
        elif part[1] == "layers":
            inner = {
                "attention": "self_attn",
                "layer_norm": "self_attn_layer_norm",
                "intermediate_dense": "fc1",
                "output_dense": "fc2",
                "final_layer_norm": "final_layer_norm",
            }
            rest = part[4:] if part[3] == "feed_forward" else part[3:]
            named[".".join(["encoder", "layers", part[2], inner[rest[0]], *rest[1:]])] = tensor
        elif part[1] == "layer_norm":
            named[name] = tensor
    options = {"encoder_attention_heads": 4, "layer_norm_first": kind is LARGE, "normalize": kind is LARGE}
    options["conv_feature_layers"] = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
    if layout == "args":
        return {"args": argparse.Namespace(**options), "model": {f"module.{k}": v for k, v in named.items()}}
    if layout == "bare":
        return {"args": None, "model": named}
    return {"cfg": {"model": options, "task": {"normalize": options["normalize"]}}, "model": named}
