"""What preparing and checking a corpus folder report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PreparedCorpus:
    """What `prepare` wrote: rows per split, files left out, and the lines a user should be told."""

    manifest: Path
    name: str
    split_rule: str
    rows: int
    splits: Mapping[str, int]
    slots: Mapping[str, tuple[str, ...]]
    skipped: int
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A corpus folder against what is published.

    `splits` and `labels` ((split, slot, label)) count rows found; `published_splits` and `published_labels`
    (slot, label) hold what is published for this rule, where it is known. `skipped_files` names the first of
    the `skipped` files that are listed but absent or unreadable.
    """

    name: str
    root: Path
    split_rule: str
    rows: int
    published_rows: int | None
    splits: Mapping[str, int]
    published_splits: Mapping[str, int]
    labels: Mapping[tuple[str, str, str], int]
    published_labels: Mapping[tuple[str, str], int]
    skipped: int
    skipped_files: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def label_rows(self) -> list[tuple[str, str, dict[str, int], int | None]]:
        """A row a label, in the order of the slots' labels: slot, label, rows per split, and those published in all."""
        found: dict[tuple[str, str], dict[str, int]] = {
            pair: dict.fromkeys(self.splits, 0) for pair in self.published_labels
        }
        for (split, slot, label), rows in sorted(self.labels.items(), key=lambda item: item[0][1:]):
            counts = found.setdefault((slot, label), dict.fromkeys(self.splits, 0))
            counts[split] += rows
        return [
            (slot, label, counts, self.published_labels.get((slot, label)))
            for (slot, label), counts in found.items()
        ]

    @property
    def differences(self) -> tuple[str, ...]:
        """One line per count that is not the published one; empty when the folder is complete."""
        lines = []
        if self.skipped:
            lines.append(f"{self.skipped} files are missing or unreadable, first: {self.skipped_files[0]}")
        if self.published_rows not in (None, self.rows):
            lines.append(f"{self.rows} of {self.published_rows} utterances")
        for split, published in self.published_splits.items():
            if self.splits.get(split, 0) != published:
                lines.append(f"{split}: {self.splits.get(split, 0)} of {published} utterances")
        found: Counter[tuple[str, str]] = Counter()
        for (_, slot, label), rows in self.labels.items():
            found[slot, label] += rows
        for (slot, label), published in self.published_labels.items():
            if found[slot, label] != published:
                lines.append(f"{slot} {label}: {found[slot, label]} of {published} utterances")
        return tuple(lines)

    @property
    def compared(self) -> bool:
        """Whether any count is published for this rule."""
        return bool(self.published_rows is not None or self.published_splits or self.published_labels)

    @property
    def complete(self) -> bool:
        """Whether every published count was met and nothing was missing; `compared` says if there are any."""
        return not self.differences
