"""From the rows of any source to a checked Corpus: the one place where ids, splits and labels are judged."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechprompt.errors import CorpusError, UnknownName, UsageError
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.splits import canonical_split, draw_splits

Line = int | str | None
"""A line number, with " of FILE" where a source has several files; None where a source has no lines."""


@dataclass(slots=True)
class Row:
    """An utterance as a source states it: `line` is where, `split` as written (None: not stated)."""

    line: Line
    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    audio: Path | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    units: Any = None
    speaker: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """What is being read: its name in errors, and what its header or its layout states."""

    path: str
    name: str
    slots: Mapping[str, tuple[str, ...]] | None = None
    tokenizer: str | None = None
    licence: str | None = None
    citation: str | None = None
    split_rule: str | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def error(self, line: Line, text: str) -> CorpusError:
        """An error that names the file and the line."""
        where = self.path if line is None else f"{self.path} line {line}"
        return CorpusError(f"{where}: {text}".replace("\n", " "))


def assemble(source: Source, rows: Iterable[Row], slots: Sequence[str] | None, seed: int) -> Corpus:
    """Check rows, name their splits, draw the missing ones over all labels, and only then keep the slots asked for.

    CorpusError naming file and line: a duplicate id, an unknown or missing split, a label or slot that
    the header lacks, no utterances. UnknownName: a slot asked for that does not exist.
    """
    splits = _SplitNames(source)
    utterances: list[Utterance] = []
    lines: dict[str, Line] = {}
    allowed = None if source.slots is None else {slot: set(labels) for slot, labels in source.slots.items()}
    for row in rows:
        if row.id in lines:
            first = "" if lines[row.id] is None else f", first on line {lines[row.id]}"
            raise source.error(row.line, f"id '{row.id}' is used twice{first}; ids must be unique")
        lines[row.id] = row.line
        if allowed is not None:
            _check_labels(source, row, allowed)
        _check_span(source, row)
        utterances.append(
            Utterance(
                row.id,
                splits.name(row),
                row.labels,
                row.audio,
                row.start_seconds,
                row.end_seconds,
                row.units,
                row.speaker if (row.speaker or "").strip() else None,
                row.extra,
            )
        )
    if not utterances:
        raise CorpusError(f"{source.path} holds no utterances; check that it is the file or folder you mean")
    corpus = Corpus(
        source.name,
        tuple(utterances),
        _found_slots(utterances) if source.slots is None else source.slots,
        source.tokenizer,
        source.licence,
        source.citation,
        source.split_rule,
        (*source.notices, *splits.notices()),
        source.header,
    )
    corpus = _with_drawn_splits(corpus, seed)
    return corpus if slots is None else _with_slots(corpus, slots, lines, source)


def check_split_field(name: str, known: Iterable[str]) -> None:
    """UnknownName for a field of splits, other than `split`, that a source does not have; UsageError if it has none."""
    if name == "split" or name in (fields := list(known)):
        return
    if not fields:
        raise UsageError(
            f"there is no split field '{name}', for this source has no fields; leave --split-field out"
        )
    raise UnknownName("split field", name, fields)


class _SplitNames:
    """Maps split names as written to ours; remembers what was renamed and whether rows lack one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[str, str] = {}
        self._first: tuple[bool, Line] | None = None

    def name(self, row: Row) -> str:
        stated = row.split is not None
        if self._first is None:
            self._first = (stated, row.line)
        elif self._first[0] != stated:
            raise self._source.error(
                row.line if not stated else self._first[1],
                "no split, though other rows have one; give every row a split or none",
            )
        if row.split is None:
            return ""
        if row.split not in self._known:
            name = canonical_split(row.split)
            if name is None:
                raise self._source.error(row.line, f"split '{row.split}' is not train, valid, test or foldN")
            self._known[row.split] = name
        return self._known[row.split]

    def notices(self) -> list[str]:
        return [f"split '{raw}' read as {name}" for raw, name in self._known.items() if raw != name]


def _check_labels(source: Source, row: Row, allowed: Mapping[str, set[str]]) -> None:
    for slot, label in row.labels.items():
        if slot not in allowed:
            raise source.error(row.line, f"slot '{slot}' is not in the header{_nearest(slot, allowed)}")
        if label not in allowed[slot]:
            near = _nearest(label, allowed[slot])
            raise source.error(row.line, f"label '{label}' of slot '{slot}' is not in the header{near}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else "; add it there or correct the row"


def _check_span(source: Source, row: Row) -> None:
    start, end = row.start_seconds, row.end_seconds
    if (start is not None and not start >= 0) or (end is not None and not end > (start or 0)):
        text = f"the span {start} to {end} s is not one; it must start at 0 or later and end after its start"
        raise source.error(row.line, text)


def _found_slots(utterances: Iterable[Utterance]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for utterance in utterances:
        for slot, label in utterance.labels.items():
            found.setdefault(slot, set()).add(label)
    return {slot: tuple(sorted(labels)) for slot, labels in found.items()}


def _with_slots(corpus: Corpus, slots: Sequence[str], lines: Mapping[str, Line], source: Source) -> Corpus:
    for slot in slots:
        if slot not in corpus.slots:
            raise UnknownName("slot", slot, corpus.slots)
    for utterance in corpus.utterances:
        for slot in slots:
            if slot not in utterance.labels:
                raise source.error(lines[utterance.id], f"'{utterance.id}' has no label for slot '{slot}'")
    return corpus.with_slots(slots)


def _with_drawn_splits(corpus: Corpus, seed: int) -> Corpus:
    """A corpus without splits gets all three; one with train and no valid gets a valid part of train."""
    splits = corpus.splits()
    if any(name.startswith("fold") for name in splits):
        if not all(name.startswith("fold") for name in splits):
            raise CorpusError(
                f"{corpus.name} mixes folds with other splits ({', '.join(splits)}); choose one"
            )
        return corpus
    if "" in splits:
        drawn, text = draw_splits(corpus.utterances, seed)
        notice = f"no splits given: {text}"
    elif "train" in splits and "valid" not in splits:
        training, text = draw_splits(corpus.split("train"), seed, names=("valid",))
        by_id = {u.id: u for u in training}
        drawn = tuple(by_id.get(u.id, u) for u in corpus.utterances)
        notice = f"no valid split given: of train, {text}"
    else:
        return corpus
    rule = notice if not corpus.split_rule else f"{corpus.split_rule}; {notice}"
    return replace(corpus, utterances=drawn, split_rule=rule, notices=(*corpus.notices, notice))


def label_text(value: str | int | None) -> str | None:
    """A label as text in Unicode NFC; None where there is none (absent or empty)."""
    return None if value is None else unicodedata.normalize("NFC", str(value).strip()) or None


def located(folder: Path, name: str) -> Path:
    """The file `name` beside a manifest, in whichever Unicode form the disk spells it.

    A name that is not there in any form is returned as written: readers of audio report it.
    """
    path = folder / name
    if name.isascii() or path.exists():
        return path
    found = folder
    for part in Path(name).parts:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        found = next((found / form for form in forms if (found / form).exists()), found / part)
    return found
