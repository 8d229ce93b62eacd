"""Model folders in transformers' layout, read strictly: safetensors only, and every weight must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from speechprompt.errors import CheckpointError


def read_model(loader: Any, folder: str | Path, what: str) -> PreTrainedModel:
    """The fp32 model that `save_pretrained` wrote; `loader` is a model or Auto class, `what` its name in errors.

    CheckpointError for anything that is wrong with the folder, weights that are missing or left over included
    (transformers would draw missing ones at random). Side effects: silences transformers' bars and warnings.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        model, report = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,  # otherwise it asks on a terminal, and runs the folder's code on a yes
            output_loading_info=True,
        )
    except Exception as error:  # transformers lets whatever a damaged configuration causes through
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder} does not hold {what}: {reason}") from None
    for problem, names in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if names:
            raise CheckpointError(f"{folder} does not hold {what}: it {problem} weights {sorted(names)[0]} …")
    return model
