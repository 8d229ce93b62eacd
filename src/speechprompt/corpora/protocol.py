"""What a corpus module says of itself, and the row it yields.

A corpus module holds `DESCRIPTION` and `rows(source)`. It knows its own folder layout and nothing of
manifests, options on the command line or other corpora.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from speechprompt.corpora.source import Source

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """One utterance of a corpus: `audio` is relative to the corpus folder, with forward slashes.

    `start_seconds` and `end_seconds` cut a span out of the file. `id` defaults to the path without its
    suffix. A label that the corpus does not know for this row is left out of `labels`.
    """

    audio: str
    split: str
    labels: Mapping[str, str]
    speaker: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    extra: Mapping[str, Any] = NOTHING
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusDescription:
    """Everything that is known of a corpus before its folder is opened.

    `tasks` maps a task to its slots, `slots` a slot to its label order (empty: sorted as found). `marks` are
    glob patterns of which one must match inside the corpus folder, `parts` names folders that together are
    the corpus, should a user point at one of them. The first of `split_rules` and of `variants` is the
    default; `default_rules` overrides it for a task or a variant. `published` counts rows per split for a
    rule (default variant) or `rule/variant`; `published_labels` counts rows per slot and label of the default
    variant.
    """

    name: str
    title: str
    tasks: Mapping[str, tuple[str, ...]]
    languages: tuple[str, ...]
    url: str
    licence: str
    citation: str
    marks: tuple[str, ...]
    split_rules: Mapping[str, str]
    slots: Mapping[str, tuple[str, ...]]
    hours: float | None = None
    utterances: int | None = None
    by_hand: str = ""
    parts: tuple[str, ...] = ()
    default_rules: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)
    split_lists: tuple[str, ...] = ()
    published: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    published_labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    label_meanings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def default_rule(self, task: str | None = None, variant: str | None = None) -> str:
        """The split rule that applies when none is named."""
        for key in (task, variant):
            if key is not None and key in self.default_rules:
                return self.default_rules[key]
        return next(iter(self.split_rules))

    @property
    def default_variant(self) -> str | None:
        """The variant that applies when none is named; None where there are none."""
        return next(iter(self.variants), None)

    def published_splits(self, rule: str, variant: str | None) -> Mapping[str, int]:
        """Published rows per split, empty where they are not known."""
        found = self.published.get(f"{rule}/{variant}")
        if found is None and variant == self.default_variant:
            found = self.published.get(rule)
        return found or {}

    def published_rows(self, rule: str, variant: str | None) -> int | None:
        """How many rows are published in all, None where that is not known."""
        splits = self.published_splits(rule, variant)
        if splits.keys() & {"train", "fold1"}:
            return sum(splits.values())
        return self.utterances if variant == self.default_variant else None

    @property
    def rows_offered(self) -> tuple[str, ...]:
        """The `corpus:task` names that this corpus answers to."""
        return tuple(f"{self.name}:{task}" for task in self.tasks)


class CorpusModule(Protocol):
    """The two names that every corpus module defines."""

    DESCRIPTION: CorpusDescription

    def rows(self, source: Source) -> Iterator[Row]:
        """The utterances of an opened corpus folder, in a fixed order."""
        ...
