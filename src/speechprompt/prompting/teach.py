"""A prompt from a few labelled clips: trained on all of them, judged in rounds that each hide some.

With a handful of clips there is none to spare for validation. So one joint run trains several prompts: one
hears every clip and is kept; each of the others leaves some out and is asked about exactly those. Nothing is
chosen by the answers (the steps are fixed, the last state is kept), so they estimate how often the kept prompt
is right on other clips of the same voices and the same room, and no more than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from speechprompt.encoding import encode_corpus
from speechprompt.errors import CorpusError, UsageError
from speechprompt.metrics import wilson_interval
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.calibration import fit_temperature
from speechprompt.prompting.finishing import finish
from speechprompt.prompting.heard import heard_in
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples, Run
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import Listener, train_runs
from speechprompt.prompting.training_copies import with_training_copies
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.splits import folds
from speechprompt.spoken_lm import SpokenLM

FEWEST_STEPS, HEARINGS = 60, 10
"""Updates of a lesson: enough to hear every clip so often, and no fewer than that."""
ROUNDS = 4
LESSON_OPTIONS = TrainingOptions(label_smoothing=0.1, span_dropout=0.2, prompt_dropout=0.0, unit_masking=0.0)
"""A few clips are soon known by heart; without these, others are answered worse and far too surely (LOG.md)."""
FEWEST_CLIPS = 3
"""Clips that every label needs: as many as the fewest rounds."""


def teach(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    name: str,
    steps: int | None = None,
    seed: int = 0,
    options: TrainingOptions | None = None,
    *,
    listener: Listener | None = None,
) -> Artifact:
    """Train a prompt on every clip of a corpus of one slot, and say how often it was right on hidden clips.

    Splits are ignored; `steps` default to `steps_for` the clips, `options` to `LESSON_OPTIONS`. `metrics["held_out"]`
    holds the accuracy with its 95 % interval, the share of the most frequent label, right answers by label, and the
    mistakes. A temperature above one is fitted on the same answers. UsageError for options of several prompts.
    CorpusError: several slots, or a label with under three clips. Side effects: the unit store, where clips come
    without units.
    """
    slot = _only_slot(corpus)
    options = options or LESSON_OPTIONS
    if options.ensemble > 1:
        raise UsageError("a lesson makes one prompt; take the recipe default, without 'ensemble'")
    corpus = encode_corpus(corpus, spoken_lm, most_units=spoken_lm.lm.max_units).corpus
    corpus = with_training_copies(corpus, spoken_lm, [options], every_split=True).corpus
    task = Task.of_corpus(corpus, name=name)
    fewest = min(Counter(u.labels[slot] for u in corpus.utterances).values())
    rounds = folds(corpus, min(ROUNDS, fewest), seed)
    options = options.model_copy(
        update={"steps": steps or steps_for(len(corpus.utterances)), "evaluations": 1, "seed": seed}
    )
    hidden = [set(each.test) for each in rounds]
    runs = [_run(task, spoken_lm, options, corpus.utterances, set(), name)]
    runs += [
        _run(task, spoken_lm, options, corpus.utterances, ids, f"{name}, round {i + 1}")
        for i, ids in enumerate(hidden)
    ]
    train_runs(spoken_lm.lm, runs, listener)
    scores = torch.cat([scores_of(spoken_lm.lm, run.entry, run.valid)[slot] for run in runs[1:]])
    targets = torch.cat([run.valid.targets[:, 0] for run in runs[1:]])
    ids = [identity for run in runs[1:] for identity in run.valid.ids]
    artifact = finish(runs[0], spoken_lm, corpus)
    temperature = max(
        1.0, fit_temperature(scores, targets)
    )  # so few answers may call for doubt, never for more faith
    config = artifact.config.model_copy(
        update={"temperatures": {slot: temperature}, "corpus": _provenance(artifact.config.corpus, corpus)}
    )
    held_out = _judged(task.slots[slot], (scores / temperature).softmax(-1), targets, ids)
    metrics = {"held_out": {"rounds": len(rounds), **held_out}}
    # the domain's limit needs clips that this very prompt has not heard, and there are none
    heard = heard_in(corpus.utterances)
    return replace(artifact, config=config, metrics=metrics, domain=None, heard=heard)


def steps_for(clips: int) -> int:
    """How many updates `teach` makes for so many clips."""
    return max(FEWEST_STEPS, -(-HEARINGS * clips // LESSON_OPTIONS.batch_size))


def _only_slot(corpus: Corpus) -> str:
    if len(corpus.slots) != 1:
        raise CorpusError(f"{corpus.name} has {len(corpus.slots)} slots; teaching answers one question")
    slot = next(iter(corpus.slots))
    counts = Counter(u.labels.get(slot) for u in corpus.utterances)
    for label in corpus.slots[slot]:
        if counts[label] < FEWEST_CLIPS:
            raise CorpusError(
                f"'{label}' has {counts[label]} clips; every label needs {FEWEST_CLIPS} or more"
            )
    return slot


def _run(
    task: Task,
    spoken_lm: SpokenLM,
    options: TrainingOptions,
    utterances: Sequence[Utterance],
    hidden: set[str],
    name: str,
) -> Run:
    """A run that never sees `hidden` and is validated on them, once; on its own clips where none are."""
    seen = Examples.to_train(task, [u for u in utterances if u.id not in hidden], options)
    judged = [u for u in utterances if u.id in hidden or not hidden]
    asked = Examples.of(task, judged, options.answer_copies)
    entry = new_entry(task, spoken_lm.lm, options, seen.units, seen.targets)
    return Run(name, entry, options, seen, asked)


def _judged(
    labels: Sequence[str], probabilities: Tensor, targets: Tensor, ids: Sequence[str]
) -> dict[str, Any]:
    """Numbers of the hidden answers: probabilities (n,C) against targets (n,)."""
    answered = probabilities.argmax(-1)
    right = answered == targets
    of_label: dict[str, Mapping[str, int]] = {}
    for i, label in enumerate(labels):
        mine = targets == i
        of_label[label] = {"right": int(right[mine].sum()), "clips": int(mine.sum())}
    mistakes = [
        {
            "clip": ids[i],
            "label": labels[int(targets[i])],
            "answered": labels[int(answered[i])],
            "score": round(float(probabilities[i, answered[i]]), 4),
        }
        for i in (~right).nonzero()[:, 0].tolist()
    ]
    return {
        "accuracy": asdict(wilson_interval(int(right.sum()), len(ids))),
        "right": int(right.sum()),
        "clips": len(ids),
        "majority": max(of_label[label]["clips"] for label in labels) / len(ids),
        "labels": of_label,
        "mistakes": sorted(mistakes, key=lambda each: -float(each["score"])),
    }


def _provenance(known: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    count = len(corpus.utterances)
    rule = "all clips train the prompt; its numbers are of clips hidden in turn from prompts trained like it"
    return {**known, "split_rule": rule, "utterances": {"train": count, "valid": 0, "test": 0}}
