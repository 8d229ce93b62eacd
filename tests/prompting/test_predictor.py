"""Answers for clips: encoded once, windowed, pooled, mixed and calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from speechprompt.errors import ArtifactError, AudioError, UnknownName
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.predictor import Predictor
from speechprompt.prompting.task import Task
from speechprompt.speech.units import Units
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_lm
from toys import CORPUS, artifact_of, entry_of, scores_alone

LM = toy_lm()


class CountingTokenizer(ToyTokenizer):
    """The toy, counting what it is asked for."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode_batch(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Units]:
        self.encoded += [len(waveform) for waveform in waveforms]
        return super().encode_batch(waveforms)


@pytest.fixture
def spoken() -> SpokenLM:
    return SpokenLM.of_parts("toy@1", CountingTokenizer(), LM)


def named(name: str, slots: list[str], **kind: Any) -> Artifact:
    config = kind.pop("config", {})
    return artifact_of(entry_of(LM, task=Task.of_corpus(CORPUS, slots, name), **kind), **config)


def three() -> list[Artifact]:
    return [
        named("word", ["word"], prompt_length=2, verbalizer="random"),
        named("both", ["word", "length"], method="input", decoding="autoregressive"),
        named("length", ["length"], recipe="paper", method="after_projection", prompt_length=5),
    ]


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    loud = np.repeat(random.uniform(0, 0.5, max(1, int(seconds * 10))), 800)[: int(seconds * 8000)]
    return (random.standard_normal(len(loud)) * loud).astype(np.float32)


def test_mixed_tasks_and_clips_answer_as_each_alone(spoken: SpokenLM) -> None:
    artifacts, clips = three(), [noise(s, i) for i, s in enumerate((0.7, 3.0, 1.2))]
    together = Predictor(spoken, artifacts).predict(clips)
    assert [p.task for p in together] == ["word", "both", "length"] * 3
    alone = [Predictor(spoken, [a]).predict(clip)[0] for clip in clips for a in artifacts]
    for ours, theirs in zip(together, alone, strict=True):
        assert list(ours.slots) == list(theirs.slots)
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
        for slot, answer in ours.slots.items():
            assert answer.scores == pytest.approx(theirs.slots[slot].scores, abs=1e-5)
            assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
            assert answer.score == max(answer.scores.values()) == answer.scores[answer.label]


def test_clips_are_encoded_once(spoken: SpokenLM, tmp_path: Path) -> None:
    predictor, clip = Predictor(spoken, three()), noise(1.0)
    first = predictor.predict(clip)
    assert len(spoken.tokenizer.encoded) == 1
    for again in predictor.predict([clip, clip.copy()], ["word"]):
        assert again.slots["word"].scores == pytest.approx(first[0].slots["word"].scores, abs=1e-5)
    assert len(spoken.tokenizer.encoded) == 1
    soundfile.write(tmp_path / "a.wav", clip, 8000, subtype="FLOAT")
    of_file = predictor.predict(tmp_path / "a.wav")
    assert len(spoken.tokenizer.encoded) == 1
    assert [p.source for p in of_file] == [str(tmp_path / "a.wav")] * 3
    assert [p.score for p in of_file] == pytest.approx([p.score for p in first], abs=1e-5)


def test_long_clips_are_cut_into_equal_windows_and_pooled(spoken: SpokenLM) -> None:
    artifact, clip = named("word", ["word"], config={"temperatures": {"word": 2.0}}), noise(5.3)
    prediction = Predictor(spoken, [artifact], window_seconds=2.0).predict(clip)[0]
    sizes = spoken.tokenizer.encoded
    assert prediction.window_count == len(sizes) == 3
    assert sum(sizes) == len(clip)
    assert max(sizes) - min(sizes) <= 1
    assert prediction.duration_seconds == pytest.approx(5.3)
    windows = [spoken.tokenizer.encode(part) for part in np.array_split(clip, 3)]
    assert prediction.unit_count == sum(map(len, windows))
    logs = torch.stack([scores_alone(LM, artifact.entry, units)["word"] for units in windows]).mean(0)
    expected = (logs / 2.0).softmax(-1).tolist()
    assert list(prediction.slots["word"].scores.values()) == pytest.approx(expected, abs=1e-5)
    assert Predictor(spoken, [artifact], window_seconds=5.3).predict(clip)[0].window_count == 1


def test_an_answer_below_the_threshold_is_an_abstention(spoken: SpokenLM) -> None:
    artifact, clip = named("both", ["word", "length"]), noise(1.0)
    plain = Predictor(spoken, [artifact]).predict(clip)[0]
    assert plain.score == pytest.approx(np.prod([slot.score for slot in plain.slots.values()]))
    assert not plain.abstained
    for threshold, abstained in ((plain.score - 1e-4, False), (plain.score + 1e-4, True)):
        strict = replace(artifact, config=artifact.config.model_copy(update={"threshold": threshold}))
        assert Predictor(spoken, [strict]).predict(clip)[0].abstained is abstained


def test_names_are_unique_and_known(spoken: SpokenLM, tmp_path: Path) -> None:
    artifact = named("word", ["word"])
    with pytest.raises(ArtifactError, match="two artifacts are called 'word'"):
        Predictor(spoken, [artifact, artifact])
    folders = [artifact.save(tmp_path / place / "colour") for place in ("a", "b")]
    with pytest.raises(ArtifactError, match="two artifacts are called 'colour'"):
        Predictor(spoken, folders)
    predictor = Predictor(spoken, [folders[0], artifact])
    with pytest.raises(UnknownName, match="did you mean word"):
        predictor.predict(noise(1.0), ["wrod"])
    assert predictor.predict([]) == []
    assert predictor.predict(noise(1.0), []) == []


def test_clips_that_are_no_sound_are_refused(spoken: SpokenLM, tmp_path: Path) -> None:
    predictor = Predictor(spoken, three())
    (tmp_path / "text.wav").write_text("not audio")
    clips: list[Any] = [
        np.zeros((100, 2), np.float32),
        np.array([0.0, np.nan] * 400, np.float32),
        np.zeros(0, np.float32),
        np.zeros(10, np.float32),
        tmp_path / "missing.wav",
        tmp_path / "text.wav",
    ]
    for clip in clips:
        with pytest.raises(AudioError) as error:
            predictor.predict(clip)
        assert "\n" not in str(error.value)


def test_artifacts_of_other_units_are_refused_before_encoding(spoken: SpokenLM) -> None:
    foreign = named("word", ["word"], config={"tokenizer_fingerprint": "another"})
    with pytest.raises(ArtifactError, match=r"another.*toy-tokenizer-1"):
        Predictor(spoken, [foreign]).predict(noise(1.0))
    assert spoken.tokenizer.encoded == []
    of_units = named("word", ["word"], config={"tokenizer_fingerprint": None})
    assert Predictor(spoken, [of_units]).predict(noise(1.0))[0].task == "word"


def test_predictions_are_plain_json(spoken: SpokenLM) -> None:
    import json

    found = Predictor(spoken, three()).predict(noise(1.0))[1].to_json()
    assert json.loads(json.dumps(found))["slots"]["word"]["label"] in ("alpha", "beta", "gamma")
