"""A source divided as it was when a prompt was trained on it: the same fold, and the same few shots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from speechprompt.errors import CorpusError, UsageError
from speechprompt.evaluation.summary import read_json
from speechprompt.speech.manifest import Corpus, FoldDraw, ShotsDraw
from speechprompt.speech.splits import DRAWN_BY_HASH, folds, shots, with_fold

_MAY_LEAK = "and may have trained on utterances that are scored here"


def as_trained(corpus: Corpus, provenance: Mapping[str, Any], scored: str | None = None) -> Corpus:
    """A whole source with the splits and the shots of a prompt's training, which `PromptConfig.corpus` remembers.

    The split that is `scored` stays whole.

    What cannot be drawn again stays as the source has it, with a notice more. WorkError: a damaged provenance.
    """
    fold, few = provenance.get("fold"), provenance.get("shots")
    if fold is not None:
        corpus = _with_fold(corpus, read_json(FoldDraw, fold))
    elif _is_split_otherwise(corpus, provenance):
        rule = provenance.get("split_rule") or "as read"
        corpus = _noticing(corpus, f"the prompt was trained on other splits ({rule}) {_MAY_LEAK}")
    elif few is None and (lost := _lost_from_train(corpus, provenance)):
        gone = (
            f"{lost} of the prompt's training utterances are gone from {corpus.name}, whose splits are drawn"
        )
        corpus = _noticing(corpus, f"{gone}: others may have moved, {_MAY_LEAK}")
    return corpus if few is None else _with_shots(corpus, read_json(ShotsDraw, few), scored)


def _with_fold(corpus: Corpus, draw: FoldDraw) -> Corpus:
    """The fold drawn again; only one of exactly the same utterances is the prompt's."""
    try:
        rounds = folds(corpus, draw.count, draw.seed)
    except (CorpusError, UsageError):
        rounds = []
    for fold in rounds:
        if fold.draw == draw:
            corpus = with_fold(corpus, fold)
            return _noticing(corpus, f"split as in the prompt's training: {corpus.split_rule}")
    whose = f"the prompt is of fold {draw.number} of {draw.count} over other utterances"
    return _noticing(corpus, f"{whose} than {corpus.name} has now, {_MAY_LEAK}")


def _is_split_otherwise(corpus: Corpus, provenance: Mapping[str, Any]) -> bool:
    """Whether the prompt was trained on the same corpus under another rule; a corpus of tests alone has no rule."""
    same = provenance.get("name") == corpus.name and "train" in corpus.splits()
    return same and provenance.get("split_rule") != corpus.split_rule


def _lost_from_train(corpus: Corpus, provenance: Mapping[str, Any]) -> int:
    """How many training utterances drawn splits have lost since; a small corpus is repaired with others."""
    rule, counts = str(provenance.get("split_rule")), provenance.get("utterances")
    known = counts.get("train") if isinstance(counts, Mapping) else None
    same = (
        provenance.get("name") == corpus.name
        and f"test {DRAWN_BY_HASH}" in rule
        and "train" in corpus.splits()
    )
    return max(0, known - len(corpus.split("train"))) if same and isinstance(known, int) else 0


def _with_shots(corpus: Corpus, draw: ShotsDraw, scored: str | None) -> Corpus:
    if "train" not in corpus.splits():
        return corpus
    if set(draw.slots) <= set(corpus.slots):
        thinned = [split for split in draw.splits if split != scored]
        return shots(corpus, draw.slots, draw.count, draw.seed, thinned)
    text = f"the prompt trained on {draw.count} utterances a label of {', '.join(draw.slots)}"
    return _noticing(corpus, f"{text}; the baselines train on the whole train split")


def _noticing(corpus: Corpus, notice: str) -> Corpus:
    return replace(corpus, notices=(*corpus.notices, notice))
