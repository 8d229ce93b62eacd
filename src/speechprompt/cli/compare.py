"""The command `compare`: prompting beside other methods on the same frozen LM and the same splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechprompt.cli.commands import (
    Device,
    Force,
    LmName,
    SkipUnreadable,
    SlotNames,
    Source,
    SplitField,
    Threads,
    add_command,
    check_writable,
    names_of,
)
from speechprompt.cli.materials import encoded, only_splits, open_spoken_lm, read_source
from speechprompt.cli.terminal import Terminal, table
from speechprompt.errors import OutputExists

if TYPE_CHECKING:
    from speechprompt.experiments.demo import Stage, Update

Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Train each method so many times.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Most updates of a training; by default the recipe's.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, compare, "speechprompt compare clips/ --methods n-gram,probe,lora --out methods.html")


def compare(
    terminal: Terminal,
    source: Source,
    lm: LmName = "tiny",
    methods: Annotated[
        str,
        typer.Option(
            "--methods", metavar="A,B", help="Any of prompt (always), n-gram, probe, lora, finetune."
        ),
    ] = "prompt,n-gram,probe",
    slots: SlotNames = None,
    seeds: Seeds = 1,
    steps: Steps = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Also write the comparison: FILE.html, .md or .json."),
    ] = None,
    split_field: SplitField = "split",
    skip_unreadable: SkipUnreadable = False,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Prompting against n-grams, a linear probe, LoRA and full fine-tuning: same LM, same splits, paired tests.

    Differences are the prompt's accuracy minus the method's on the same utterances. LoRA and fine-tuning change
    a copy of the LM (a GSLM); LoRA needs the extra 'peft'.
    """
    from speechprompt.experiments.compare import HEADINGS, compare_methods, first_fold
    from speechprompt.experiments.methods import check_methods
    from speechprompt.experiments.tables import form_of, write_whole
    from speechprompt.speech.splits import require_trainable, unheard_labels

    chosen = check_methods(names_of(methods) or [])
    if out is not None:
        form_of(out)
        if out.exists() and not force:
            raise OutputExists(out)
        check_writable(out)
    corpus = first_fold(read_source(source, terminal, names_of(slots), split_field, skip_unreadable))
    require_trainable(corpus)
    for notice in unheard_labels(corpus, "test"):
        terminal.notice(notice)
    corpus = only_splits(corpus, ("train", "valid", "test"))
    spoken_lm = open_spoken_lm(lm, device, threads=threads)
    corpus = encoded(corpus, spoken_lm, terminal, skip_unreadable)
    found = compare_methods(corpus, spoken_lm, stages(terminal), chosen, seeds, steps)
    if out is not None:
        write_whole(out, found.document(form_of(out)))
        terminal.say(f"written to {out}")
    terminal.show(found.to_json(), found.sentence(), table(HEADINGS, found.cells()))


def stages(terminal: Terminal) -> Stage:
    """How a study tells a terminal where it stands."""

    @contextmanager
    def stage(title: str) -> Iterator[Update]:
        with terminal.progress(title) as progress:
            yield progress.update

    return stage
