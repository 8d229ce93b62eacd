"""The material of a table's row: its corpus found and unpacked, and its rounds, each with train, valid and test."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from speechprompt.errors import CorpusError, WorkError
from speechprompt.evaluation.baselines import WHOLE, slot_labels
from speechprompt.evaluation.summary import interval_groups
from speechprompt.experiments.table_rows import TableRow
from speechprompt.prompting.task import Task
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.recordings import distinct
from speechprompt.speech.splits import draw_splits, folds, require_trainable, shots, with_fold
from speechprompt.speech.unit_store import file_key


class AbsentMaterial(WorkError):
    """Data or a spoken LM that is not on this machine; the message says which."""


@dataclass(frozen=True)
class Round:
    """One division of a corpus that carries units: `seed` draws what methods draw."""

    corpus: Corpus
    task: Task
    seed: int
    name: str

    def rows(self, split: str) -> tuple[Utterance, ...]:
        """The utterances of a split."""
        return self.corpus.split(split)

    def labels(self, split: str) -> list[str]:
        """All slots of each utterance as one label."""
        return labels_of(self.task, self.rows(split))

    @cached_property
    def units_digest(self) -> str:
        """Hash of every utterance's split, name, labels and units."""
        return self._digest(
            [b"" if u.units is None else u.units.ids.tobytes() for u in self.corpus.utterances]
        )

    @cached_property
    def prosody_digest(self) -> str:
        """Hash of how long every unit lasts and of its F0, for methods that read those too."""
        streams = [
            (None, None) if u.units is None else (u.units.durations, u.units.f0)
            for u in self.corpus.utterances
        ]
        return self._digest([b"/".join(b"" if x is None else x.tobytes() for x in pair) for pair in streams])

    @cached_property
    def audio_digest(self) -> str:
        """The same with audio instead of units. CorpusError when there is none."""
        return self._digest([key.encode() for key in audio_keys(self.corpus)])

    def _digest(self, contents: Sequence[bytes]) -> str:
        digest = hashlib.sha256(repr(dict(self.task.slots)).encode())
        for u, content in zip(self.corpus.utterances, contents, strict=True):
            labels = [u.labels[slot] for slot in self.task.slots]
            digest.update(repr((u.split, u.id, labels, len(content))).encode() + content)
        return digest.hexdigest()


def labels_of(task: Task, utterances: Sequence[Utterance]) -> list[str]:
    """All slots of each utterance as one label."""
    return slot_labels([{slot: u.labels[slot] for slot in task.slots} for u in utterances], WHOLE)


def audio_keys(corpus: Corpus) -> list[str]:
    """A key of each utterance's audio. CorpusError when one has none."""
    keys = []
    for u in corpus.utterances:
        if u.audio is None:
            raise CorpusError(f"{corpus.name}: '{u.id}' has no audio")
        keys.append(file_key(u.audio, u.start_seconds, u.end_seconds))
    return keys


def find_source(row: TableRow, material: Path, unpacked: Path) -> Path:
    """The manifest of a row; an archive is unpacked into `unpacked`, again only where it has changed.

    AbsentMaterial when it is not there, CorpusError when it cannot be unpacked.
    """
    path = material / row.source
    if not path.exists():
        raise AbsentMaterial(f"{row.source} is not below {material}")
    if path.suffix != ".tar":
        return path
    status = path.stat()
    target = unpacked / f"{path.stem}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not target.exists():
        unpacked.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=unpacked))
        try:
            with tarfile.open(path) as members:
                members.extractall(scratch, filter="data")
            (scratch / path.stem).replace(target)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise CorpusError(f"{path} cannot be unpacked to a folder {path.stem} ({error})") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target / "manifest.jsonl"


def read_row(row: TableRow, source: Path) -> Corpus:
    """The corpus of a row: its slots, without the labels that it drops, with a valid split."""
    corpus = Corpus.read(source, list(row.slots))
    kept = [
        u
        for u in corpus.utterances
        if all(u.labels[slot] not in dropped for slot, dropped in row.without.items())
        and not (row.development and u.split == "test")
    ]
    if row.development and not corpus.split("test"):
        raise CorpusError(f"{source} has no test split, so no clip of it is for development alone")
    slots = {
        slot: tuple(label for label in labels if label not in row.without.get(slot, ()))
        for slot, labels in corpus.slots.items()
    }
    corpus = replace(corpus, utterances=tuple(kept), slots=slots)
    corpus = distinct(corpus) if row.without_copies else corpus
    return _validated(corpus) if row.valid == "utterances" and row.folds is None else corpus


def _validated(corpus: Corpus) -> Corpus:
    """A tenth of what is not test drawn to validate, whoever speaks: for tests whose speakers also train."""
    learnt = [replace(u, split="train", speaker=None) for u in corpus.utterances if u.split != "test"]
    split_of = {u.id: u.split for u in draw_splits(learnt, 0, ("valid",))[0]}
    utterances = tuple(replace(u, split=split_of.get(u.id, u.split)) for u in corpus.utterances)
    return replace(corpus, utterances=utterances)


def rounds_of(row: TableRow, corpus: Corpus, seeds: int, shot: int | None = None) -> list[Round]:
    """The rounds of a row on its encoded corpus: a seed each, or a fold each; with `shot` few training utterances.

    CorpusError when a round cannot be trained.
    """
    task = Task.of_corpus(corpus)
    if row.folds is not None:
        parts = [with_fold(corpus, fold) for fold in folds(corpus, row.folds)]
        found = [Round(part, task, 0, f"fold{i}") for i, part in enumerate(parts, start=1)]
    else:
        found = [Round(corpus, task, seed, f"seed{seed}") for seed in range(seeds)]
    if shot is not None:
        found = [replace(one, corpus=_few(one.corpus, shot, one.seed)) for one in found]
    for one in found:
        require_trainable(one.corpus)
    return found


def _few(corpus: Corpus, shot: int, seed: int) -> Corpus:
    """So many utterances a label to train on, and as many to validate on."""
    return shots(corpus, None, shot, seed, ("train", "valid"))


def drawn_groups(utterances: Sequence[Utterance]) -> Sequence[str] | None:
    """What an interval over these utterances draws (`interval_groups`)."""
    return interval_groups([u.speaker for u in utterances], [u.id for u in utterances])
