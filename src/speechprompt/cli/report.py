"""The command `report`: one HTML file about one prompt on one source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechprompt.cli.commands import (
    ArtifactLm,
    Copies,
    Device,
    Dtype,
    Force,
    Out,
    Seed,
    SkipUnreadable,
    Source,
    SplitField,
    SplitName,
    Threads,
    add_command,
    check_writable,
)
from speechprompt.cli.evaluate import Baselines, baseline_names, corpus_for, scored
from speechprompt.cli.materials import heard_again, open_artifacts
from speechprompt.cli.show import Folder
from speechprompt.cli.terminal import Terminal, interval
from speechprompt.errors import OutputExists

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import PromptConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, report, "speechprompt report prompts/colour clips/ --out colour.html")


def report(
    terminal: Terminal,
    artifact: Folder,
    source: Source,
    out: Out,
    split: SplitName = "test",
    baselines: Baselines = "majority,n-gram,probe",
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="By default the prompt's name.")
    ] = None,
    copies: Copies = None,
    lm: ArtifactLm = None,
    split_field: SplitField = "split",
    skip_unreadable: SkipUnreadable = False,
    seed: Seed = 0,
    force: Force = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Evaluate a prompt and write one HTML file: numbers, learning curve, confusions, speakers, verbalizer, errors.

    Errors can be heard, and their units are drawn on the waveform, shaded by what each did for the answer. The file
    needs nothing but itself and asks no other machine for anything.
    """
    from speechprompt.evaluation.reports import Report, write_report
    from speechprompt.experiments.sections import task_section
    from speechprompt.speech.speeds import AnswerCopies

    AnswerCopies(copies or 0).speeds()  # an odd number is refused before anything is read
    names = baseline_names(baselines)
    if out.exists() and not force:
        raise OutputExists(out)
    check_writable(out)
    spoken_lm, [loaded] = open_artifacts([Path(artifact)], lm, device, dtype, threads)
    corpus = corpus_for(terminal, spoken_lm, loaded, source, split, split_field, bool(names), skip_unreadable)
    corpus = heard_again(terminal, corpus, spoken_lm, split, loaded.copies(copies))
    evaluation = scored(terminal, spoken_lm, loaded, corpus, split, names, seed=seed, copies=copies)
    section = task_section(loaded, evaluation, spoken_lm, corpus.split(split))
    page = Report(title or loaded.name, (section,), origins(loaded.config, corpus.name, seed))
    write_report(page, out, force)
    document = {"report": str(out), **evaluation.to_json()}
    terminal.show(
        document, f"accuracy {interval(evaluation.numbers.accuracy)} % on {split}", f"report: {out}"
    )


def origins(config: PromptConfig, corpus: str, seed: int) -> dict[str, str]:
    """Where a report's numbers come from."""
    return {
        "spoken LM": f"{config.spoken_lm} ({config.lm_fingerprint})",
        "corpus": corpus,
        "recipe": f"{config.recipe}, seed {config.seed}",
        "seed of the intervals": str(seed),
        **config.versions,
    }
