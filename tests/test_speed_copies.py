"""Training clips at other speeds: what is heard, who hears it, and that it is the same the next time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechprompt import encoding
from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.errors import AudioError, CorpusError
from speechprompt.prompting import joint
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.train import train
from speechprompt.prompting.training import _identity, train_runs
from speechprompt.speech.manifest import Corpus, Utterance, write_manifest
from speechprompt.speech.speeds import SpeedCopies, at_speed
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_corpus
from test_encoding import CountingTokenizer, spoken_of
from toys import run_of

TWO = SpeedCopies(2, 0.15)
OPTIONS = TrainingOptions(steps=6, evaluations=2, batch_size=4, prompt_length=2, speed_copies=2)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Six clips to train on and three to validate on, whose words are how loud they are."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(9):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, random.standard_normal(6000) * (0.01, 0.3)[i % 2], 8000)
        rows.append(Utterance(str(i), "train" if i < 6 else "valid", {"word": "ab"[i % 2]}, audio=path))
    return Corpus("clips", tuple(rows), {"word": ("a", "b")})


def copied(corpus: Corpus, spoken_lm: SpokenLM, *wanted: SpeedCopies) -> Corpus:
    return with_speed_copies(encode_corpus(corpus, spoken_lm).corpus, spoken_lm, wanted).corpus


def test_a_tone_played_faster_is_shorter_and_higher() -> None:
    rate = 8000
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32)
    for speed in (0.85, 1.0, 1.15):
        played = at_speed(tone, speed)
        spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
        assert abs(len(played) - len(tone) / speed) < 2
        assert spectrum.argmax() * rate / len(played) == pytest.approx(440 * speed, abs=1)
        assert played.dtype == np.float32


def test_speeds_fill_the_range_and_depend_on_the_clip_alone() -> None:
    four = SpeedCopies(4, 0.15)
    drawn = [speed for i in range(500) for speed in four.speeds(str(i))]
    assert four.speeds("7") == four.speeds("7") != four.speeds("8")
    assert 0.85 <= min(drawn) < 0.86
    assert 1.14 < max(drawn) <= 1.15
    assert abs(np.mean(drawn) - 1) < 0.01


def test_only_training_clips_are_copied_and_a_second_run_encodes_nothing(corpus: Corpus) -> None:
    first, second = CountingTokenizer(), CountingTokenizer()
    once = copied(corpus, spoken_of(first), TWO)
    assert copied(corpus, spoken_of(second), TWO) == once
    assert (first.encoded, second.encoded) == (9 + 12, 0)
    for utterance in once.utterances:
        assert len(utterance.speed_copies) == (2 if utterance.split == "train" else 0)
        for speed, units in utterance.speed_copies.items():
            waveform, _ = soundfile.read(utterance.audio, dtype="float32")
            assert units == ToyTokenizer().encode(at_speed(waveform, speed))
    more = copied(corpus, spoken_of(second), TWO, SpeedCopies(3, 0.15), SpeedCopies(1, 0.4))
    assert second.encoded == 6 + 6  # the third copies, and those of the wider range
    assert all(len(u.speed_copies) == 4 for u in more.split("train"))


def test_copies_are_resumed_in_batches_of_bounded_length(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BATCH_SECONDS", 1.0)
    plain = encode_corpus(corpus, spoken_of(ToyTokenizer())).corpus
    stopped, resumed, told = CountingTokenizer(fail_at=5), CountingTokenizer(), []
    with pytest.raises(KeyboardInterrupt):
        with_speed_copies(plain, spoken_of(stopped), [TWO])
    with_speed_copies(plain, spoken_of(resumed), [TWO], listener=lambda *at: told.append(at))
    assert stopped.encoded + resumed.encoded == 12
    assert stopped.encoded >= 5
    assert (told[0], told[-1]) == ((stopped.encoded, 12), (12, 12))


def test_a_clip_too_short_to_hasten_is_heard_as_it_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(161, 0.1), 8000)  # a frame has 160 samples
    row = Utterance("b", "train", {"word": "a"}, audio=tmp_path / "a.wav")
    [found] = copied(
        Corpus("one", (row,), {"word": ("a",)}), spoken_of(ToyTokenizer()), SpeedCopies(4, 0.15)
    ).utterances
    assert len(found.speed_copies) == 4
    assert max(found.speed_copies) > 161 / 160
    assert all(units == found.units for units in found.speed_copies.values())


def test_a_copy_too_long_for_the_lm_is_the_clip_as_it_is(corpus: Corpus) -> None:
    spoken = spoken_of(ToyTokenizer())
    plain = encode_corpus(corpus, spoken).corpus
    spoken.lm.max_units = most = max(len(u.units or ()) for u in plain.utterances)
    found = [
        (copy, u.units)
        for u in with_speed_copies(plain, spoken, [SpeedCopies(4, 0.4)]).corpus.utterances
        for copy in u.speed_copies.values()
    ]
    assert max(len(copy) for copy, _ in found) <= most
    assert any(copy == units for copy, units in found)


def test_audio_that_is_gone_is_an_error_and_not_a_copy(tmp_path: Path) -> None:
    rows = tuple(
        replace(u, audio=tmp_path / f"{u.id}.wav", start_seconds=None, end_seconds=None)
        for u in toy_corpus(20).utterances
    )
    with pytest.raises(AudioError, match="cannot be read"):
        with_speed_copies(replace(toy_corpus(20), utterances=rows), spoken_of(ToyTokenizer()), [TWO])


def test_units_without_audio_train_as_they_are_and_a_notice_says_so() -> None:
    corpus = toy_corpus(20)
    found = with_speed_copies(corpus, spoken_of(ToyTokenizer()), [TWO])
    assert found.corpus == corpus
    assert found.notices == ["12 of 12 utterances have units and no audio; they stay without speed copies"]
    assert with_speed_copies(corpus, spoken_of(ToyTokenizer()), []).notices == []


def test_examples_hold_copies_as_rows_and_say_when_they_are_missing(corpus: Corpus) -> None:
    whole = copied(corpus, spoken_of(ToyTokenizer()), SpeedCopies(3, 0.15))
    task, rows = Task.of_corpus(whole), whole.split("train")
    found = Examples.to_train(task, rows, OPTIONS)
    assert (len(found), found.speed_copies, len(found.ids), len(found.targets)) == (18, 12, 18, 18)
    assert torch.equal(found.targets[6:], found.targets[:6].repeat_interleave(2, 0))
    first = OPTIONS.copying.speeds("0")
    assert list(found.units[6:8]) == [rows[0].speed_copies[speed] for speed in first]
    assert found.ids[6] == f"0 at {first[0]:.3f}"
    plain = Examples.to_train(task, rows, TrainingOptions())
    assert len(plain) == 6
    assert plain.speed_copies == 0
    with pytest.raises(CorpusError, match="with_speed_copies"):
        Examples.to_train(task, rows, TrainingOptions(speed_copies=4))


def test_a_prompt_trained_on_copies_says_so_and_is_the_same_after_an_interruption(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken_lm = spoken_of(ToyTokenizer())
    whole = train(corpus, spoken_lm, options=OPTIONS)
    assert whole.metrics["speed_copies"] == 12
    assert whole.config.options["speed_copies"] == 2
    assert whole.config.options["speed_range"] == 0.15
    assert whole.config.corpus["utterances"] == {"train": 6, "valid": 3, "test": 0}
    checkpoint = tmp_path / "run" / "checkpoint.pt"

    def stop(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(joint, "train_runs", partial(train_runs, checkpoint_every=1))
    with pytest.raises(KeyboardInterrupt):
        train(corpus, spoken_lm, options=OPTIONS, listener=stop, checkpoint=checkpoint)
    again = train(corpus, spoken_lm, options=OPTIONS, checkpoint=checkpoint)
    for name, tensor in whole.entry.state_dict().items():
        assert torch.equal(tensor, again.entry.state_dict()[name]), name
    assert again.metrics["history"] == whole.metrics["history"]


def test_without_copies_options_are_written_and_hashed_as_before() -> None:
    plain, ranged = TrainingOptions(), TrainingOptions(speed_range=0.2)
    assert "speed_copies" not in plain.model_dump()
    assert "speed_range" not in plain.model_dump_json()
    assert ranged.given() == {"speed_range": 0.2}  # a sweep over speed_copies still knows the range
    assert TrainingOptions(speed_copies=1).model_dump()["speed_range"] == 0.15
    runs = [run_of(spoken_of(ToyTokenizer()).lm, **change) for change in ({}, {"speed_range": 0.2})]
    first, second = (_identity(spoken_of(ToyTokenizer()).lm, [run]) for run in runs)
    assert first == second


def test_a_manifest_does_not_hold_copies(corpus: Corpus, tmp_path: Path) -> None:
    whole = copied(corpus, spoken_of(ToyTokenizer()), TWO)
    read = Corpus.read(write_manifest(whole, tmp_path / "m.jsonl"))
    assert read.utterances == tuple(replace(u, speed_copies={}) for u in whole.utterances)
