"""GSLM as a unit LM: its dictionary, and the one head it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from speechprompt.errors import CheckpointError, UnitsError
from speechprompt.lms.decoder_units import DecoderUnitLM, weights_fingerprint
from speechprompt.lms.gslm_modules import WEIGHTS, GslmModules

if TYPE_CHECKING:
    from speechprompt.lms.gslm import GslmForCausalLM

__all__ = ["GslmUnitLM", "weights_fingerprint"]


class GslmUnitLM(DecoderUnitLM):
    """Rows `</s> u1..un <s> answers`, positions 2, 3, ... whatever the prefix.

    `model` is the transformers model or the same parts without it, as folders are read; `pretrained` is the
    transformers model in any case.
    """

    model: GslmForCausalLM | GslmModules

    def __init__(self, model: GslmForCausalLM | GslmModules, fingerprint: str | None = None) -> None:
        symbols = model.config.unit_symbols()
        super().__init__(model, _unit_table(symbols, first_id=4), symbols, fingerprint)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GslmUnitLM:
        """Load a folder that `save_pretrained` wrote, computing in fp32. CheckpointError when it is damaged."""
        model: GslmForCausalLM | GslmModules
        if (Path(folder) / WEIGHTS).is_file():
            model = GslmModules.from_pretrained(folder)
        else:  # in several files, or missing
            from speechprompt.lms.folders import read_model
            from speechprompt.lms.gslm import GslmForCausalLM

            model = cast(GslmForCausalLM, read_model(GslmForCausalLM, folder, "a GSLM"))
        try:
            return cls(model)
        except (TypeError, ValueError, UnitsError) as error:
            raise CheckpointError(f"{folder} does not hold a GSLM: {error}") from None

    def pretrained(self) -> GslmForCausalLM:
        """The LM as a transformers model of the same weights, to generate, save, export or wrap."""
        from dataclasses import asdict

        from speechprompt.lms.gslm import GslmConfig, GslmForCausalLM

        if isinstance(self.model, GslmForCausalLM):
            return self.model
        with torch.device("meta"):
            model = GslmForCausalLM(GslmConfig(**asdict(self.model.config)))
        model.load_state_dict(self.model.state_dict(), assign=True)
        model.tie_weights()
        model.train(False)
        return model.requires_grad_(False)

    def heads_of(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits (..., V) over the dictionary, in fp32."""
        return {"units": self.model.output_projection(hidden).float()}


def _unit_table(symbols: list[str], first_id: int) -> Tensor:
    """LM id of each unit, from the dictionary's symbols in file order; extra non-numeric symbols are skipped."""
    ids = {int(symbol): first_id + i for i, symbol in enumerate(symbols) if symbol.isdecimal()}
    if sorted(ids) != list(range(len(ids))):
        raise UnitsError("the LM's dictionary does not name every unit from 0 on")
    return torch.tensor([ids[unit] for unit in range(len(ids))], dtype=torch.int64)
