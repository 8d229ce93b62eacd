"""The corpora by name: list them, check a folder, prepare a manifest. Modules are imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from speechprompt.corpora.manifest_writer import Tally, tallied, write_manifest
from speechprompt.corpora.protocol import CorpusDescription, CorpusModule, Row
from speechprompt.corpora.results import CheckReport, PreparedCorpus
from speechprompt.corpora.source import Source, locate
from speechprompt.errors import CorpusError, UnknownName, UsageError

MODULES: Mapping[str, str] = {
    name: name.replace("-", "_")
    for name in (
        "google-speech-commands-v1",
        "google-speech-commands-v2",
        "grabo",
        "lithuanian-speech-commands",
        "arabic-speech-commands",
        "dysarthric-mandarin",
        "fluent-speech-commands",
        "voxforge",
        "asvspoof2019-la",
        "iemocap",
        "easycall",
        "accentdb",
        "mustard",
        "mustard-plus-plus",
        "voxceleb1",
        "speech-commands-freesound-vad",
        "esc-50",
        "esc-10",
        "fsdd",
        "audiomnist",
        "ravdess",
        "emodb",
        "crema-d",
        "common-voice",
        "vctk",
    )
}


def corpus_names() -> tuple[str, ...]:
    """The names of all corpora, those of the paper first."""
    return tuple(MODULES)


def describe(name: str) -> CorpusDescription:
    """The description of a corpus; UnknownName with the nearest names when there is none."""
    return _module(name).DESCRIPTION


def list_corpora() -> tuple[CorpusDescription, ...]:
    """The descriptions of all corpora, those of the paper first."""
    return tuple(describe(name) for name in MODULES)


def _module(name: str) -> CorpusModule:
    if name not in MODULES:
        raise UnknownName("corpus", name, MODULES)
    return cast(CorpusModule, importlib.import_module(f"speechprompt.corpora.{MODULES[name]}"))


def open_corpus(
    name: str,
    root: str | Path,
    *,
    split_rule: str | None = None,
    split_list: str | Path | None = None,
    variant: str | None = None,
    seed: int | None = None,
    skip_unreadable: bool = False,
) -> tuple[CorpusModule, Source]:
    """Resolve a `corpus` or `corpus:task` name and its options, and find the corpus in a folder.

    Raises UnknownName for a corpus, task, rule or variant that does not exist, UsageError for a split list
    that the corpus does not take, CorpusError when the folder is not this corpus.
    """
    corpus, _, task = name.partition(":")
    module = _module(corpus)
    description = module.DESCRIPTION
    for kind, value, known in (
        ("task", task or None, description.tasks),
        ("split rule", split_rule, description.split_rules),
        ("variant", variant, description.variants),
    ):
        if value is not None and value not in known:
            raise UnknownName(f"{kind} of {corpus}", value, known)
    if split_list is not None and not description.split_lists:
        raise UsageError(f"{corpus} takes no split list; leave --split-list out")
    variant = variant or description.default_variant
    rule = split_rule or description.default_rule(task or None, variant)
    if split_list is not None and rule not in ("paper", "folds"):
        raise UsageError(f"split rule '{rule}' reads no split list; leave --split-list or --split-rule out")
    given = Path(root)
    source = Source(
        description=description,
        given=given,
        root=locate(description, given),
        rule=rule,
        rule_was_named=split_rule is not None,
        task=task or None,
        variant=variant,
        seed=seed,
        split_list=None if split_list is None else Path(split_list),
        skip_unreadable=skip_unreadable,
    )
    return module, source


def prepare(
    name: str,
    root: str | Path,
    out: str | Path,
    *,
    split_rule: str | None = None,
    split_list: str | Path | None = None,
    variant: str | None = None,
    seed: int | None = None,
    skip_unreadable: bool = False,
    check: bool = False,
    force: bool = False,
) -> PreparedCorpus:
    """Write the manifest of a corpus folder; `name` is a corpus or `corpus:task`.

    `check` reads every audio header; `skip_unreadable` does too, and leaves out and counts what fails instead
    of stopping there. Raises what `open_corpus` raises, OutputExists, and CorpusError naming the first file
    that is missing or unreadable. Side effects: writes `out` and nothing else.
    """
    module, source = open_corpus(
        name,
        root,
        split_rule=split_rule,
        split_list=split_list,
        variant=variant,
        seed=seed,
        skip_unreadable=skip_unreadable,
    )
    tally, target = Tally(), Path(out)
    rows = _chosen(module, source, check or skip_unreadable)
    write_manifest(target, source.root, rows, tally, lambda: _header(source, tally), force)
    slots = _slots(source, tally)
    return PreparedCorpus(
        manifest=target,
        name=name,
        split_rule=source.rule,
        rows=tally.rows,
        splits=tally.rows_by_split(),
        slots=slots,
        skipped=source.skipped,
        notices=tuple(source.notices),
    )


def check(
    name: str,
    root: str | Path,
    *,
    split_rule: str | None = None,
    split_list: str | Path | None = None,
    variant: str | None = None,
    headers: bool = True,
) -> CheckReport:
    """Count a corpus folder against what is published, and list what is missing; writes nothing.

    `headers` also opens every audio file. Raises what `open_corpus` raises.
    """
    module, source = open_corpus(
        name, root, split_rule=split_rule, split_list=split_list, variant=variant, skip_unreadable=True
    )
    description, tally = source.description, Tally()
    for _ in tallied(_chosen(module, source, headers), tally):
        pass
    slots = _wanted_slots(source)
    return CheckReport(
        name=name,
        root=source.root,
        split_rule=source.rule,
        rows=tally.rows,
        published_rows=description.published_rows(source.rule, source.variant),
        splits=tally.rows_by_split(),
        published_splits=description.published_splits(source.rule, source.variant),
        labels=dict(tally.labels),
        published_labels={
            (slot, label): rows
            for slot, labels in description.published_labels.items()
            for label, rows in labels.items()
            if slot in slots and source.variant == description.default_variant
        },
        skipped=source.skipped,
        skipped_files=tuple(source.skipped_files),
        notices=tuple(source.notices),
    )


def _wanted_slots(source: Source) -> tuple[str, ...]:
    tasks = source.description.tasks
    if source.task is not None:
        return tasks[source.task]
    return tuple(dict.fromkeys(slot for slots in tasks.values() for slot in slots))


def _chosen(module: CorpusModule, source: Source, headers: bool) -> Iterator[Row]:
    """The rows of a reading with the labels of the chosen task, without rows that lack one of them."""
    wanted, unlabelled = _wanted_slots(source), 0
    for row in _read(module, source):
        if source.task is not None and row.labels.keys() != set(wanted):
            row = row._replace(labels={slot: row.labels[slot] for slot in wanted if slot in row.labels})
        if not row.labels or (source.task is not None and len(row.labels) < len(wanted)):
            unlabelled += 1
        elif not headers or source.header(row.audio) is not None:
            yield row
    if unlabelled:
        source.notice(f"{unlabelled} utterances without a label are left out")


def _read(module: CorpusModule, source: Source) -> Iterator[Row]:
    try:
        yield from module.rows(source)
    except OSError as error:
        place = error.filename or source.root
        raise CorpusError(
            f"{place} cannot be read ({error.strerror or error}); check its permissions and that the archive is whole"
        ) from None


def _slots(source: Source, tally: Tally) -> dict[str, tuple[str, ...]]:
    """The labels of each slot: those that occur, in the corpus's order, then any others sorted."""
    slots = {}
    for slot in _wanted_slots(source):
        found = tally.labels_of(slot)
        order = source.description.slots.get(slot, ())
        ordered = [label for label in order if label in found]
        slots[slot] = (*ordered, *sorted(found.keys() - set(order)))
    return {slot: labels for slot, labels in slots.items() if labels}


def _header(source: Source, tally: Tally) -> dict[str, Any]:
    """The header line of a manifest, with the notices that only the end of a reading can tell."""
    description = source.description
    if not tally.rows:
        raise CorpusError(
            f"{source.root} holds no utterance of {description.title}; "
            f"unpack the whole archive ({description.url}) and pass its folder"
        )
    if tally.repeated:
        source.notice(f"{tally.repeated} rows repeat an earlier one and are left out")
    if source.skipped:
        source.notice(f"{source.skipped} files are missing or unreadable and are left out")
    expected = description.published_rows(source.rule, source.variant)
    if expected is not None and tally.rows < expected:
        source.notice(
            f"{tally.rows} of the {expected} published utterances are here; `corpora check` says which"
        )
    header: dict[str, Any] = {
        "manifest": 1,
        "name": description.name if source.task is None else f"{description.name}:{source.task}",
        "licence": description.licence,
        "citation": description.citation,
        "split_rule": f"{source.rule}: {description.split_rules[source.rule]}",
        "slots": {slot: list(labels) for slot, labels in _slots(source, tally).items()},
    }
    meanings = {
        slot: dict(words) for slot, words in description.label_meanings.items() if slot in header["slots"]
    }
    optional = {
        "variant": source.variant,
        "seed": source.seed,
        "label_meanings": meanings or None,
        "skipped": source.skipped or None,
        "skipped_files": source.skipped_files or None,
        "notices": source.notices or None,
    }
    return header | {key: value for key, value in optional.items() if value is not None}
