"""HuBERT checkpoints, fairseq's or transformers', -> a model cut behind one layer. Runs none of their pickles."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from speechprompt.checkpoints import read_checkpoint, reading, tensors_of, without_prefix
from speechprompt.downloads import offline
from speechprompt.errors import CheckpointError, DownloadError

PUBLISHED_STRIDES = {10: 5, 3: 2, 2: 2}
"""Stride of each convolution by its kernel, in every published HuBERT, where a checkpoint's options do not say."""

CONFIG_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("conv_dim", "conv_kernel", "conv_stride", "conv_bias", "conv_pos_batch_norm", "layer_norm_eps"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "do_stable_layer_norm"),
    *("feat_extract_norm", "feat_extract_activation", "feat_proj_layer_norm"),
)
"""What of a model's configuration changes its features."""

_HEAD_WIDTH = 64
_MAX_LAYERS = 200
_RENAMED = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"^(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"^(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
)


def read_fairseq(path: str | Path, layer: int) -> tuple[HubertModel, bool]:
    """The model of a fairseq HuBERT checkpoint up to `layer` (1 is the first), and whether it normalises waveforms.

    CheckpointError when the file is damaged, no HuBERT, or has fewer layers.
    """
    with reading(path, "a fairseq HuBERT"):
        tree = read_checkpoint(path)
        model = _member(tree, "model")
        if not isinstance(model, Mapping):
            raise ValueError("it has no 'model' part")
        options = _member(_member(tree, "cfg"), "model") or _member(tree, "args")
        task = _member(_member(tree, "cfg"), "task") or _member(tree, "args")
        tensors = {_renamed(name): tensor for name, tensor in without_prefix(tensors_of(model)).items()}
        return build(_config(tensors, options, layer), tensors, str(path)), _member(task, "normalize") is True


def read_pretrained(name_or_folder: str | Path, layer: int) -> HubertModel:
    """The model of a transformers folder or hub id up to `layer`; its weights in safetensors or a torch file.

    CheckpointError when it is no HuBERT or damaged, DownloadError when the hub cannot give it. Side effects:
    downloads into the Hugging Face cache.
    """
    path = _hub_file(name_or_folder, ("config.json",))
    with reading(path, "a HuBERT's configuration"):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["model_type"] != "hubert" or not 1 <= layer <= about["num_hidden_layers"]:
            raise ValueError(
                f"a {about['model_type']} of {about['num_hidden_layers']} layers; layer {layer} is asked"
            )
        fields = {name: about[name] for name in CONFIG_FIELDS if name in about}
        config = HubertConfig(**{**fields, "num_hidden_layers": layer})
    weights = _hub_file(name_or_folder, ("model.safetensors", "pytorch_model.bin"))
    with reading(weights, "a HuBERT's weights"):
        tensors = (
            load_file(weights) if weights.suffix == ".safetensors" else tensors_of(read_checkpoint(weights))
        )
        # a model with a head keeps the bare one under `hubert.`
        return build(config, {name.removeprefix("hubert."): t for name, t in tensors.items()}, str(weights))


def _hub_file(name_or_folder: str | Path, names: tuple[str, ...]) -> Path:
    """The first of these files that a folder or hub repository has."""
    if Path(name_or_folder).is_dir():
        for name in names:
            if (path := Path(name_or_folder) / name).is_file():
                return path
        raise CheckpointError(f"{name_or_folder} has no {' or '.join(names)}")
    for name in names:
        try:
            return Path(hf_hub_download(str(name_or_folder), name, local_files_only=offline() is not None))
        except RemoteEntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DownloadError(
                f"{name_or_folder} is no folder here, and its {name} cannot be had from the hub ({reason})"
            ) from None
    raise CheckpointError(f"{name_or_folder} has no {' or '.join(names)}")


def build(config: HubertConfig, tensors: Mapping[str, Tensor], source: str) -> HubertModel:
    """A frozen model in evaluation mode from tensors under transformers' names; those it has no place for are left.

    The positional convolution's weight norm is folded into its weight. A pre-norm model's last norm is left out,
    as where features are taken. CheckpointError when a tensor is missing or has another shape.
    """
    if not 1 <= config.num_hidden_layers <= _MAX_LAYERS:
        raise CheckpointError(f"{source}: layer {config.num_hidden_layers} is not a layer of a HuBERT")
    config.mask_time_prob = config.mask_feature_prob = 0.0  # else it holds an embedding of masked frames
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = HubertModel(config)
        if nn.utils.parametrize.is_parametrized(model.encoder.pos_conv_embed.conv):
            nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    if config.do_stable_layer_norm:
        model.encoder.layer_norm = nn.Identity()
    folded = _folded(tensors)
    wanted = model.state_dict()
    if missing := [name for name in wanted if name not in folded]:
        raise CheckpointError(
            f"{source} is not this HuBERT: it lacks {missing[0]} ({len(missing)} tensors in all)"
        )
    try:
        model.load_state_dict({name: folded[name].float() for name in wanted}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source} does not fit: {str(error).splitlines()[-1].strip()}") from None
    frozen: HubertModel = model.requires_grad_(False).eval()
    return frozen


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Direction and length of the positional convolution's weight, in either layout, made one tensor."""
    stem = "encoder.pos_conv_embed.conv."
    layouts = (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    )
    for length, direction in layouts:
        if stem + length in tensors and stem + direction in tensors:
            weight = tensors[stem + direction].float()
            norms = weight.square().sum((0, 1), keepdim=True).sqrt()
            return {**tensors, f"{stem}weight": weight * (tensors[stem + length].float() / norms)}
    return dict(tensors)


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name


def _config(tensors: Mapping[str, Tensor], options: Any, layer: int) -> HubertConfig:
    """Sizes as the tensors' shapes say; strides and heads as the options say, else as published."""
    stem = "feature_extractor.conv_layers"
    convolutions: list[torch.Size] = []
    while (name := f"{stem}.{len(convolutions)}.conv.weight") in tensors:
        convolutions.append(tensors[name].shape)
    width = len(tensors["encoder.layer_norm.weight"])
    layers = {int(m[1]) for name in tensors if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    if layer > len(layers):
        raise ValueError(f"layer {layer} (it has {len(layers)})")
    kernels = [int(shape[2]) for shape in convolutions]
    grouped = f"{stem}.1.layer_norm.weight" not in tensors
    positional = tensors.get("encoder.pos_conv_embed.conv.weight_v")
    if positional is None:
        positional = tensors["encoder.pos_conv_embed.conv.weight"]
    stable = _member(options, "layer_norm_first")
    return HubertConfig(
        hidden_size=width,
        num_hidden_layers=layer,
        num_attention_heads=_member(options, "encoder_attention_heads") or max(1, width // _HEAD_WIDTH),
        intermediate_size=tensors["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        conv_dim=[int(shape[0]) for shape in convolutions],
        conv_kernel=kernels,
        conv_stride=_strides(_member(options, "conv_feature_layers"), kernels),
        conv_bias=f"{stem}.0.conv.bias" in tensors,
        num_conv_pos_embeddings=positional.shape[2],
        num_conv_pos_embedding_groups=width // positional.shape[1],
        conv_pos_batch_norm=False,
        feat_extract_norm="group" if grouped else "layer",
        do_stable_layer_norm=(not grouped) if stable is None else bool(stable),
    )


def _strides(stated: Any, kernels: list[int]) -> list[int]:
    """Strides of an expression like `[(512,10,5)] + [(512,3,2)] * 4`, read without evaluating it."""
    strides: list[int] = []
    number = r"\s*(\d{1,4})\s*"
    for match in re.finditer(
        rf"\[\({number},{number},{number}\)\](?:\s*\*\s*(\d{{1,2}}))?", str(stated or "")
    ):
        strides += [int(match[3])] * int(match[4] or 1)
    if not strides:
        strides = [PUBLISHED_STRIDES[kernel] for kernel in kernels]
    if len(strides) != len(kernels) or math.prod(strides) < 1:
        raise ValueError(f"a convolution's stride ({stated})")
    return strides


def _member(thing: Any, name: str) -> Any:
    if isinstance(thing, Mapping):
        return thing.get(name)
    return getattr(thing, name, None)
