"""The commands `corpora list`, `check` and `prepare`: from folders as their authors publish them to manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import Force, Out, SkipUnreadable, add_command, with_terminal
from speechprompt.cli.terminal import Terminal, next_command, pairs, table

if TYPE_CHECKING:
    from speechprompt.corpora.protocol import CorpusDescription
    from speechprompt.corpora.results import CheckReport, PreparedCorpus

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `speechprompt corpora`, or NAME:TASK.")]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The unpacked folder of the corpus.")]
SplitRule = Annotated[
    str | None, typer.Option("--split-rule", metavar="RULE", help="Which of the corpus's ways to split.")
]
SplitList = Annotated[
    Path | None,
    typer.Option("--split-list", metavar="FILE", help="A list that names the split of each file."),
]
Variant = Annotated[
    str | None, typer.Option("--variant", metavar="VARIANT", help="Which version of the corpus to read.")
]


LABELS_SHOWN = 60


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Corpora of the paper and their neighbours, by name.", rich_markup_mode=None)
    group.callback(invoke_without_command=True)(with_terminal(default))
    add_command(group, list_all, "speechprompt corpora list esc-50", name="list")
    add_command(group, check, "speechprompt corpora check esc-50 ESC-50-master/")
    add_command(
        group, prepare, "speechprompt corpora prepare fsdd free-spoken-digit-dataset/ --out fsdd.jsonl"
    )
    app.add_typer(group, name="corpora")


def default(terminal: Terminal, context: typer.Context) -> None:
    """Corpora of the paper and their neighbours, by name; without a command, list them."""
    if context.invoked_subcommand is None:
        list_all(terminal)


def list_all(
    terminal: Terminal,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Only these, with how they can be split; by default all."),
    ] = None,
) -> None:
    """List the corpora: tasks, languages, hours, licence, where to get them and what is needed by hand."""
    from speechprompt.corpora.registry import describe, list_corpora

    found = [describe(name) for name in names] if names else list_corpora()
    parts = [line for about in found for line in _entry(about, in_full=bool(names))]
    terminal.show([_entry_document(about) for about in found], *parts)


def _entry(about: CorpusDescription, in_full: bool) -> list[str]:
    """The lines of one corpus; what is not published is left out."""
    hours = f"{about.hours:g} h" if about.hours else None
    published = _utterances(about)
    count = f"{published:,} utterances" if published else None
    size = ", ".join(part for part in (", ".join(about.languages), hours, count) if part)
    facts = {
        "tasks": ", ".join(f"{about.name}:{task}" for task in about.tasks),
        "licence": about.licence,
        "from": about.url,
        "by hand": about.by_hand or None,
    }
    if in_full:
        rules = {f"split {name}": text for name, text in about.split_rules.items()}
        variants = {f"variant {name}": text for name, text in about.variants.items()}
        facts |= {**rules, **variants, "cite": about.citation}
    return [
        f"{about.name}  {about.title}" + (f" ({size})" if size else ""),
        *(f"    {name}: {value}" for name, value in facts.items() if value),
    ]


def _utterances(about: CorpusDescription) -> int | None:
    """How many utterances are published for what is read by default."""
    variant = about.default_variant
    return about.published_rows(about.default_rule(variant=variant), variant) or about.utterances


def _entry_document(about: CorpusDescription) -> dict[str, Any]:
    return {
        "name": about.name,
        "title": about.title,
        "tasks": {task: list(slots) for task, slots in about.tasks.items()},
        "languages": list(about.languages),
        "utterances": _utterances(about),
        "hours": about.hours,
        "licence": about.licence,
        "citation": about.citation,
        "url": about.url,
        "by_hand": about.by_hand,
        "split_rules": dict(about.split_rules),
        "split_lists": list(about.split_lists),
        "variants": dict(about.variants),
    }


def check(
    terminal: Terminal,
    name: Name,
    root: Root,
    split_rule: SplitRule = None,
    split_list: SplitList = None,
    variant: Variant = None,
    headers: Annotated[bool, typer.Option(help="Open every audio file.")] = True,
) -> None:
    """Count a corpus folder against what is published; nothing is written. The exit code is 1 when counts differ."""
    from speechprompt.corpora.registry import check as check_folder

    report = check_folder(
        name, root, split_rule=split_rule, split_list=split_list, variant=variant, headers=headers
    )
    for notice in report.notices:
        terminal.notice(notice)
    terminal.show(_check_document(report), *_check_parts(report))
    if not report.complete:
        raise typer.Exit(1)


def _check_document(report: CheckReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "root": str(report.root),
        "split_rule": report.split_rule,
        "rows": report.rows,
        "published_rows": report.published_rows,
        "splits": dict(report.splits),
        "published_splits": dict(report.published_splits),
        "labels": [
            {"slot": slot, "label": label, **counts, "published": published}
            for slot, label, counts, published in report.label_rows
        ],
        "differences": list(report.differences),
        "skipped_files": list(report.skipped_files),
        "notices": list(report.notices),
        "complete": report.complete,
        "compared": report.compared,
    }


def _check_parts(report: CheckReport) -> list[Any]:
    rows = [(split, count, report.published_splits.get(split, "")) for split, count in report.splits.items()]
    met = (
        "every published count is met"
        if report.compared
        else "no count is published for this: nothing was compared"
    )
    verdict = met if report.complete else "not as published:"
    title = f"{report.name} in {report.root}, split rule {report.split_rule}"
    splits, labels = list(report.splits), report.label_rows
    cells = [
        (slot, label, *(counts[split] for split in splits), "" if published is None else published)
        for slot, label, counts, published in labels[:LABELS_SHOWN]
    ]
    rest = len(labels) - len(cells)
    return [
        title, table(("split", "found", "published"), rows), "",
        table(("slot", "label", *splits, "published"), cells),
        *([f"and {rest} labels more; --json lists them all"] if rest else []), "", verdict,
        *(f"  {line}" for line in report.differences),
    ]  # fmt: skip


def prepare(
    terminal: Terminal,
    name: Name,
    root: Root,
    out: Out,
    split_rule: SplitRule = None,
    split_list: SplitList = None,
    variant: Variant = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="For rules that draw; by default the rule's own.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read the header of every audio file, and stop at a damaged one.")
    ] = False,
    skip_unreadable: SkipUnreadable = False,
    force: Force = False,
) -> None:
    """Write the manifest of a corpus folder; the folder itself is not touched."""
    from speechprompt.corpora.registry import prepare as prepare_folder

    prepared = prepare_folder(
        name, root, out, split_rule=split_rule, split_list=split_list, variant=variant, seed=seed,
        check=check, skip_unreadable=skip_unreadable, force=force,
    )  # fmt: skip
    for notice in prepared.notices:
        terminal.notice(notice)
    terminal.show(_prepared_document(prepared), *_prepared_parts(prepared))


def _prepared_document(prepared: PreparedCorpus) -> dict[str, Any]:
    return {
        "manifest": str(prepared.manifest),
        "name": prepared.name,
        "split_rule": prepared.split_rule,
        "rows": prepared.rows,
        "splits": dict(prepared.splits),
        "slots": {slot: list(labels) for slot, labels in prepared.slots.items()},
        "skipped": prepared.skipped,
        "notices": list(prepared.notices),
    }


def _prepared_parts(prepared: PreparedCorpus) -> list[Any]:
    facts = {
        "manifest": str(prepared.manifest),
        "utterances": ", ".join(f"{split} {count}" for split, count in prepared.splits.items()),
        "labels": ", ".join(f"{slot} {len(labels)}" for slot, labels in prepared.slots.items()),
        "split rule": prepared.split_rule,
        "left out": prepared.skipped or None,
    }
    return [
        pairs(facts),
        next_command("train", prepared.manifest, "--out", f"prompts/{Path(prepared.name).name}"),
    ]
