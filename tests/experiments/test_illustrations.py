"""Examples of a report: what is drawn is what leaving a span out does, what is heard is the clip."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cli.material import write_tone
from speechprompt.evaluation.evaluate import answers
from speechprompt.evaluation.occlusion import without_span
from speechprompt.evaluation.reports import embedded_clip, pick_examples
from speechprompt.experiments import illustrations
from speechprompt.experiments.illustrations import illustrated
from speechprompt.experiments.sections import verbalizers_of
from speechprompt.prompting.artifact import Artifact
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Utterance
from toys import CORPUS, SPOKEN, artifact_of, entry_of, scores_alone


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return artifact_of(entry_of(SPOKEN.lm), temperatures={"word": 2.0})


def heard(tmp_path: Path, seconds: float = 0.5) -> Utterance:
    path = write_tone(tmp_path / "a.wav", 700, seconds=seconds)
    units = SPOKEN.tokenizer.encode(read_waveform(path, SPOKEN.tokenizer.sample_rate)[0])
    return replace(CORPUS.split("test")[0], audio=path, units=units)


def test_shades_are_the_falls_of_the_answers_log_odds(artifact: Artifact) -> None:
    test = CORPUS.split("test")[:6]
    rows = answers(SPOKEN.lm, artifact, test)
    found = illustrated(pick_examples(rows, artifact.entry.task.slots), artifact, SPOKEN, test)
    by_id = {utterance.id: utterance for utterance in test}
    for example in found:
        utterance, picture = by_id[example.id], example.picture
        assert picture is not None
        assert utterance.units is not None
        assert not picture.has_seconds
        assert example.audio is None
        assert picture.edges[-1] == int(utterance.units.durations.sum())
        row = next(row for row in rows if row.id == example.id)
        slot = next((s for s, a in row.slots.items() if a.true != a.predicted), "word")
        assert picture.label == row.slots[slot].predicted
        labels = artifact.entry.task.slots[slot]
        whole = odds(artifact, utterance.units, slot, labels.index(picture.label))
        for span, value in zip(picture.spans, picture.importance, strict=True):
            left = odds(artifact, without_span(utterance.units, span), slot, labels.index(picture.label))
            assert value == pytest.approx(whole - left, abs=2e-4)


def odds(artifact: Artifact, units: object, slot: str, label: int) -> float:
    scores = scores_alone(SPOKEN.lm, artifact.entry, units)[slot]  # type: ignore[arg-type]
    share = artifact.config.calibration.apply(slot, scores)[label].double()
    return float(torch.log(share) - torch.log1p(-share))


def test_a_fixed_verbalizer_is_drawn_as_the_units_that_stand_for_labels() -> None:
    fixed = artifact_of(entry_of(SPOKEN.lm, verbalizer="random"))
    maps = verbalizers_of(fixed, SPOKEN.lm)
    for slot, labels in fixed.entry.task.slots.items():
        found = maps[slot]
        assert found.labels == labels
        for weights, answer in zip(found.weights, fixed.entry.verbalizer.answers(slot), strict=True):
            [unit] = [found.units[i] for i, weight in enumerate(weights) if weight]
            assert SPOKEN.lm.lm_ids(torch.tensor(int(unit))) == answer
        assert len(found.units) == len(labels)


@pytest.mark.parametrize("streams", ["units", "state", "mean", "counts", "utterance"])
def test_a_learnable_verbalizer_is_drawn_as_the_weights_of_units(streams: str) -> None:
    lm = SPOKEN.lm
    entry = entry_of(lm, streams=streams)
    slot, weight = "word", entry.verbalizer.weight.detach()[entry.verbalizer.columns("word")]
    found = verbalizers_of(artifact_of(entry), lm)[slot]
    if "counts" in entry.verbalizer.streams:
        expected = weight[:, -lm.unit_count :]
    else:
        logits = weight if streams == "units" else lm.heads_of(weight[:, : lm.width])["units"]
        expected = logits[:, lm.lm_ids(torch.arange(lm.unit_count))]
    for unit, column in zip(found.units, torch.tensor(found.weights).T, strict=True):
        torch.testing.assert_close(column.float(), expected[:, int(unit)], atol=1e-4, rtol=1e-4)


def test_a_clip_is_drawn_over_its_seconds_and_can_be_heard(artifact: Artifact, tmp_path: Path) -> None:
    utterance = heard(tmp_path)
    rows = answers(SPOKEN.lm, artifact, [utterance])
    [example] = illustrated(pick_examples(rows, artifact.entry.task.slots), artifact, SPOKEN, [utterance])
    assert example.picture is not None
    assert example.picture.length == pytest.approx(0.5)
    assert example.picture.edges[-1] == pytest.approx(0.5)
    assert max(example.picture.peaks) == 1.0
    assert example.audio is not None
    samples, rate = decoded(example.audio)
    assert (len(samples), rate) == (8000, 16_000)
    assert example.excerpt == ""
    utterance.audio.unlink()
    [silent] = illustrated(pick_examples(rows, artifact.entry.task.slots), artifact, SPOKEN, [utterance])
    assert silent.audio is None
    assert silent.picture is not None
    assert silent.picture.peaks == ()


def decoded(address: str) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_of_a_long_clip_the_beginning_can_be_heard(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(illustrations, "LONGEST_CLIP_SECONDS", 11.0)
    utterance = heard(tmp_path, seconds=12.0)
    rows = answers(SPOKEN.lm, artifact, [utterance])
    [example] = illustrated(pick_examples(rows, artifact.entry.task.slots), artifact, SPOKEN, [utterance])
    assert example.excerpt == "the first 11 s of 12 s can be heard"
    assert example.audio is not None
    assert example.audio.startswith("data:audio/mpeg;base64,")
    samples, rate = decoded(example.audio)
    assert len(samples) / rate == pytest.approx(11.0, abs=0.2)
    assert len(example.audio) < 11 * 16_000
    assert example.picture is not None
    assert example.picture.length == pytest.approx(12.0)


def test_short_clips_are_kept_bit_for_bit() -> None:
    waveform = np.random.default_rng(0).integers(-3000, 3000, 1600) / 32768
    samples, rate = decoded(embedded_clip(waveform, 16_000))
    assert rate == 16_000
    np.testing.assert_array_equal(samples, waveform)
