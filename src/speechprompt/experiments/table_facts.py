"""What a line of a table says of the cells that it was measured in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprompt.experiments.table_cells import Cell, measuring
from speechprompt.experiments.table_rounds import Round
from speechprompt.experiments.table_rows import DRAWN, NEEDS_LM, Declaration, TableRow
from speechprompt.speech.manifest import Corpus
from speechprompt.spoken_lm import SpokenLM


def facts_of(
    name: str,
    spoken_lm: SpokenLM | None,
    corpus: Corpus,
    row: TableRow,
    cells: Mapping[str, Sequence[Cell]],
    declaration: Declaration,
    device: str,
) -> dict[str, Any]:
    """What a line was measured on, for the JSON; `name` is the spoken LM's, `spoken_lm` None where none was asked."""
    audio = any(u.audio is not None for u in corpus.utterances)
    asked = spoken_lm.lm if spoken_lm is not None and any(method in cells for method in NEEDS_LM) else None
    here = measuring(device)
    places = [dict(cell.measured_by) or here for found in cells.values() for cell in found]
    return {
        "measured_by": [place for i, place in enumerate(places) if place not in places[:i]],
        "corpus": corpus.name,
        "labels": {slot: len(labels) for slot, labels in corpus.slots.items()},
        "spoken_lm": name if spoken_lm is None else spoken_lm.name,
        "lm_fingerprint": None if asked is None else asked.fingerprint,
        "lm_dtype": None if asked is None else str(asked.dtype),
        "tokenizer": corpus.tokenizer if spoken_lm is None else spoken_lm.tokenizer_name,
        "tokenizer_fingerprint": None if spoken_lm is None or not audio else spoken_lm.tokenizer.fingerprint,
        "options": {method: declaration.options(row, method) for method in DRAWN if method in cells},
        "cells": {
            method: [
                {
                    "utterances": len(cell.predictions),
                    "trained_parameters": cell.trained_parameters,
                    "cpu_seconds": cell.cpu_seconds,
                    "valid_accuracy": cell.valid_accuracy,
                    "measured_by": (dict(cell.measured_by) or here)["machine"],
                    **cell.details,
                }
                for cell in found
            ]
            for method, found in cells.items()
        },
    }


def validated(cells: Mapping[str, Sequence[Cell]]) -> dict[str, float]:
    """Mean accuracy on validation of the methods that choose there."""
    means = {}
    for method, found in cells.items():
        reached = [cell.valid_accuracy for cell in found if cell.valid_accuracy is not None]
        if reached:
            means[method] = float(np.mean(reached))
    return means


def right_of(cells: Sequence[Cell], rounds: Sequence[Round]) -> list[NDArray[np.bool_]]:
    """Which test utterances (B,) each cell got right; a method that draws nothing has one cell for all seeds."""
    return [
        np.array([a == b for a, b in zip(cell.predictions, one.labels("test"), strict=True)], bool)
        for cell, one in zip(cells, rounds, strict=False)
    ]
