"""Commands about a labelled source alone: doctor, encode, baseline."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import (
    Device,
    Dtype,
    Force,
    LmName,
    Out,
    Seed,
    SkipUnreadable,
    SlotNames,
    Source,
    SplitField,
    SplitName,
    Threads,
    add_command,
    check_writable,
    names_of,
)
from speechprompt.cli.materials import encoded, only_splits, open_spoken_lm, read_source
from speechprompt.cli.terminal import Terminal, interval, next_command, pairs, percent, table
from speechprompt.errors import OutputExists

if TYPE_CHECKING:
    from speechprompt.speech.doctor import DoctorReport
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    add_command(app, doctor, "speechprompt doctor clips/")
    add_command(app, encode, "speechprompt encode clips/ --lm tiny --out clips.jsonl.gz")
    add_command(app, baseline, "speechprompt baseline clips/ --slots colour")


def doctor(
    terminal: Terminal,
    source: Source,
    slots: SlotNames = None,
    split_field: SplitField = "split",
    read_audio: Annotated[bool, typer.Option(help="Decode every clip; without, look at rows only.")] = True,
) -> None:
    """Look for what spoils a corpus: unreadable, silent or repeated clips, leakage, uneven labels.

    Nothing is changed. The exit code is 1 when something is wrong, 0 when there are warnings at most.
    """
    from speechprompt.speech.doctor import examine

    corpus = read_source(source, terminal, names_of(slots), split_field, skip_unreadable=True)
    with terminal.progress("listening") as progress:
        report = examine(corpus, read_audio, progress.update)
    terminal.show({**report.to_json(), "healthy": report.healthy}, *_doctor_parts(report))
    if not report.healthy:
        raise typer.Exit(1)


def _doctor_parts(report: DoctorReport) -> list[Any]:
    durations, rates = report.durations, ", ".join(f"{rate} Hz" for rate in report.sample_rates)
    lasting = durations and (
        f"{durations.total_hours:.2f} h; clips {durations.minimum_seconds:.2f} to "
        f"{durations.maximum_seconds:.2f} s, median {durations.median_seconds:.2f} s"
    )
    facts = {
        "corpus": report.corpus,
        "utterances": ", ".join(f"{split} {count}" for split, count in report.splits.items()),
        "speakers": ", ".join(f"{split} {count}" for split, count in report.speakers.items() if count)
        or None,
        "labels": ", ".join(f"{slot} {len(next(iter(v.values()), {}))}" for slot, v in report.labels.items()),
        "audio": f"{lasting}; {rates}" if lasting else None,
        "silence": None if report.silence_share is None else percent(report.silence_share),
    }
    findings = [
        (finding.severity, finding.text, ", ".join(finding.utterances[:3])) for finding in report.findings
    ]
    verdict = "healthy" if report.healthy else "not healthy: see the errors above"
    return [pairs(facts), "", table(("", "finding", "first utterances"), findings), "", verdict]


def encode(
    terminal: Terminal,
    source: Source,
    out: Out,
    lm: LmName = "tiny",
    slots: SlotNames = None,
    split_field: SplitField = "split",
    skip_unreadable: SkipUnreadable = False,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Turn the audio of a corpus into units and write them as a manifest, which trains without its audio.

    Units are kept in the cache as well: a command that was stopped goes on where it was.
    """
    from speechprompt.speech.manifest import write_manifest

    if out.exists() and not force:
        raise OutputExists(out)
    check_writable(out)
    corpus = read_source(source, terminal, names_of(slots), split_field, skip_unreadable)
    spoken_lm = open_spoken_lm(lm, device, threads=threads)
    corpus = encoded(corpus, spoken_lm, terminal, skip_unreadable, any_length=True)
    write_manifest(corpus, out, force)
    units = sum(len(u.units) for u in corpus.utterances if u.units is not None)
    document = {
        "manifest": str(out),
        "utterances": len(corpus.utterances),
        "units": units,
        "lm": spoken_lm.name,
    }
    terminal.show(
        document,
        f"{len(corpus.utterances)} utterances, {units:,} units of {spoken_lm.tokenizer_name} in {out}",
        next_command("train", out, "--lm", lm, "--out", f"prompts/{corpus.name}"),
    )


def baseline(
    terminal: Terminal,
    source: Source,
    lm: LmName = "tiny",
    split: SplitName = "test",
    slots: SlotNames = None,
    split_field: SplitField = "split",
    skip_unreadable: SkipUnreadable = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """What a prompt has to beat: the majority label, unit n-grams, a linear probe on the LM's hidden states.

    They train on the train split and answer the split that is scored; all slots count as one label. Units of
    another tokenizer than the LM's leave the probe out.
    """
    from speechprompt.evaluation.evaluate import BASELINES, run_baselines
    from speechprompt.speech.splits import require_labels

    chosen = names_of(slots)
    corpus = read_source(source, terminal, chosen, split_field, skip_unreadable)
    corpus = only_splits(corpus, Counter(["train", *(["valid"] if corpus.split("valid") else []), split]))
    require_labels(corpus)
    spoken_lm = open_spoken_lm(lm, device, dtype, threads)
    names = list(BASELINES)
    if _foreign_units(corpus, spoken_lm):
        names.remove("probe")
        terminal.notice(
            f"the units are of {corpus.tokenizer}, which {spoken_lm.name} does not read: no probe"
        )
    else:
        corpus = encoded(corpus, spoken_lm, terminal, skip_unreadable)
    with terminal.progress("baselines") as progress:
        results = []
        for done, name in enumerate(names):
            progress.update(done, len(names), name)
            results += run_baselines(spoken_lm, corpus, list(corpus.slots), split, [name], seed)
    rows = [(r.name, interval(r.interval), f"{100 * r.macro_f1:.1f}", r.trained_parameters) for r in results]
    title = f"{corpus.name}, {len(corpus.split(split))} utterances of {split}"
    document = {
        "corpus": corpus.name,
        "split": split,
        "slots": list(corpus.slots),
        "utterances": len(corpus.split(split)),
        "baselines": [
            {
                "name": r.name,
                "accuracy": {"estimate": r.interval.estimate, "low": r.interval.low, "high": r.interval.high},
                "macro_f1": r.macro_f1,
                "trained_parameters": r.trained_parameters,
                "seconds": r.seconds,
            }
            for r in results
        ],
    }
    terminal.show(document, title, table(("baseline", "accuracy % [95 %]", "macro-F1 %", "parameters"), rows))


def _foreign_units(corpus: Corpus, spoken_lm: SpokenLM) -> bool:
    """Whether every utterance has units, of a tokenizer that is known and not the LM's."""
    whole = all(u.units is not None for u in corpus.utterances)
    return whole and corpus.tokenizer is not None and corpus.tokenizer != spoken_lm.tokenizer_name
