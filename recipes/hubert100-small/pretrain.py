"""Pretrain a small GSLM-shaped LM on HuBERT-100 units of manifests, and leave a spoken LM folder.

    python recipes/hubert100-small/pretrain.py MANIFEST... --out FOLDER [--steps 1200] [--threads 2]

Only rows of split train are read, each distinct unit sequence once; 1 % of them, chosen by hash, is held out to
measure bits per unit. The folder names its tokenizer, `hubert-base-l6-km100`, but does not hold it: corpora
that carry units need no more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch

from speechprompt.pretraining.unit_lm import UnitLmOptions, pretrain_unit_lm, save_unit_lm
from speechprompt.speech.readers import read_corpus
from speechprompt.speech.units import Units


def main() -> None:
    """Parse, pretrain, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train, held_out = split_rows(arguments.manifests)
    print(f"{len(train)} rows, {sum(map(len, train))} units to train on; {len(held_out)} rows held out")
    options = UnitLmOptions(steps=arguments.steps)
    trained = pretrain_unit_lm(train, held_out, 100, arguments.out / "run", options, progress=print)
    save_unit_lm(trained.model, arguments.out / "lm", torch.float32)
    description = {
        "schema": 1,
        "name": "hubert100-small",
        "version": 1,
        "tokenizer": "hubert-base-l6-km100",
        "lm": "lm",
        "licence": "that of the units it was trained on",
    }
    (arguments.out / "spoken_lm.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    print(f"{trained.bits_per_unit:.3f} bits a unit on held-out rows; written to {arguments.out}")


def split_rows(manifests: list[Path]) -> tuple[list[Units], list[Units]]:
    """Distinct unit sequences of the train splits, and the hundredth part that is held out."""
    distinct = {}
    for manifest in manifests:
        for utterance in read_corpus(manifest).split("train"):
            if utterance.units is not None:
                distinct[utterance.units.ids.tobytes()] = utterance.units
    train: list[Units] = []
    held_out: list[Units] = []
    for key, units in distinct.items():
        (held_out if hashlib.sha256(key).digest()[0] * 100 < 256 else train).append(units)
    return train, held_out


if __name__ == "__main__":
    main()
