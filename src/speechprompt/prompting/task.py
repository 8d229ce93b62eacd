"""What a prompt is trained to answer: a task with one slot or several, each an ordered tuple of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from speechprompt.errors import CorpusError, UnknownName
from speechprompt.speech.manifest import Corpus, Utterance


@dataclass(frozen=True, slots=True)
class Task:
    """A name and its slots; the order of slots and labels is part of the task."""

    name: str
    slots: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for slot, labels in self.slots.items():
            if len(labels) < 2:
                raise CorpusError(f"slot '{slot}' has {len(labels)} label; a task needs at least two")
            if len(set(labels)) != len(labels):
                raise CorpusError(f"slot '{slot}' names a label twice")

    def targets(self, utterances: Iterable[Utterance]) -> list[list[int]]:
        """Label indices, a row an utterance and a column a slot. CorpusError names what does not fit."""
        places = {slot: {label: i for i, label in enumerate(labels)} for slot, labels in self.slots.items()}
        rows = []
        for utterance in utterances:
            row = []
            for slot, place in places.items():
                label = utterance.labels.get(slot)
                if label is None:
                    raise CorpusError(
                        f"utterance '{utterance.id}' has no label for {slot} of task '{self.name}'; add it, or leave "
                        "the utterance out"
                    )
                if label not in place:
                    raise CorpusError(
                        f"utterance '{utterance.id}' has {slot} '{label}', which task '{self.name}' does not know; "
                        "leave it out, or train with it"
                    )
                row.append(place[label])
            rows.append(row)
        return rows

    @classmethod
    def of_corpus(cls, corpus: Corpus, slots: Iterable[str] | None = None, name: str | None = None) -> Task:
        """The task that a corpus's slots (all of them, or those named) pose."""
        chosen = list(slots) if slots is not None else list(corpus.slots)
        for slot in chosen:
            if slot not in corpus.slots:
                raise UnknownName("slot", slot, corpus.slots)
        if not chosen:
            raise CorpusError(f"corpus '{corpus.name}' has no labels")
        return cls(name or "+".join(chosen), {slot: tuple(corpus.slots[slot]) for slot in chosen})
