"""What most commands start from: a spoken LM on a device, a corpus with its units, an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechprompt.cli.commands import free_cores
from speechprompt.cli.terminal import Terminal
from speechprompt.errors import CorpusError, UnknownName, UsageError

if TYPE_CHECKING:
    from speechprompt.encoding import Encoded
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import Dtype, SpokenLM

MOST_THREADS = 4
"""The LMs here are small: beyond this many threads, waiting for each other costs more than it gains."""


def open_spoken_lm(
    name: str, device: str = "auto", dtype: Dtype = "float32", threads: int | None = None
) -> SpokenLM:
    """A spoken LM by name or folder on a checked device. Errors and side effects as `chosen_device`."""
    from speechprompt.spoken_lm import SpokenLM

    return SpokenLM.load(name, chosen_device(device, threads), dtype)


def chosen_device(device: str = "auto", threads: int | None = None) -> str:
    """The device to compute on. UsageError for one that is not there.

    Side effects: sets torch's threads (unless OMP_NUM_THREADS does).
    """
    import os

    import torch

    if threads is not None or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or min(MOST_THREADS, free_cores()))
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"device '{device}' is not available here; use --device cpu or auto") from None
    return device


def open_artifacts(
    folders: Sequence[Path], lm: str | None, device: str, dtype: Dtype, threads: int | None
) -> tuple[SpokenLM, list[Artifact]]:
    """Artifacts with the spoken LM of `--lm`, else the one that the first of them names.

    ArtifactError for a folder that is none; UsageError when the LM it names is not installed.
    """
    from speechprompt.prompting.artifact import Artifact, read_config

    wanted = lm or read_config(folders[0]).spoken_lm
    try:
        spoken_lm = open_spoken_lm(wanted, device, dtype, threads)
    except UnknownName as error:
        if lm is not None:
            raise
        raise UsageError(
            f"{folders[0]} was trained on {wanted}, which is not installed ({error}); pass --lm with its folder"
        ) from None
    return spoken_lm, [Artifact.load(folder, spoken_lm) for folder in folders]


def read_source(
    source: str,
    terminal: Terminal,
    slots: Sequence[str] | None = None,
    split_field: str = "split",
    skip_unreadable: bool = False,
) -> Corpus:
    """The corpus of a source, its notices told.

    Missing splits are drawn with one fixed seed, so that training and evaluation agree about them.
    """
    from speechprompt.speech.manifest import Corpus

    corpus = Corpus.read(source, slots, split_field, skip_unreadable=skip_unreadable)
    for notice in corpus.notices:
        terminal.notice(notice)
    return corpus


def encoded(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    terminal: Terminal,
    skip_unreadable: bool = False,
    any_length: bool = False,
) -> Corpus:
    """The corpus with units for every utterance that is kept; tells progress, notices and what was skipped.

    Utterances that are too long for the LM count as unreadable, unless `any_length`. CorpusError when all were skipped.
    """
    from speechprompt.encoding import encode_corpus

    most = None if any_length else spoken_lm.lm.max_units
    with terminal.progress("encoding") as progress:
        found = encode_corpus(corpus, spoken_lm, None, progress.update, skip_unreadable, most)
    if found.skipped and not found.corpus.utterances:
        first = next(iter(found.skipped.values()))
        raise CorpusError(f"{corpus.name}: all {len(found.skipped)} utterances were left out; first: {first}")
    for notice in found.notices:
        terminal.notice(notice)
    for identity, reason in found.skipped.items():
        terminal.notice(f"'{identity}' was left out: {reason}")
    return found.corpus


def with_copies(
    corpus: Corpus,
    spoken_lm: SpokenLM,
    terminal: Terminal,
    variants: Sequence[TrainingOptions],
    every_split: bool = False,
) -> Corpus:
    """The encoded corpus with the copies at other speeds that training options ask for; tells progress and notices."""
    from speechprompt.prompting.training_copies import with_training_copies

    if not any(options.speed_copies or options.answer_copies for options in variants):
        return corpus
    with terminal.progress("encoding at other speeds") as progress:
        found = with_training_copies(corpus, spoken_lm, variants, progress.update, every_split)
    return _told(terminal, found)


def heard_again(terminal: Terminal, corpus: Corpus, spoken_lm: SpokenLM, split: str, copies: int) -> Corpus:
    """The encoded corpus with the units of a split at the speeds of so many answer copies; tells progress."""
    from speechprompt.encoding import with_speed_copies
    from speechprompt.speech.speeds import AnswerCopies

    if not copies:
        return corpus
    with terminal.progress("encoding at other speeds") as progress:
        found = with_speed_copies(
            corpus, spoken_lm, [AnswerCopies(copies)], listener=progress.update, splits=(split,)
        )
    return _told(terminal, found)


def _told(terminal: Terminal, found: Encoded) -> Corpus:
    """What was encoded, its notices told."""
    for notice in found.notices:
        terminal.notice(notice)
    return found.corpus


def only_splits(corpus: Corpus, splits: Iterable[str]) -> Corpus:
    """The corpus without the utterances of other splits, so that they need not be encoded.

    CorpusError when one of the splits is empty.
    """
    from speechprompt.speech.splits import DRAWN_BY_HASH, SPLITS

    wanted, counts = tuple(splits), corpus.splits()
    for split in wanted:
        if split not in counts:
            drawn = split in SPLITS and DRAWN_BY_HASH in (corpus.split_rule or "")
            hint = f"; {DRAWN_BY_HASH}, a split needs three clips a label" if drawn else ""
            raise CorpusError(
                f"{corpus.name} has no utterances in split '{split}'; it has {', '.join(counts)}{hint}"
            )
    return replace(corpus, utterances=tuple(u for u in corpus.utterances if u.split in wanted))


def trainable(terminal: Terminal, corpus: Corpus, folds: int | None) -> Corpus:
    """The corpus, checked before anything is encoded, with a notice of labels that validation lacks.

    CorpusError or UsageError say what else it lacks.
    """
    from speechprompt.prompting.task import Task
    from speechprompt.speech.splits import FEWEST_FOLDS, require_labels, require_trainable, unheard_labels

    published = [split for split in corpus.splits() if split.startswith("fold")]
    if published and len(published) < FEWEST_FOLDS:
        raise CorpusError(
            f"{corpus.name} comes in {len(published)} folds, which cannot train, validate and test in turn; "
            "name its splits train, valid and test"
        )
    if folds is None and published:
        raise UsageError(f"{corpus.name} comes in {len(published)} folds; add --folds {len(published)}")
    if folds is None:
        require_trainable(corpus)
        for notice in unheard_labels(corpus, "valid") if corpus.split("valid") else ():
            terminal.notice(notice)
    else:
        require_labels(corpus)
    Task.of_corpus(corpus)
    return corpus


def few(
    corpus: Corpus,
    shots: int | None,
    seed: int,
    slots: Sequence[str] | None = None,
    splits: Sequence[str] = ("train",),
) -> Corpus:
    """The corpus with so many utterances a label (of `slots`, or all) in each of `splits`; itself without `shots`."""
    from speechprompt.speech.splits import shots as drawn

    return corpus if shots is None else drawn(corpus, slots, shots, seed, splits)
