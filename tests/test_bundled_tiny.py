"""What ships: the `tiny` spoken LM and the demo corpus."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

import speechprompt
from speechprompt.errors import UsageError
from speechprompt.lms.batch import collate
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.readers import read_corpus
from speechprompt.spoken_lm import SpokenLM

PACKAGE = Path(speechprompt.__file__).parent
DEMO = PACKAGE / "corpora" / "demo"
TINY = PACKAGE / "bundled" / "tiny"


@pytest.fixture(scope="module")
def tiny() -> SpokenLM:
    return SpokenLM.load("tiny@4")


@pytest.fixture(scope="module")
def demo() -> Corpus:
    return read_corpus(DEMO)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_ships_is_small() -> None:
    assert size_of(TINY.parent) < 20_000_000
    assert size_of(DEMO) < 6_000_000


def test_tokenizer_and_lm_agree(tiny: SpokenLM) -> None:
    assert tiny.name == "tiny@4"
    assert tiny.tokenizer.unit_count == tiny.lm.unit_count == 500 + 128 + 64
    assert tiny.tokenizer_name == tiny.tokenizer.name


@pytest.mark.parametrize("name", sorted(path.parent.name for path in TINY.parent.glob("*/spoken_lm.json")))
def test_every_bundled_lm_reads_the_units_that_its_tokenizer_makes(name: str) -> None:
    spoken = SpokenLM.load(name)
    units = spoken.tokenizer.encode(np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32))
    assert spoken.tokenizer.unit_count == spoken.lm.unit_count
    assert torch.isfinite(spoken.lm.unit_states(collate([units]))).all()


def test_the_lm_knows_more_than_nothing_of_the_demo(tiny: SpokenLM, demo: Corpus) -> None:
    clips = [u.audio for u in demo.split("test")[:40] if u.audio is not None]
    units = tiny.tokenizer.encode_batch([read_waveform(path, 16_000)[0] for path in clips])
    batch = collate(units)
    logits = tiny.lm.heads_of(tiny.lm.unit_states(batch))["units"][:, :-1]
    targets = tiny.lm.lm_ids(batch.unit_ids)[:, 1:]
    real = torch.arange(1, batch.unit_ids.shape[1]) < batch.lengths[:, None]
    bits = torch.nn.functional.cross_entropy(logits[real], targets[real]).item() / np.log(2)
    assert bits < 7.5  # uniform over 696: 9.44


def test_units_of_the_demo_do_not_depend_on_the_batch(tiny: SpokenLM, demo: Corpus) -> None:
    clips = [u.audio for u in demo.split("valid")[:24] if u.audio is not None]
    waveforms = [read_waveform(path, 16_000)[0] for path in clips]
    assert tiny.tokenizer.encode_batch(waveforms) == [tiny.tokenizer.encode(clip) for clip in waveforms]


def test_an_older_version_is_refused_with_both_names() -> None:
    with pytest.raises(UsageError, match=r"tiny@3 .* tiny@4"):
        SpokenLM.load("tiny@3")


def test_silence_has_units(tiny: SpokenLM) -> None:
    assert len(tiny.tokenizer.encode(np.zeros(16_000, np.float32))) >= 1


def test_no_demo_voice_is_in_two_splits(demo: Corpus) -> None:
    splits = defaultdict(set)
    for utterance in demo.utterances:
        splits[utterance.speaker].add(utterance.split)
    assert {len(found) for found in splits.values()} == {1}


def test_the_demo_corpus_is_whole_and_says_what_it_is(demo: Corpus) -> None:
    assert demo.licence == "CC0-1.0"
    assert set(demo.slots) == {"command", "language", "voice"}
    assert all(u.audio is not None and u.audio.is_file() for u in demo.utterances)
    assert len(list((DEMO / "clips").iterdir())) == len(demo.utterances)
    assert all(u.extra["synthetic"] and u.extra["engine_version"] for u in demo.utterances)
    for slot, labels in demo.slots.items():
        for split in ("train", "valid", "test"):
            assert {u.labels[slot] for u in demo.split(split)} == set(labels), (slot, split)
