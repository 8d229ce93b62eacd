"""A corpus in memory, and its manifest on disk (JSON lines, optionally gzipped)."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from speechprompt.errors import CorpusError, OutputExists, UnknownName
from speechprompt.speech.units import Units

MANIFEST_VERSION = 1
ROW_KEYS = frozenset(
    ("id", "audio", "start_seconds", "end_seconds", "units", "durations", "f0", "split", "labels", "speaker")
)
HEADER_KEYS = frozenset(("manifest", "name", "slots", "tokenizer", "licence", "citation", "split_rule"))


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a corpus: audio (a file, or a span of one), or units, or both.

    `start_seconds` and `end_seconds` cut a span out of `audio`; None means the file's ends. `labels` maps
    slot to label. `extra` keeps the manifest keys that this class does not know. `speed_copies` are units of
    the same audio played at other speeds, for training alone; a manifest does not hold them.
    """

    id: str
    split: str
    labels: Mapping[str, str]
    audio: Path | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    units: Units | None = None
    speaker: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    speed_copies: Mapping[float, Units] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoldDraw:
    """The round of cross-validation that a corpus's splits are: fold `number`, from 1, of `count` is its test split.

    `seed` drew the folds; `digest` is a hash of the ids in each split.
    """

    number: int
    count: int
    seed: int
    digest: str


@dataclass(frozen=True, slots=True)
class ShotsDraw:
    """How splits of a corpus were thinned: `count` utterances of each for each combination of labels of `slots`."""

    count: int
    seed: int
    slots: tuple[str, ...]
    splits: tuple[str, ...] = ("train",)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Utterances with splits and labels.

    `slots` maps slot to its ordered labels. `tokenizer` names what made the units, if rows carry units.
    `notices` are the lines a user should be told (splits drawn here, rows skipped). `header` keeps the
    manifest's header keys that this class does not know. `fold` and `shots` are what was drawn of a whole corpus;
    a manifest, which states its splits, does not hold them. `left_out` are files that were found and are no
    utterances, with why.
    """

    name: str
    utterances: tuple[Utterance, ...]
    slots: Mapping[str, tuple[str, ...]]
    tokenizer: str | None = None
    licence: str | None = None
    citation: str | None = None
    split_rule: str | None = None
    notices: tuple[str, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)
    fold: FoldDraw | None = None
    shots: ShotsDraw | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        source: str | Path,
        slots: Sequence[str] | None = None,
        split_field: str = "split",
        seed: int = 0,
        skip_unreadable: bool = False,
    ) -> Corpus:
        """Read a manifest, folder, table or data set id; see `readers.read_corpus`."""
        from speechprompt.speech.readers import read_corpus

        return read_corpus(source, slots, split_field, seed, skip_unreadable)

    @classmethod
    def from_folder(cls, folder: str | Path, slots: Sequence[str] | None = None, seed: int = 0) -> Corpus:
        """Read a folder: one that holds manifest.jsonl or metadata.csv, or a folder of label folders."""
        if not Path(folder).is_dir():
            raise CorpusError(f"{folder} is not a folder; Corpus.read takes files and data set ids")
        return cls.read(Path(folder), slots, seed=seed)

    def split(self, name: str) -> tuple[Utterance, ...]:
        """The utterances of one split, in order; empty when there are none."""
        return tuple(u for u in self.utterances if u.split == name)

    def splits(self) -> dict[str, int]:
        """How many utterances each split holds; train, valid, test first, then folds in order."""
        counts: dict[str, int] = {}
        for utterance in self.utterances:
            counts[utterance.split] = counts.get(utterance.split, 0) + 1
        order = {"train": "0", "valid": "1", "test": "2"}
        return dict(sorted(counts.items(), key=lambda item: (order.get(item[0], "3"), len(item[0]), item[0])))

    def with_slots(self, slots: Sequence[str]) -> Corpus:
        """The same utterances with these slots only, in this order.

        UnknownName: a slot that the corpus lacks. CorpusError: an utterance without a label for one of them.
        """
        for slot in slots:
            if slot not in self.slots:
                raise UnknownName("slot", slot, self.slots)
        utterances = tuple(
            replace(u, labels={slot: _label(u, slot, self.name) for slot in slots}) for u in self.utterances
        )
        return replace(self, utterances=utterances, slots={slot: self.slots[slot] for slot in slots})


def _label(utterance: Utterance, slot: str, corpus: str) -> str:
    if slot not in utterance.labels:
        raise CorpusError(f"{corpus}: utterance '{utterance.id}' has no label for slot '{slot}'; add one")
    return utterance.labels[slot]


def write_manifest(corpus: Corpus, path: str | Path, force: bool = False) -> Path:
    """Write a corpus as a manifest; `.gz` compresses it. Reading it back gives the same corpus.

    Keys of `extra` and `header` that a manifest has itself (`ROW_KEYS`, `HEADER_KEYS`) are left out.

    Audio paths become relative to the manifest. Equal corpora give equal bytes. OutputExists without `force`.
    Side effects: creates the folder; writes a temporary file beside `path` and moves it into place.
    """
    path = Path(path)
    if path.exists() and not force:
        raise OutputExists(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as raw:
            if path.suffix == ".gz":
                # no file name and no time in the gzip header: equal corpora, equal bytes
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as compressed:
                    _write_lines(corpus, path, compressed)
            else:
                _write_lines(corpus, path, raw)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _write_lines(corpus: Corpus, path: Path, out: IO[bytes] | gzip.GzipFile) -> None:
    # the backslash form of half a character, which a file name that is not UTF-8 holds, is a valid JSON escape
    with io.TextIOWrapper(out, encoding="utf-8", errors="backslashreplace", newline="\n") as text:
        for row in _rows(corpus, path):
            text.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def _rows(corpus: Corpus, path: Path) -> Iterator[dict[str, Any]]:
    known = {
        "tokenizer": corpus.tokenizer,
        "licence": corpus.licence,
        "citation": corpus.citation,
        "split_rule": corpus.split_rule,
    }
    header = {"manifest": MANIFEST_VERSION, "name": corpus.name}
    header |= {key: value for key, value in known.items() if value is not None}
    header |= {"slots": {slot: list(labels) for slot, labels in corpus.slots.items()}}
    yield header | _without(corpus.header, HEADER_KEYS)
    folder = os.path.realpath(path.parent)
    real: dict[Path, str] = {}
    for utterance in corpus.utterances:
        row: dict[str, Any] = {"id": utterance.id}
        if (audio := utterance.audio) is not None:
            parent = real.setdefault(audio.parent, os.path.realpath(audio.parent))
            row["audio"] = Path(os.path.relpath(Path(parent, audio.name), folder)).as_posix()
        yield row | _fields(utterance)


def _fields(utterance: Utterance) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "start_seconds": utterance.start_seconds,
        "end_seconds": utterance.end_seconds,
    }
    if (units := utterance.units) is not None:
        fields["units"] = units.ids.tolist()
        fields["durations"] = None if units.durations is None else units.durations.tolist()
        # the shortest decimals that give back the same float32
        fields["f0"] = None if units.f0 is None else [float(str(value)) for value in units.f0]
    fields |= {"split": utterance.split, "labels": dict(utterance.labels), "speaker": utterance.speaker}
    known = {key: value for key, value in fields.items() if value is not None}
    return known | _without(utterance.extra, ROW_KEYS)


def _without(fields: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}
