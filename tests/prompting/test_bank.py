"""Prompts come and go while others are asked; whoever asked first is answered by what was there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import ArtifactError, UnknownName
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.clips import Clip
from speechprompt.prompting.loaded import LoadedPrompt, PromptTable
from speechprompt.prompting.predictor import Predictor, Question
from speechprompt.prompting.task import Task
from speechprompt.spoken_lm import SpokenLM
from speechprompt.testing import ToyTokenizer, toy_lm
from toys import CORPUS, artifact_of, entry_of, scores_alone, some_units

LM = toy_lm()
SPOKEN = SpokenLM.of_parts("toy@1", ToyTokenizer(), LM)


def named(name: str, **kind: Any) -> Artifact:
    task = Task.of_corpus(CORPUS, kind.pop("slots", ["word"]), name)
    return artifact_of(entry_of(LM, task=task, **kind))


def test_a_change_leaves_earlier_snapshots_and_questions_alone() -> None:
    predictor = Predictor(SPOKEN, [named("word", seed=1), named("other")])
    before, old = predictor.prompts.snapshot, predictor.prompts["word"]
    clip = Clip((some_units([9])[0],), 1.0)
    expected = predictor.answer([Question(clip, old)])[0]
    with pytest.raises(ArtifactError, match="two artifacts are called 'word'"):
        predictor.add(named("word", seed=2))
    assert predictor.prompts["word"] is old
    fresh = predictor.add(named("word", seed=2), replace=True)
    assert list(predictor.prompts) == ["word", "other"]
    assert predictor.prompts.remove("other").name == "other"
    assert list(before) == ["word", "other"]
    with pytest.raises(UnknownName, match=r"unknown task .other."):
        predictor.prompts.chosen(["other"])
    with pytest.raises(UnknownName):
        predictor.prompts.remove("other")
    first, second = predictor.answer([Question(clip, old), Question(clip, fresh)])
    assert first.slots["word"].scores == pytest.approx(expected.slots["word"].scores, abs=1e-6)
    assert second.slots["word"].scores != pytest.approx(expected.slots["word"].scores, abs=1e-3)


def test_an_artifact_that_does_not_load_changes_nothing(tmp_path: Path) -> None:
    predictor = Predictor(SPOKEN, [named("word")])
    folder = named("word", seed=3).save(tmp_path / "word")
    (folder / "prompt.safetensors").write_bytes(b"not tensors")
    old = predictor.prompts["word"]
    with pytest.raises(ArtifactError, match="damaged"):
        predictor.add(folder, replace=True)
    assert predictor.prompts["word"] is old


def test_a_table_changed_by_one_thread_is_whole_for_the_others() -> None:
    loaded = [LoadedPrompt.of(named("word", seed=seed), LM, f"task{seed % 4}") for seed in range(8)]
    table = PromptTable(loaded[:4])
    wrong: list[str] = []

    def read() -> None:
        for _ in range(3000):
            for name, prompt in table.snapshot.items():
                if prompt.name != name:
                    wrong.append(name)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for turn in range(500):
        table.add(loaded[turn % 8], replace=True)
        if turn % 3 == 0:
            table.remove(table.chosen()[0].name)
    for thread in readers:
        thread.join()
    assert not wrong


VERBALIZERS = st.sampled_from(
    [(name, "units") for name in ("random", "frequency", "learnable")]
    + [("learnable", "state"), ("learnable", "utterance")]
)
KINDS = st.fixed_dictionaries(
    {
        "slots": st.sampled_from([["word"], ["length", "word"]]),
        "method": st.sampled_from(["before_projection", "after_projection", "input"]),
        "prompt_length": st.integers(0, 6),
        "shifts_positions": st.booleans(),
        "decoding": st.sampled_from(["parallel", "autoregressive"]),
        "reads": VERBALIZERS,
        "seed": st.integers(0, 99),
    }
)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_mixture_of_questions_is_answered_as_each_alone(data: st.DataObject) -> None:
    """Tasks, prompt lengths, verbalizers, slots, utterance lengths and windows, at random: scores and labels."""
    kinds = data.draw(st.lists(KINDS, min_size=1, max_size=5))
    for kind in kinds:
        kind["verbalizer"], kind["streams"] = kind.pop("reads")
    artifacts = [named(f"task{i}", **kind) for i, kind in enumerate(kinds)]
    predictor = Predictor(SPOKEN, artifacts)
    lengths = data.draw(
        st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=4)
    )
    clips = [Clip(tuple(some_units(several, i)), 1.0) for i, several in enumerate(lengths)]
    asked = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(clips) - 1), st.integers(0, len(artifacts) - 1)),
            min_size=1,
            max_size=12,
        )
    )
    prompts = list(predictor.prompts.values())
    together = predictor.answer([Question(clips[c], prompts[k]) for c, k in asked])
    for found, (c, k) in zip(together, asked, strict=True):
        entry = artifacts[k].entry
        windows = [scores_alone(LM, entry, units) for units in clips[c].windows]
        for slot, answer in found.slots.items():
            alone = torch.stack([window[slot] for window in windows]).mean(0).softmax(-1)
            assert list(answer.scores.values()) == pytest.approx(alone.tolist(), abs=1e-5)
            top = alone.sort(descending=True).values
            if len(top) < 2 or float(top[0] - top[1]) > 1e-6:
                assert answer.label == entry.task.slots[slot][int(alone.argmax())]
