"""A prompt from a few clips: its numbers are of clips that were hidden, and nothing else was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from speechprompt.errors import CorpusError, UsageError
from speechprompt.lms.batch import collate
from speechprompt.prompting import teach as teaching
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.heard import count_heard
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Run
from speechprompt.prompting.teach import steps_for, teach
from speechprompt.speech.manifest import Corpus
from toys import CORPUS, SPOKEN


def few(clips: int = 8, slot: str = "word") -> Corpus:
    """So many clips of each of three words, all in one split."""
    corpus = CORPUS.with_slots([slot])
    kept, counts = [], dict.fromkeys(corpus.slots[slot], 0)
    for utterance in corpus.utterances:
        if counts[utterance.labels[slot]] < clips:
            counts[utterance.labels[slot]] += 1
            kept.append(replace(utterance, split="test", speaker=None))
    return replace(corpus, utterances=tuple(kept))


@pytest.mark.parametrize(("streams", "steps"), [("units", 30), ("state", teaching.FEWEST_STEPS)])
def test_it_learns_and_says_how_well(streams: str, steps: int) -> None:
    events = []
    options = teaching.LESSON_OPTIONS.model_copy(update={"streams": streams})
    artifact = teach(few(), SPOKEN, "words", steps, options=options, listener=events.append)
    held = artifact.metrics["held_out"]
    assert artifact.config.task == "words"
    assert held["clips"] == 24
    assert held["right"] == sum(label["right"] for label in held["labels"].values())
    assert held["clips"] - held["right"] == len(held["mistakes"])
    assert held["accuracy"]["estimate"] == pytest.approx(held["right"] / 24)
    assert held["accuracy"]["low"] > held["majority"] == pytest.approx(1 / 3)
    assert {event["run"] for event in events if event["event"] == "step"} == {
        "words",
        *(f"words, round {i}" for i in (1, 2, 3, 4)),
    }


def test_hidden_clips_are_heard_by_nobody_who_is_asked_about_them(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Run] = []
    monkeypatch.setattr(teaching, "train_runs", lambda lm, given, listener: runs.extend(given))
    corpus = few(5)
    teach(corpus, SPOKEN, "words", steps=1)
    everything = {utterance.id for utterance in corpus.utterances}
    assert set(runs[0].train.ids) == everything
    assert all(set(run.train.ids).isdisjoint(run.valid.ids) for run in runs[1:])
    assert all(set(run.train.ids) | set(run.valid.ids) == everything for run in runs[1:])
    assert sorted(i for run in runs[1:] for i in run.valid.ids) == sorted(everything)
    assert all(run.options.evaluations == 1 for run in runs)


def test_the_kept_prompt_is_in_its_last_state_and_the_same_again() -> None:
    corpus = few(3)
    one, two = (teach(corpus, SPOKEN, "words", steps=4, seed=1) for _ in range(2))
    batch = collate([u.units for u in corpus.utterances if u.units is not None])
    scores = [
        classify(SPOKEN.lm, Bank([each.entry]), batch, torch.zeros_like(batch.lengths))[0].slots["word"]
        for each in (one, two)
    ]
    assert torch.equal(*scores)
    assert one.metrics == two.metrics
    assert one.config.corpus["utterances"] == {"train": 9, "valid": 0, "test": 0}
    assert count_heard(one.heard, corpus.utterances) == 9


def test_too_few_clips_or_several_questions_are_refused() -> None:
    with pytest.raises(CorpusError, match=r"has 2 clips; every label needs 3"):
        teach(few(2), SPOKEN, "words")
    with pytest.raises(CorpusError, match="2 slots; teaching answers one question"):
        teach(CORPUS, SPOKEN, "words")


def test_options_of_several_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match="a lesson makes one prompt"):
        teach(CORPUS.with_slots(["word"]), SPOKEN, "word", options=TrainingOptions.of_recipe("few"))


def test_more_clips_take_more_steps() -> None:
    assert steps_for(9) == steps_for(100) == 60
    assert steps_for(400) == 125
