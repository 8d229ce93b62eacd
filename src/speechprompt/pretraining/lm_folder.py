"""From units to a spoken LM in a folder: train the unit LM, round it as it is stored, measure, write it down."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from speechprompt.lms.gslm import GslmForCausalLM
from speechprompt.pretraining.material import UnitMaterial
from speechprompt.pretraining.run_folder import Progress
from speechprompt.pretraining.unit_lm import bits_per_unit, lm_rows, pretrain_unit_lm
from speechprompt.pretraining.unit_lm_options import UnitLmOptions
from speechprompt.spoken_lm_folder import check_folder_output, write_folder

RECORD = "pretraining.json"
Stored = Literal["float32", "float16", "bfloat16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class LmIdentity:
    """What a new spoken LM is called and which units it reads; `tokenizer_folder` None: a published tokenizer."""

    name: str
    version: str
    tokenizer: str
    unit_count: int
    tokenizer_folder: Path | None = None
    license: str | None = None


def pretrain_lm_folder(
    material: UnitMaterial,
    identity: LmIdentity,
    out: Path,
    work: Path,
    options: UnitLmOptions,
    *,
    stored: Stored = "float16",
    device: str = "cpu",
    progress: Progress | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Train on the material in `work`, resuming what is there, and write the spoken LM to `out`; its record.

    The record, `pretraining.json` of the folder, holds sizes, options, material and the held-out bits per unit
    of the weights as they are stored. Errors: those of `pretrain_unit_lm` and `check_folder_output`.
    """
    check_folder_output(out, force)
    trained = pretrain_unit_lm(
        material.taught,
        material.held_out,
        identity.unit_count,
        work,
        options,
        device=device,
        progress=progress,
    )
    model = rounded(trained.model, stored)
    record = _record(model, material, identity, options, stored)
    torch.nn.Module.to(model, _DTYPES[stored])  # transformers' own `to` defies type checkers
    write_folder(
        out,
        model,
        identity.name,
        identity.tokenizer,
        identity.license,
        force,
        identity.version,
        identity.tokenizer_folder,
        {RECORD: json.dumps(record, indent=1) + "\n", "README.md": model_card(record, identity.license)},
    )
    return record


def _record(
    model: GslmForCausalLM,
    material: UnitMaterial,
    identity: LmIdentity,
    options: UnitLmOptions,
    stored: Stored,
) -> dict[str, Any]:
    held_out = lm_rows(material.held_out, identity.unit_count, options.max_units)
    return {
        "name": f"{identity.name}@{identity.version}",
        "tokenizer": identity.tokenizer,
        "unit_count": identity.unit_count,
        "parameters": sum(p.numel() for p in model.parameters()),
        "stored_as": stored,
        "bits_per_unit": round(bits_per_unit(model, held_out), 4),
        "options": asdict(options),
        "material": material.to_json(),
    }


@torch.no_grad()
def rounded(model: GslmForCausalLM, stored: Stored) -> GslmForCausalLM:
    """The model with its weights rounded in place to the stored type, still in fp32."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(_DTYPES[stored]))
    return model


def model_card(record: dict[str, Any], license: str | None) -> str:
    """README.md of a pretrained spoken LM: what it reads, what it learnt from, how well it predicts."""
    options, material = record["options"], record["material"]
    lines = [
        f"# {record['name']}",
        "",
        f"A unit LM ({options['layers']} layers of {options['width']}, {record['parameters']:,} parameters, "
        f"{record['stored_as']}) over {record['unit_count']} units of `{record['tokenizer']}`.",
        "",
        f"- Held-out cost: {record['bits_per_unit']:.3f} bits a unit ({material['held_out_rows']:,} distinct "
        "unit sequences chosen by hash; ends of utterances count as units; weights as stored).",
        f"- Learnt from {material['units']:,} units in {material['rows']:,} distinct training sequences; "
        f"{material['left_out']:,} that validation, test or excluded rows also have were left out.",
        f"- Licence: {license or 'not stated; that of the units it was trained on'}",
        "",
        "| source | licence | training rows | distinct | units |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {s['name']} | {s['licence'] or 'not stated'} | {s['training_rows']:,} | {s['rows']:,} | {s['units']:,} |"
        for s in material["sources"]
    ]
    return "\n".join([*lines, "", f"All options and the hash of the material: `{RECORD}`.", ""])
