"""GSLM's parts as plain torch modules, and reading them from a folder without transformers.

Importing transformers' models costs 3 to 4 CPU seconds, which one answer on the command line need not wait for.
The transformers model (`gslm.py`) is made of the same parts under the same names.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from speechprompt.errors import CheckpointError
from speechprompt.lms.transformer import Decoder, SinusoidalPositions

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TIED = "output_projection.weight"


@dataclass(frozen=True)
class GslmSizes:
    """What config.json of a GSLM says, with the names and defaults of `GslmConfig`."""

    vocab_size: int = 104
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    layer_norm_eps: float = 1e-5
    max_units: int = 4096
    symbols: list[str] | None = None
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    model_type: str = "gslm"

    def unit_symbols(self) -> list[str]:
        """The dictionary after the special ids, the identity where none is given."""
        return unit_symbols(self)

    @classmethod
    def read(cls, path: Path) -> GslmSizes:
        """From a config.json; OSError, ValueError or TypeError when it is not one."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


def unit_symbols(config: Any) -> list[str]:
    """A configuration's symbols, or 0, 1, 2, ... for every id after the special ones."""
    return config.symbols or [str(unit) for unit in range(config.vocab_size - 4)]


def add_parts(model: nn.Module, config: Any) -> None:
    """Give a module a GSLM's parts: embeddings, decoder, output matrix, positions."""
    width = config.hidden_size
    model.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
    model.decoder = Decoder(
        config.num_hidden_layers,
        width,
        config.num_attention_heads,
        config.intermediate_size,
        config.layer_norm_eps,
    )
    model.output_projection = nn.Linear(width, config.vocab_size, bias=False)
    model.positions = SinusoidalPositions(width, int(config.pad_token_id or 0))  # type: ignore[assignment]
    model.embed_scale = math.sqrt(width)  # type: ignore[assignment]


class _NothingDrawn(TorchFunctionMode):
    """Leaves new weights as they are: on the meta device, drawing them would import torch's compiler (1.2 s)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", *args[:1])
        return func(*args, **(kwargs or {}))


class GslmModules(nn.Module):
    """A GSLM's parts and sizes; what is done with them is `GslmUnitLM`'s."""

    embed_tokens: nn.Embedding
    decoder: Decoder
    output_projection: nn.Linear
    positions: SinusoidalPositions
    embed_scale: float

    def __init__(self, config: GslmSizes) -> None:
        super().__init__()
        self.config = config
        add_parts(self, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GslmModules:
        """Read what `GslmForCausalLM.save_pretrained` wrote into one file, in fp32.

        CheckpointError for anything that is wrong with it, weights that are missing or left over included.
        """
        path = Path(folder)
        try:
            config = GslmSizes.read(path / CONFIG)
            tensors = {name: tensor.float() for name, tensor in load_file(path / WEIGHTS).items()}
            with torch.device("meta"), _NothingDrawn():
                model = cls(config)
            tensors.pop(TIED, None)
            report = model.load_state_dict(tensors, strict=False, assign=True)
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"{folder} does not hold a GSLM: {reason}") from None
        missing = [name for name in report.missing_keys if name != TIED]
        for problem, names in (("lacks", missing), ("has unknown", report.unexpected_keys)):
            if names:
                raise CheckpointError(
                    f"{folder} does not hold a GSLM: it {problem} weights {sorted(names)[0]} …"
                )
        model.output_projection.weight = model.embed_tokens.weight
        return model
