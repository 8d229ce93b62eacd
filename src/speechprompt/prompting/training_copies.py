"""The copies at other speeds that trainings ask for: to train on, and to be validated over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from speechprompt.encoding import Encoded, Listener, with_speed_copies
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.spoken_lm import SpokenLM


def with_training_copies(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    variants: Sequence[TrainingOptions],
    listener: Listener | None = None,
    every_split: bool = False,
) -> Encoded:
    """Give an encoded corpus the copies of training clips, and those over which validation is answered.

    With `every_split` all clips get them, for rounds in which each trains, validates and tests in turn. Notices and
    errors as `with_speed_copies`. Side effects: the unit store.
    """
    taught = [split for options in variants for split in options.taught_splits]
    judged = [split for options in variants if options.answer_copies for split in options.validated_splits]
    found = with_speed_copies(
        corpus,
        spoken_lm,
        [options.copying for options in variants],
        listener=listener,
        splits=None if every_split else set(taught),
    )
    again = with_speed_copies(
        found.corpus,
        spoken_lm,
        [AnswerCopies(options.answer_copies) for options in variants],
        listener=listener,
        splits=None if every_split else set(judged),
    )
    return replace(again, notices=list(dict.fromkeys([*found.notices, *again.notices])))
