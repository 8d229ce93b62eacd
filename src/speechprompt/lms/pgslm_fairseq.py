"""pGSLM checkpoints in fairseq's format -> our model: tensors and options only, none of their pickles run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from speechprompt.checkpoints import read_checkpoint
from speechprompt.errors import CheckpointError
from speechprompt.lms.fairseq import attention_heads, load_gslm, model_tensors, option, trunk_sizes
from speechprompt.lms.gslm import GslmForCausalLM
from speechprompt.lms.pgslm import PgslmForCausalLM
from speechprompt.lms.pgslm_config import SPECIALS, PgslmConfig

F0_BINS = "mean_norm_log_f0_seg_bin.th"
"""The published file of F0 bins, expected beside a discrete checkpoint by default."""

_INPUTS = {"duration_input": 0, "f0_input": 1}


def load_pgslm(path: str | Path, f0_bins: str | Path | None = None) -> PgslmForCausalLM:
    """Read a published `*_shift_1_1.pt` and, for a discrete F0 stream, its bins (.th or .npy).

    Without bins the model runs on streams that are already quantised, and refuses others. CheckpointError when a
    file is missing, damaged, or not a pGSLM whose prosody is shifted by one.
    """
    path = Path(path)
    beside = path.parent / F0_BINS
    if f0_bins is None and beside.is_file():
        f0_bins = beside
    model = pgslm_from_tree(read_checkpoint(path), str(path))
    if f0_bins is not None and model.config.discrete_f0:
        model.config.f0_edges = read_f0_edges(f0_bins, model.config.f0_bins)
    return model


def load_unit_lm_checkpoint(
    path: str | Path, f0_bins: str | Path | None = None
) -> GslmForCausalLM | PgslmForCausalLM:
    """A GSLM (an archive, a folder, or a .pt with a dict.txt) or a pGSLM (a .pt without, or with bins named).

    Errors as `load_gslm` and `load_pgslm`.
    """
    path = Path(path)
    has_dictionary = path.suffix != ".pt" or (path.parent / "dict.txt").is_file()
    return load_gslm(path) if has_dictionary and f0_bins is None else load_pgslm(path, f0_bins)


def pgslm_from_tree(tree: Any, source: str) -> PgslmForCausalLM:
    """Build the model from a checkpoint's tree; `source` names it in errors."""
    tensors = model_tensors(tree, source)
    model = PgslmForCausalLM(_config(tree, tensors, source))
    try:
        model.load_state_dict(_renamed(tensors), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source} is not a pGSLM: {' '.join(str(error).split())}") from None
    model.train(False)
    return model


def read_f0_edges(path: str | Path, bins: int) -> list[float]:
    """The `bins` - 1 ascending edges in a .npy, or in a .th by number of bins. CheckpointError otherwise."""
    path = Path(path)
    try:
        found = np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_checkpoint(path)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} holds no readable F0 bins: {error}") from None
    if isinstance(found, Mapping):
        found = found.get(bins)
    edges = np.asarray(found, dtype=np.float64) if isinstance(found, np.ndarray | Tensor | list) else None
    if edges is None or edges.shape != (bins - 1,) or not (np.diff(edges) >= 0).all():
        raise CheckpointError(f"{path} does not hold {bins - 1} ascending edges between {bins} F0 bins")
    return [float(edge) for edge in edges]


def _config(tree: Any, tensors: Mapping[str, Tensor], source: str) -> PgslmConfig:
    shifts = option(tree, "stream_shifts", "task")
    if shifts is not None and str(shifts).replace(" ", "") != "1,1":
        raise CheckpointError(
            f"{source} shifts its streams by {shifts}; only 1,1 (all published models) is read"
        )
    try:
        entries, width, layers, inner = trunk_sizes(tensors)
        outputs = tensors["decoder.project_out_dim.weight"].shape[0]
    except (KeyError, ValueError):
        raise CheckpointError(
            f"{source} is not a pGSLM: embeddings, first layer or output streams are missing"
        ) from None
    sizes = [_table_size(tensors, place) for place in _INPUTS.values()]
    config = PgslmConfig(
        vocab_size=entries,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=attention_heads(tree, width, source),
        intermediate_size=inner,
        discrete_duration=sizes[0] is not None,
        discrete_f0=sizes[1] is not None,
        max_duration=20 if sizes[0] is None else sizes[0] - SPECIALS - 1,
        f0_bins=32 if sizes[1] is None else sizes[1] - SPECIALS,
        reads_duration=not option(tree, "ignore_duration_input", "task"),
        reads_f0=not option(tree, "ignore_f0_input", "task"),
        loss_weights=_loss_weights(tree),
    )
    if sum(config.stream_sizes.values()) != outputs:
        raise CheckpointError(
            f"{source} has {outputs} outputs, which do not fit streams of {config.stream_sizes}"
        )
    return config


def _table_size(tensors: Mapping[str, Tensor], place: int) -> int | None:
    """Values and specials of a discrete prosody stream, None for a continuous one."""
    table = tensors.get(f"decoder.embed_other_list.{place}.weight")
    return None if table is None else table.shape[0]


def _loss_weights(tree: Any) -> list[float] | None:
    weights = option(tree, "loss_weights", "criterion")
    try:
        parsed = [float(weight) for weight in str(weights).split(";")]
    except ValueError:
        return None
    return parsed if len(parsed) == 3 else None


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameter names; the reference's unused tied output matrix is left out."""
    renamed = {
        "embed_tokens.weight": tensors["decoder.embed_tokens.weight"],
        "output_projection.weight": tensors["decoder.project_out_dim.weight"],
    }
    for name, place in _INPUTS.items():
        for theirs in (f"decoder.embed_other_list.{place}", f"decoder.proj_other_list.{place}"):
            for part in ("weight", "bias"):
                if f"{theirs}.{part}" in tensors:
                    renamed[f"{name}.{part}"] = tensors[f"{theirs}.{part}"]
    for name, tensor in tensors.items():
        if name.startswith(("decoder.layers.", "decoder.layer_norm.")):
            renamed[name] = tensor
    return renamed
