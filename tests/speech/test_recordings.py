"""Copies of a recording are told from other recordings, whatever their level and rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechprompt.errors import CorpusError
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.recordings import distinct
from speechprompt.speech.units import Units


def test_copies_at_another_level_are_the_first_recording(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sound = {name: random.standard_normal(n) * 0.1 for name, n in (("a", 8000), ("b", 8000), ("c", 8001))}
    files = {
        "first": sound["a"],
        "other": sound["b"],
        "quieter": 0.3 * sound["a"] + 0.01,
        "rounded": np.round(sound["a"] * 127) / 127,
        "longer": sound["c"],
        "silence": np.zeros(8000),
    }
    rows = []
    for name, samples in files.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
        rows.append(Utterance(name, "train", {"word": "a"}, audio=tmp_path / f"{name}.wav"))
    kept = distinct(Corpus("c", tuple(rows), {"word": ("a",)}))
    assert [u.id for u in kept.utterances] == ["first", "other", "longer", "silence"]


def test_units_alone_do_not_tell() -> None:
    row = Utterance("x", "train", {"word": "a"}, units=Units(np.array([1, 2])))
    with pytest.raises(CorpusError, match="'x' has no audio"):
        distinct(Corpus("c", (row,), {"word": ("a",)}))
