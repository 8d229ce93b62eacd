"""The real corpora read as their README states."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from speechprompt.speech.doctor import examine
from speechprompt.speech.manifest import Corpus, write_manifest
from speechprompt.speech.readers import read_corpus
from speechprompt.speech.splits import folds, require_trainable, shots

pytestmark = pytest.mark.real

UNITS = {
    "gsc_v1": ({"train": 51_094, "valid": 6_804, "test": 3_081}, {"command": 12}),
    "fsc": ({"train": 23_132, "valid": 3_118, "test": 3_793}, {"action": 6, "object": 14, "location": 4}),
    "vctk": ({"train": 5_935, "valid": 1_291, "test": 1_545}, {"gender": 2, "accent": 12}),
    "esd_en": ({"train": 1_500, "valid": 500, "test": 500}, {"emotion": 5}),
    "ljspeech": ({"train": 1_965}, {}),
}


@pytest.fixture(scope="module")
def units_of(shared: Path) -> Callable[[str], Corpus]:
    """Corpora of units by name, each read once: the largest has 61,000 rows."""
    return cache(lambda name: read_corpus(shared / "data" / "units" / f"{name}_hubert100.jsonl.gz"))


@pytest.mark.parametrize("name", UNITS)
def test_unit_corpora_hold_what_is_stated(name: str, units_of: Callable[[str], Corpus]) -> None:
    corpus = units_of(name)
    splits, slots = UNITS[name]
    if "valid" not in splits:  # drawn here, from train
        assert "of train" in corpus.notices[0]
        assert sum(corpus.splits().values()) == splits["train"]
    else:
        assert corpus.splits() == splits
        assert corpus.notices == ()
        require_trainable(corpus)
    assert {slot: len(labels) for slot, labels in corpus.slots.items()} == slots
    assert corpus.tokenizer == "hubert-base-l6-km100"
    assert corpus.header["unit_count"] == 100
    assert all(u.units is not None and len(u.units) for u in corpus.utterances)


def test_durations_give_the_stated_hours(units_of: Callable[[str], Corpus]) -> None:
    for name, hours in (("vctk", 6.6), ("ljspeech", 3.63), ("esd_en", 2.03)):
        corpus = units_of(name)
        frames = sum(int(u.units.durations.sum()) for u in corpus.utterances if u.units)  # type: ignore[union-attr]
        assert frames / 50 / 3600 == pytest.approx(hours, abs=0.05)


def test_official_splits_are_read_from_their_field(shared: Path) -> None:
    path = shared / "data" / "units" / "esd_en_hubert100.jsonl.gz"
    assert read_corpus(path, split_field="official_split").splits() == {"valid": 1_000, "test": 1_500}


def test_ten_shots_of_twelve_commands(units_of: Callable[[str], Corpus]) -> None:
    commands = units_of("gsc_v1")
    assert len(shots(commands, "command", 10).split("train")) == 120


def test_a_real_corpus_round_trips(units_of: Callable[[str], Corpus], tmp_path: Path) -> None:
    corpus = units_of("esd_en")
    assert read_corpus(write_manifest(corpus, tmp_path / "m.jsonl.gz")) == corpus


def test_vctk_folds_keep_speakers_whole(units_of: Callable[[str], Corpus]) -> None:
    corpus = units_of("vctk")
    speaker = {u.id: u.speaker for u in corpus.utterances}
    for fold in folds(corpus, 5):
        assert not {speaker[i] for i in fold.train} & {speaker[i] for i in fold.test}
        assert len(fold.test) == pytest.approx(8_771 / 5, rel=0.1)


def unpacked(shared: Path, name: str, folder: Path, *options: str) -> Corpus:
    script = shared / "data" / "unpack.py"
    subprocess.run([sys.executable, script, name, "--out", folder, *options], check=True, capture_output=True)
    return read_corpus(folder / name)


def test_real_audio_is_healthy_and_its_caveats_are_found(shared: Path, tmp_path: Path) -> None:
    corpus = unpacked(shared, "lithuanian_speech_commands", tmp_path, "--official-layout")
    assert corpus.splits() == {"train": 598, "valid": 85, "test": 98}
    assert len(corpus.slots["command"]) == 15
    report = examine(corpus)
    assert report.durations is not None
    assert report.durations.total_hours == pytest.approx(0.25, abs=0.01)
    assert report.sample_rates == {16_000: 781}
    assert not [f for f in report.findings if f.kind in ("unreadable", "leakage", "speakers")]
    official = read_corpus(tmp_path / "dataset")  # dataset/<word>/<clip>.wav
    assert len(official.utterances) == 781
    assert set(official.splits()) == {"train", "valid", "test"}


def test_a_corpus_in_folds(shared: Path, tmp_path: Path) -> None:
    corpus = unpacked(shared, "esc10", tmp_path)
    assert corpus.splits() == {f"fold{i}": 80 for i in range(1, 6)}
    assert all((len(f.train), len(f.valid), len(f.test)) == (240, 80, 80) for f in folds(corpus, 5))
