"""GSLM checkpoints in fairseq's format -> our model. Reads files as inert material, runs none of their pickles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechprompt.checkpoints import open_archive_members, read_checkpoint, read_dictionary
from speechprompt.errors import CheckpointError
from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM

HEAD_WIDTH = 64
"""Width of an attention head where the checkpoint's options do not say (every published model)."""


def load_gslm(path: str | Path, dictionary: str | Path | None = None) -> GslmForCausalLM:
    """Read a published .tgz, a folder, or a `checkpoint_best.pt` with its `dict.txt` (beside it by default).

    CheckpointError when a file is missing, damaged or not a GSLM.
    """
    path = Path(path)
    if path.is_dir():
        path, dictionary = path / "checkpoint_best.pt", dictionary or path / "dict.txt"
    if path.name.endswith((".tgz", ".tar.gz", ".tar")):
        members = open_archive_members(path, ["checkpoint_best.pt", "dict.txt"])
        tree, symbols = read_checkpoint(members["checkpoint_best.pt"]), read_dictionary(members["dict.txt"])
    else:
        tree, symbols = read_checkpoint(path), read_dictionary(dictionary or path.parent / "dict.txt")
    return gslm_from_tree(tree, symbols, str(path))


def gslm_from_tree(tree: Any, symbols: list[str], source: str) -> GslmForCausalLM:
    """Build the model from a checkpoint's tree; `source` names it in errors."""
    tensors = model_tensors(tree, source)
    config = _config(tree, tensors, symbols, source)
    model = GslmForCausalLM(config)
    try:
        model.load_state_dict(_renamed(tensors, source), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source} is not a GSLM: {' '.join(str(error).split())}") from None
    model.train(False)
    return model


def model_tensors(tree: Any, source: str) -> dict[str, Tensor]:
    """The fp32 tensors under `model`, without DataParallel's prefix. CheckpointError when there are none."""
    model = tree.get("model") if isinstance(tree, Mapping) else None
    if not isinstance(model, Mapping):
        raise CheckpointError(f"{source} is not a fairseq checkpoint: it has no 'model' part")
    return {
        str(name).removeprefix("module."): tensor.float()
        for name, tensor in model.items()
        if isinstance(tensor, Tensor)
    }


def _config(tree: Any, tensors: Mapping[str, Tensor], symbols: list[str], source: str) -> GslmConfig:
    try:
        entries, width, layers, inner = trunk_sizes(tensors)
    except (KeyError, ValueError):
        raise CheckpointError(f"{source} is not a GSLM: embeddings or layers are missing") from None
    if entries != len(symbols) + 4:
        raise CheckpointError(
            f"{source} has {entries} embeddings but its dictionary {len(symbols)} symbols and 4 special ids"
        )
    identity = symbols == [str(unit) for unit in range(len(symbols))]
    return GslmConfig(
        vocab_size=entries,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=attention_heads(tree, width, source),
        intermediate_size=inner,
        symbols=None if identity else symbols,
    )


def option(tree: Any, name: str, part: str = "model") -> Any:
    """An option as the checkpoint states it: `cfg.<part>.<name>`, in the older layout `args.<name>`, or None."""
    for options in (_member(_member(tree, "cfg"), part), _member(tree, "args")):
        value = _member(options, name)
        if value is not None:
            return value
    return None


def attention_heads(tree: Any, width: int, source: str) -> int:
    """Attention heads as the options state them; without options, those of every published model."""
    heads = option(tree, "decoder_attention_heads")
    heads = heads if isinstance(heads, int) else max(1, width // HEAD_WIDTH)
    if heads < 1 or width % heads:
        raise CheckpointError(f"{source} is damaged: a width of {width} does not divide into {heads} heads")
    return heads


def trunk_sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    """Embeddings, width, layers and inner width. KeyError or ValueError when the tensors are not a decoder's."""
    entries, width = tensors["decoder.embed_tokens.weight"].shape
    numbers = {int(m[1]) for name in tensors if (m := re.match(r"decoder\.layers\.(\d+)\.", name))}
    if numbers != set(range(len(numbers))):
        raise ValueError("the layers are not numbered from 0 on")
    return entries, width, len(numbers), tensors["decoder.layers.0.fc1.weight"].shape[0]


def _member(thing: Any, name: str) -> Any:
    if isinstance(thing, Mapping):
        return thing.get(name)
    return getattr(thing, name, None)


def _renamed(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Our parameter names; the output matrix must be the embeddings, as in every GSLM."""
    embeddings = tensors["decoder.embed_tokens.weight"]
    output = tensors.get("decoder.output_projection.weight", embeddings)
    if not torch.equal(output, embeddings):
        raise CheckpointError(f"{source} has an output matrix of its own; a GSLM's is tied to its embeddings")
    renamed = {"embed_tokens.weight": embeddings, "output_projection.weight": embeddings}
    for name, tensor in tensors.items():
        if name.startswith(("decoder.layers.", "decoder.layer_norm.")):
            renamed[name] = tensor
    return renamed
