"""From a labelled corpus to an artifact: encode, start, train, calibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechprompt.encoding import check_lengths, encode_corpus
from speechprompt.prompting import recipes
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.initialisation import length_of
from speechprompt.prompting.joint import Job, train_jobs
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.prompting.training import Listener
from speechprompt.prompting.training_copies import with_training_copies
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.splits import require_trainable
from speechprompt.spoken_lm import SpokenLM


def train(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    slots: Sequence[str] | None = None,
    options: TrainingOptions | None = None,
    *,
    name: str | None = None,
    initial: Artifact | None = None,
    listener: Listener | None = None,
    checkpoint: Path | None = None,
) -> Artifact:
    """Train one prompt on a corpus's train split, chosen on its valid split.

    Without options `suited_options` chooses them. `slots` default to all of the corpus's; `initial` starts from another
    artifact's vectors (those of several prompts start as many, one each; else its first starts all). Errors: those of
    the corpus, its audio and training itself.
    Side effects: the unit store, and `checkpoint`, a file that is left for the caller to remove once the artifact is
    saved (`remove_checkpoint`).
    """
    return train_many(
        corpus, spoken_lm, slots, [options or suited_options(corpus, spoken_lm, initial, slots)],
        name=name, initial=initial, listener=listener, checkpoint=checkpoint,
    )[0]  # fmt: skip


def suited_options(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    initial: Artifact | None = None,
    slots: Sequence[str] | None = None,
) -> TrainingOptions:
    """The recipe `few` for few training clips over an LM that is narrow enough, as the command `train` does.

    Else `default`, and where another artifact's vectors start the training.
    """
    few = few_options(corpus)
    suits = initial is None and suits_few(corpus, spoken_lm, few, slots)
    return few if suits else TrainingOptions.of_recipe()


def few_options(corpus: Corpus, changes: Mapping[str, Any] | None = None) -> TrainingOptions:
    """The recipe `few` with changes; a corpus of units whose recordings are not at hand is heard once."""
    silent = any(
        u.units is not None and (u.audio is None or not u.audio.is_file()) for u in corpus.utterances
    )
    return TrainingOptions.of_recipe("few", {**({"answer_copies": 0} if silent else {}), **(changes or {})})


def suits_few(
    corpus: Corpus, spoken_lm: SpokenLM, few: TrainingOptions, slots: Sequence[str] | None = None
) -> bool:
    """Whether a corpus has few clips, to train on and to validate on, and the prompts of `few` are not too short."""
    labels = sum(len(corpus.slots[slot]) for slot in slots or corpus.slots)
    clips = max(len(corpus.split("train")), len(corpus.split("valid")))
    return clips <= recipes.FEW_CLIPS and length_of(spoken_lm.lm, few, labels) >= recipes.SHORTEST_MEMBER


def train_many(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    slots: Sequence[str] | None,
    variants: Sequence[TrainingOptions],
    *,
    name: str | None = None,
    initial: Artifact | None = None,
    listener: Listener | None = None,
    checkpoint: Path | None = None,
) -> list[Artifact]:
    """The same for several sets of options (seeds, learning rates, lengths) in one joint run over the bank."""
    task = Task.of_corpus(corpus, slots, name)
    require_trainable(corpus, list(task.slots))
    corpus = encode_corpus(corpus, spoken_lm).corpus
    check_lengths((*corpus.split("train"), *corpus.split("valid")), spoken_lm.lm.max_units)
    corpus = with_training_copies(corpus, spoken_lm, variants).corpus
    jobs = [
        Job(task.name if len(variants) == 1 else f"{task.name}-{i}", corpus, task, options, initial)
        for i, options in enumerate(variants)
    ]
    return train_jobs(jobs, spoken_lm, listener, checkpoint)
