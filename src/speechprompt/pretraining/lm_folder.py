"""From units to a spoken LM in a folder: train the unit LM, round it as it is stored, measure, write it down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.modeling_utils import PreTrainedModel

from speechprompt.pretraining.lm_training import LmKind, ModelT, RowT, bits, pretrain
from speechprompt.pretraining.material import UnitMaterial
from speechprompt.pretraining.prosodic_lm import PgslmKind
from speechprompt.pretraining.run_folder import Progress
from speechprompt.pretraining.unit_lm import GslmKind
from speechprompt.pretraining.unit_lm_options import ProsodicLmOptions, UnitLmOptions
from speechprompt.spoken_lm_folder import check_folder_output, write_folder

RECORD = "pretraining.json"
Stored = Literal["float32", "float16", "bfloat16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class LmIdentity:
    """What a new spoken LM is called and which units it reads.

    `tokenizer_folder` None: the tokenizer is found by its name, and must have `tokenizer_fingerprint` where that is
    known. `f0_from` says what followed the pitch and what log-F0 is measured from.
    """

    name: str
    version: str
    tokenizer: str
    unit_count: int
    tokenizer_folder: Path | None = None
    license: str | None = None
    tokenizer_fingerprint: str | None = None
    f0_from: str | None = None


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

    `ProsodicLmOptions` make a pGSLM, others a GSLM. The record, `pretraining.json` of the folder, holds sizes,
    options, material and the held-out bits of the weights as they are stored. Errors: those of
    `lm_training.pretrain` and `check_folder_output`.
    """
    check_folder_output(out, force)
    run = (material, work, options, stored, device, progress)
    model: PreTrainedModel
    if isinstance(options, ProsodicLmOptions):
        pgslm, costs = _trained(PgslmKind(identity.unit_count, options), *run)
        model = pgslm
    else:
        gslm, costs = _trained(GslmKind(identity.unit_count, options), *run)
        model = gslm
    record = _record(costs, sum(p.numel() for p in model.parameters()), material, identity, options, stored)
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
        None if identity.tokenizer_folder else identity.tokenizer_fingerprint,
    )
    return record


def _trained(
    kind: LmKind[ModelT, RowT],
    material: UnitMaterial,
    work: Path,
    options: UnitLmOptions,
    stored: Stored,
    device: str,
    progress: Progress | None,
) -> tuple[ModelT, dict[str, float]]:
    """A trained model with its weights as they are stored, and its held-out bits."""
    found = pretrain(kind, material.taught, material.held_out, work, options, device, progress)
    model = rounded(found.model, stored)
    return model, bits(kind, model, kind.rows(material.held_out))


def _record(
    costs: Mapping[str, float],
    parameters: int,
    material: UnitMaterial,
    identity: LmIdentity,
    options: UnitLmOptions,
    stored: Stored,
) -> dict[str, Any]:
    return {
        "name": f"{identity.name}@{identity.version}",
        "tokenizer": identity.tokenizer,
        "tokenizer_fingerprint": identity.tokenizer_fingerprint,
        "unit_count": identity.unit_count,
        "parameters": parameters,
        "stored_as": stored,
        **{name: round(value, 4) for name, value in costs.items()},
        **({} if identity.f0_from is None else {"f0": identity.f0_from}),
        "options": asdict(options),
        "material": material.to_json(),
    }


@torch.no_grad()
def rounded(model: ModelT, stored: Stored) -> ModelT:
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
        *_prosody_lines(record),
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


def _prosody_lines(record: dict[str, Any]) -> list[str]:
    """What a prosodic LM reads beside units, and what predicting it costs."""
    named = {"bits_per_duration": "a duration", "bits_per_f0": "an F0 bin"}
    costs = [f"{record[key]:.3f} bits {name}" for key, name in named.items() if key in record]
    f0 = [f"- F0: {record['f0']}."] if "f0" in record else []
    return [f"- Beside units it reads and predicts prosody: {', '.join(costs)}.", *f0] if costs else []
