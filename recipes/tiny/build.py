"""Build the `tiny` spoken LM from unlabelled speech: tokenizer, units, unit LM, folder.

    python recipes/tiny/build.py SOURCE... --run FOLDER --out src/speechprompt/bundled/tiny [--threads 2]

A source is anything that `speechprompt` reads; rows of split train with audio are used, one clip in fifty of
them to hold out. Options stand in tokenizer.toml and lm.toml. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import torch

from speechprompt.pretraining.masked_prediction import MaskedPredictionOptions
from speechprompt.pretraining.mel_tokenizer import MelTokenizerOptions, pretrain_mel_tokenizer
from speechprompt.pretraining.unit_lm import UnitLmOptions, pretrain_unit_lm, save_unit_lm
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Utterance
from speechprompt.speech.readers import read_corpus
from speechprompt.speech.units import Units
from speechprompt.tokenizers.mel_encoder import SAMPLE_RATE, WINDOW_SAMPLES, MelEncoderConfig
from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

HERE = Path(__file__).parent
DESCRIPTION = {
    "schema": 1,
    "name": "tiny",
    "version": 1,
    "license": "MIT (weights); speech it learnt from: CC BY 4.0, Apache-2.0 and CC0, see README.md",
    "tokenizer": "tokenizer",
    "tokenizer_name": "tiny",
    "lm": "lm",
}


def main() -> None:
    """Parse, build, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    utterances = [u for source in arguments.sources for u in read_corpus(source).split("train") if u.audio]
    tokenizer = pretrain_mel_tokenizer(
        "tiny", utterances, arguments.run, tokenizer_options(), progress=_print
    )
    units = encoded(tokenizer, utterances)
    held_out = units[::50]
    taught = [row for i, row in enumerate(units) if i % 50]
    options = UnitLmOptions(**_read("lm.toml"))
    trained = pretrain_unit_lm(
        taught, held_out, tokenizer.unit_count, arguments.run / "lm", options, progress=_print
    )
    tokenizer.save(arguments.out / "tokenizer")
    save_unit_lm(trained.model, arguments.out / "lm")
    (arguments.out / "spoken_lm.json").write_text(json.dumps(DESCRIPTION, indent=1) + "\n", encoding="utf-8")
    print(f"{trained.bits_per_unit:.3f} bits a unit on {len(held_out)} held-out clips; wrote {arguments.out}")


def tokenizer_options() -> MelTokenizerOptions:
    """tokenizer.toml as options."""
    table = _read("tokenizer.toml")
    prediction = table.pop("prediction")
    encoder = MelEncoderConfig(**prediction.pop("encoder"))
    return MelTokenizerOptions(prediction=MaskedPredictionOptions(encoder=encoder, **prediction), **table)


def encoded(tokenizer: MelHubertTokenizer, utterances: list[Utterance]) -> list[Units]:
    """Units of every clip of at least one frame."""
    units: list[Units] = []
    for start in range(0, len(utterances), 200):
        waveforms = []
        for u in utterances[start : start + 200]:
            assert u.audio is not None
            waveform, _ = read_waveform(u.audio, SAMPLE_RATE, u.start_seconds, u.end_seconds)
            if len(waveform) >= WINDOW_SAMPLES:
                waveforms.append(waveform)
        units += tokenizer.encode_batch(waveforms)
    return units


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


def _print(record: object) -> None:
    print(record, flush=True)


if __name__ == "__main__":
    main()
