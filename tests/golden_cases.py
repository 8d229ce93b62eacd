"""Golden cases as our objects: the LM, the prompt, the batch and the reference's numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprompt.lms.batch import UnitBatch, collate
from speechprompt.lms.fairseq import load_gslm
from speechprompt.lms.gslm_units import GslmUnitLM
from speechprompt.speech.units import Units


@dataclass
class GoldenCase:
    """One folder of golden numbers."""

    folder: Path
    numbers: dict[str, Any]
    arguments: dict[str, Any]
    lm: GslmUnitLM

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.numbers[name]))

    def tensors(self, group: str) -> dict[str, Tensor]:
        """All tensors under a group: init, final, after5, grad_of_loss_sum."""
        prefix = group + "/"
        return {
            name.removeprefix(prefix): self.tensor(name) for name in self.numbers if name.startswith(prefix)
        }

    def batches(self) -> list[tuple[UnitBatch, Tensor, Tensor]]:
        """The golden batch as units, LM ids (b,S) behind the separator and row numbers (b,): one a count S."""
        back = {int(i): unit for unit, i in enumerate(self.lm.lm_ids(torch.arange(self.lm.unit_count)))}
        groups: dict[int, list[tuple[Units, list[int], int]]] = {}
        for number, row in enumerate(self.tensor("src_tokens").tolist()):
            place = row.index(0)
            answers = [i for i in row[place + 1 :] if i != 1]
            units = Units([back[i] for i in row[1:place]])
            groups.setdefault(len(answers), []).append((units, answers, number))
        return [
            (
                collate([u for u, _, _ in rows]),
                torch.tensor([a for _, a, _ in rows]),
                torch.tensor([n for *_, n in rows]),
            )
            for rows in groups.values()
        ]

    def valid(self) -> Tensor:
        """Which positions (B,T) of the golden batch are not padding."""
        return self.tensor("src_tokens") != 1


def golden_case(shared: Path, name: str) -> GoldenCase:
    folder = shared / "golden" / name
    with np.load(folder / "golden.npz") as archive:
        numbers = {key: archive[key] for key in archive.files}
    return GoldenCase(
        folder,
        numbers,
        json.loads((folder / "info.json").read_text()),
        GslmUnitLM(load_gslm(folder / "gslm_checkpoint.pt")),
    )


def assert_golden(ours: Tensor, reference: Tensor) -> None:
    """Equal within the golden tolerance: max|a-b| / max|b| at most 1e-5, with a floor of 1e-7."""
    ours, reference = ours.detach().double(), reference.double()
    assert ours.shape == reference.shape
    difference = float((ours - reference).abs().max())
    scale = float(reference.abs().max())
    assert difference <= max(1e-5 * scale, 1e-7), f"off by {difference:.3g} on a scale of {scale:.3g}"
