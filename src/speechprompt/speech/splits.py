"""Which utterances train, validate and test: split names, seeded splits, folds and few-shot subsets.

Everything here is drawn by hashing names with a seed, so it does not depend on the order of files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from speechprompt.errors import CorpusError, UnknownName, UsageError
from speechprompt.speech.manifest import Corpus, FoldDraw, ShotsDraw, Utterance

SPLITS = ("train", "valid", "test")
DRAWN_SHARE = 0.1  # of valid and of test, each
DRAWN_BY_HASH = "drawn by hash"
"""What the rule of splits that were drawn here says."""

_ALIASES = {
    "training": "train",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "development": "valid",
}
_ALIASES |= {"evaluation": "test", "eval": "test", "testing": "test"}
_FOLD = re.compile(r"fold[1-9][0-9]*")
FEWEST_FOLDS = 3  # one trains, one validates, one tests
_FEWEST_GROUPS = 3  # with fewer speakers than splits, a split by speaker would leave one empty


def canonical_split(value: str) -> str | None:
    """The split that a name stands for: train, valid, test or foldN; None for any other name.

    >>> canonical_split("Validation"), canonical_split("fold3"), canonical_split("holdout")
    ('valid', 'fold3', None)
    """
    name = value.strip().casefold()
    name = _ALIASES.get(name, name)
    return name if name in SPLITS or _FOLD.fullmatch(name) else None


def draw_splits(
    utterances: Sequence[Utterance], seed: int, names: Sequence[str] = ("valid", "test")
) -> tuple[tuple[Utterance, ...], str]:
    """Divide utterances into train and the splits in `names`, a tenth each, and say how in one line.

    Speakers stay whole where at least three are known, and so do recordings that are cut into spans. The
    hash of a group decides alone, so adding files moves no other file; except that a small corpus is repaired
    so that train has every label and the others have every label that can be spared.
    """
    group_of, grouping = _groups(utterances, _FEWEST_GROUPS)
    strata: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for utterance, group in zip(utterances, group_of, strict=True):
        strata[group].update(utterance.labels.items(), [("", "")])
    split_of = _hashed(strata, seed, names)
    drawn = tuple(replace(u, split=split_of[g]) for u, g in zip(utterances, group_of, strict=True))
    shares = " and ".join(f"{DRAWN_SHARE:.0%} {name}" for name in names)
    empty = [name for name in names if name not in split_of.values()]
    rest = f"; too few for {' and '.join(empty)}" if empty else ""
    slots = sorted({slot for utterance in utterances for slot in utterance.labels})
    kept = f", for the labels of {' and '.join(slots)}" if len(slots) > 1 else ""
    return drawn, f"{shares} {DRAWN_BY_HASH} (seed {seed}), grouped by {grouping}{kept}{rest}"


def groups_of(utterances: Iterable[Utterance]) -> int:
    """How many groups of utterances `folds` keeps together: speakers, recordings, or each utterance alone."""
    return len(set(_groups(utterances, _FEWEST_GROUPS)[0]))


def _groups(utterances: Iterable[Utterance], fewest: int) -> tuple[list[str], str]:
    """The group of each utterance, and what a group is: speaker, recording or utterance."""
    utterances = list(utterances)
    recordings = _recordings(utterances)
    for by_speaker in (True, False):
        keys = [_group(u, recordings, by_speaker) for u in utterances]
        kinds = {kind for kind, _ in keys}
        if len(set(keys)) >= fewest and kinds != {"utterance"}:
            return [f"{kind}:{name}" for kind, name in keys], "speaker" if "speaker" in kinds else "recording"
    return [f"utterance:{u.id}" for u in utterances], "utterance"


def _group(utterance: Utterance, recordings: Mapping[Path, str], by_speaker: bool) -> tuple[str, str]:
    if by_speaker and utterance.speaker is not None:
        return "speaker", utterance.speaker
    if utterance.audio is not None and utterance.audio in recordings:
        return "recording", recordings[utterance.audio]
    return "utterance", utterance.id


def _recordings(utterances: Iterable[Utterance]) -> dict[Path, str]:
    """Names of recordings that are cut into spans: file and folder, and as many folders above as tell them apart."""
    paths = dict.fromkeys(
        u.audio
        for u in utterances
        if u.audio is not None and (u.start_seconds is not None or u.end_seconds is not None)
    )
    depth, deepest = 2, max((len(path.parts) for path in paths), default=0)
    names = {path: "/".join(("", *path.parts)[-depth:]) for path in paths}
    while depth < deepest and len(set(names.values())) < len(names):
        depth += 1
        names = {path: "/".join(("", *path.parts)[-depth:]) for path in paths}
    return names


def _position(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name alone."""
    return (
        int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()[:6])
        / 2**48
    )


def _hashed(strata: Mapping[str, set[tuple[str, str]]], seed: int, names: Sequence[str]) -> dict[str, str]:
    """The split of each group: by hash, then repaired so that no split lacks a label that can be spared."""
    position = {group: _position(seed, group) for group in strata}
    places = {group: int(value / DRAWN_SHARE) for group, value in position.items()}
    split_of = {group: names[place] if place < len(names) else "train" for group, place in places.items()}
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for group in sorted(strata, key=lambda g: position[g]):
        for stratum in strata[group]:
            holders[stratum].append(group)
    for _, groups in sorted(holders.items()):
        if all(split_of[group] != "train" for group in groups):
            split_of[groups[-1]] = "train"
    counts: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in ("train", *names)}
    for group, members in strata.items():
        counts[split_of[group]].update(members)
    for name in names:
        for stratum, groups in sorted(holders.items()):
            if counts[name][stratum]:
                continue
            # a split gives a group away only if it keeps every label; train gives first
            spare = [g for g in groups if all(counts[split_of[g]][s] > 1 for s in strata[g])]
            if spare:
                chosen = min(spare, key=lambda g: (split_of[g] != "train", position[g]))
                counts[split_of[chosen]].subtract(strata[chosen])
                counts[name].update(strata[chosen])
                split_of[chosen] = name
    return split_of


class Fold(NamedTuple):
    """Utterance ids of one round of cross-validation, and what a prompt trained on it remembers of it."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    draw: FoldDraw


def folds(corpus: Corpus, k: int = 5, seed: int = 0) -> list[Fold]:
    """k rounds over all utterances, each of which is tested once; the next fold validates.

    A corpus with splits fold1 to foldN keeps them. Otherwise speakers stay whole where at least three are
    known, and labels are spread as evenly as that allows. UsageError: k below 3, or another k than the
    corpus's own. CorpusError: fewer speakers than folds.
    """
    if k < FEWEST_FOLDS:
        raise UsageError(f"{k} folds cannot train, validate and test; ask for {FEWEST_FOLDS} or more")
    published = [name for name in corpus.splits() if _FOLD.fullmatch(name)]
    if published:
        if len(published) != k:
            raise UsageError(
                f"{corpus.name} comes in {len(published)} folds, not {k}; ask for {len(published)}"
            )
        fold_of = [published.index(u.split) for u in corpus.utterances]
    else:
        fold_of = _stratified(corpus, k, seed)
    ids: list[list[str]] = [[] for _ in range(k)]
    for utterance, fold in zip(corpus.utterances, fold_of, strict=True):
        ids[fold].append(utterance.id)
    rounds = []
    for test in range(k):
        valid = (test + 1) % k
        train = [i for fold in range(k) if fold not in (test, valid) for i in ids[fold]]
        named = json.dumps([sorted(train), sorted(ids[valid]), sorted(ids[test])]).encode()
        draw = FoldDraw(test + 1, k, seed, hashlib.sha256(named).hexdigest()[:16])
        rounds.append(Fold(tuple(train), tuple(ids[valid]), tuple(ids[test]), draw))
    return rounds


def _stratified(corpus: Corpus, k: int, seed: int) -> list[int]:
    """The fold of each utterance: large groups first, each where its labels are scarcest."""
    group_of, grouping = _groups(corpus.utterances, _FEWEST_GROUPS)
    strata: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for utterance, group in zip(corpus.utterances, group_of, strict=True):
        strata[group].update([*utterance.labels.items(), ("", "")])
    if len(strata) < k:
        text = f"{corpus.name} has {len(strata)} {grouping}s, too few for {k} folds"
        raise CorpusError(f"{text}; ask for {len(strata)}" if len(strata) > 2 else f"{text}; add utterances")
    totals = sum(strata.values(), Counter[tuple[str, str]]())
    filled: list[Counter[tuple[str, str]]] = [Counter() for _ in range(k)]
    fold_of: dict[str, int] = {}
    for group in sorted(strata, key=lambda g: (-strata[g].total(), _position(seed, g))):
        members = strata[group]
        costs = [sum(n * (2 * fold[s] + n) / totals[s] ** 2 for s, n in members.items()) for fold in filled]
        best = min(range(k), key=lambda f: (costs[f], filled[f].total(), f))
        filled[best] += members
        fold_of[group] = best
    return [fold_of[group] for group in group_of]


def with_fold(corpus: Corpus, fold: Fold) -> Corpus:
    """The corpus with the splits of one fold, and a split rule that says so."""
    split_of = {i: name for name, ids in zip(SPLITS, fold[:3], strict=True) for i in ids}
    utterances = tuple(replace(u, split=split_of[u.id]) for u in corpus.utterances)
    return replace(corpus, utterances=utterances, split_rule=_fold_rule(corpus, fold.draw), fold=fold.draw)


def _fold_rule(corpus: Corpus, fold: FoldDraw) -> str:
    rule = f"cross-validation: fold {fold.number} of {fold.count} tests, fold {fold.number % fold.count + 1} validates"
    if any(_FOLD.fullmatch(name) for name in corpus.splits()):
        return f"{corpus.split_rule}; {rule}" if corpus.split_rule else rule
    _, grouping = _groups(corpus.utterances, _FEWEST_GROUPS)
    return f"{rule}; folds drawn by hash (seed {fold.seed}), grouped by {grouping}"


def shots(
    corpus: Corpus,
    slots: str | Sequence[str] | None,
    n: int,
    seed: int = 0,
    splits: Sequence[str] = ("train",),
) -> Corpus:
    """The corpus with n training utterances per label; valid and test stay whole, unless `splits` names them, too.

    With several slots (None: all of them), n per combination of labels. Subsets are nested: the 5 of one seed
    are among its 10. A label with fewer than n keeps them all, with a notice. UnknownName: a slot the corpus
    lacks.
    """
    if n < 1:
        raise UsageError(f"{n} shots leave nothing to train on; ask for 1 or more")
    chosen = tuple(corpus.slots) if slots is None else (slots,) if isinstance(slots, str) else tuple(slots)
    for slot in chosen:
        if slot not in corpus.slots:
            raise UnknownName("slot", slot, corpus.slots)
    of_label: dict[tuple[str | None, ...], list[Utterance]] = defaultdict(list)
    for utterance in corpus.utterances:
        if utterance.split in splits:
            labels = (utterance.labels.get(slot) for slot in chosen)
            of_label[utterance.split, *labels].append(utterance)
    kept: set[str] = set()
    notices = []
    for (split, *label), members in of_label.items():
        ordered = sorted(members, key=lambda u: (_position(seed, u.id), u.id))
        kept.update(u.id for u in ordered[:n])
        if len(members) < n and split == "train":
            name = ", ".join(str(part) for part in label)
            notices.append(f"'{name}' has {len(members)} training utterances, fewer than {n}")
    utterances = tuple(u for u in corpus.utterances if u.split not in splits or u.id in kept)
    draw = ShotsDraw(n, seed, chosen, tuple(splits))
    return replace(corpus, utterances=utterances, notices=(*corpus.notices, *notices), shots=draw)


def require_labels(corpus: Corpus, slots: Sequence[str] | None = None) -> None:
    """CorpusError when there are no labels, or an utterance has none for one of the slots (None: all of them)."""
    if not corpus.slots:
        raise CorpusError(
            f"{corpus.name} has no labels; put the clips of each label into a folder of its own, or name the fields "
            "of a table or manifest that hold labels with --slots"
        )
    for slot in corpus.slots if slots is None else slots:
        bare = [u.id for u in corpus.utterances if slot not in u.labels]
        if bare:
            raise CorpusError(
                f"{corpus.name}: '{bare[0]}' has no label for {slot} (nor have {len(bare) - 1} others); add it or "
                "leave the row out, or name with --slots only what every row has"
            )


def unheard_labels(corpus: Corpus, split: str) -> list[str]:
    """A line for each slot with labels that no utterance of a split has: what accuracy there says nothing about."""
    told = []
    for slot, labels in corpus.slots.items():
        found = {utterance.labels.get(slot) for utterance in corpus.split(split)}
        if absent := [label for label in labels if label not in found]:
            names = ", ".join(f"'{label}'" for label in absent[:3]) + (", …" if len(absent) > 3 else "")
            told.append(f"{split} has no {slot} {names}: accuracy there says nothing about what it lacks")
    return told


def require_trainable(corpus: Corpus, slots: Sequence[str] | None = None) -> None:
    """Refuse a corpus that no classifier of some slots (None: all) can be trained on, in one CorpusError line.

    No labels, or an utterance without one; no training utterances; a slot with one label in train; a label in valid
    or test that train lacks.
    """
    require_labels(corpus, slots)
    splits = corpus.splits()
    if "train" not in splits and not any(_FOLD.fullmatch(name) for name in splits):
        raise CorpusError(
            f"{corpus.name} has no train split, only {', '.join(splits)}; add training utterances"
        )
    for slot in corpus.slots if slots is None else slots:
        in_train = {u.labels[slot] for u in corpus.utterances if u.split not in ("valid", "test")}
        if len(in_train) < 2:
            only = next(iter(in_train))
            raise CorpusError(f"{corpus.name}: slot '{slot}' has one label, '{only}'; a classifier needs two")
        for utterance in corpus.utterances:
            if (label := utterance.labels[slot]) not in in_train:
                where = f"{corpus.name}: '{utterance.id}' in {utterance.split}"
                raise CorpusError(f"{where} has {slot} '{label}', which no training utterance has; add some")
