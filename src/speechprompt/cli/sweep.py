"""The command `sweep`: training options tried side by side on validation, the best prompt kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import (
    Device,
    Dtype,
    Force,
    LmName,
    Out,
    SkipUnreadable,
    SlotNames,
    Source,
    SplitField,
    Threads,
    add_command,
    check_writable,
    names_of,
)
from speechprompt.cli.materials import (
    encoded,
    few,
    only_splits,
    open_spoken_lm,
    read_source,
    trainable,
    with_copies,
)
from speechprompt.cli.terminal import Progress, Terminal, next_command, percent, reading_flags, table
from speechprompt.cli.train import Recipe, Shots
from speechprompt.cli.training_options import option_flags, resolved
from speechprompt.errors import ArtifactError, OutputExists

if TYPE_CHECKING:
    from speechprompt.experiments.search import Dimension
    from speechprompt.experiments.sweep import Trial
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

Try = Annotated[
    list[str] | None,
    typer.Option(
        "--try",
        metavar="NAME=A,B",
        help="Values of a training option (a,b,c) or a range (low:high); repeat it.",
    ),
]
Search = Annotated[
    str,
    typer.Option("--search", metavar="grid|random|optuna", help="Who picks the trials; optuna is an extra."),
]


def register(app: typer.Typer, with_options: bool) -> None:
    """Add the command; its training options are read only when they are needed."""
    example = (
        "speechprompt sweep clips/ --try learning-rate=1e-3:1e-1 --trials 12 --search random --out sweeps/a"
    )
    add_command(app, sweep, example, flags=option_flags() if with_options else [])


def sweep(
    terminal: Terminal,
    source: Source,
    out: Out,
    changes: Mapping[str, Any],
    space: Try = None,
    search: Search = "grid",
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="How many to try at most.")] = None,
    search_seed: Annotated[int, typer.Option("--search-seed", min=0, help="Draws the trials.")] = 0,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Trials that train in one run.")] = 6,
    lm: LmName = "tiny",
    slots: SlotNames = None,
    recipe: Recipe = "default",
    shots: Shots = None,
    split_field: SplitField = "split",
    skip_unreadable: SkipUnreadable = False,
    force: Force = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Try training options on the train split, judge them on the valid split, keep the best prompt.

    Without --try: three learning rates and two prompt lengths. The test split is not looked at, and the best
    validation accuracy is too good by selection: evaluate PATH/best on the test split. PATH holds best and
    sweep.json; while it runs, PATH.run holds what the same command goes on from.
    """
    from speechprompt.experiments.search import DEFAULT_SPACE, check_ranked, read_space, searcher
    from speechprompt.experiments.sweep import Sweep, finish
    from speechprompt.prompting.task import Task

    _check_output(out, force)
    space = space or [*DEFAULT_SPACE]
    options, dimensions = resolved(recipe, changes), read_space(space)
    picks = searcher(search, dimensions, trials, search_seed)
    variants = _ends(options, dimensions)
    check_ranked(options, dimensions)
    corpus = trainable(
        terminal, read_source(source, terminal, names_of(slots), split_field, skip_unreadable), None
    )
    spoken_lm = open_spoken_lm(lm, device, dtype, threads)
    corpus = only_splits(few(corpus, shots, options.seed, splits=options.taught_splits), ("train", "valid"))
    corpus = encoded(corpus, spoken_lm, terminal, skip_unreadable)
    corpus = with_copies(corpus, spoken_lm, terminal, variants)
    searched = {"space": space, "search": search, "search_seed": search_seed}
    described = _described(source, corpus, spoken_lm, searched, options)
    folder = out.with_name(out.name + ".run")
    study = Sweep(folder, corpus, Task.of_corpus(corpus), spoken_lm, options, described, at_once)
    try:
        with terminal.progress("sweeping") as progress:
            found = study.run(picks, _Listener(progress, options.steps).hear)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command goes on from {folder}") from None
    document = finish(study, found, out)
    reading = reading_flags(split_field, skip_unreadable)
    following = next_command("evaluate", out / "best", source, *reading, lm=lm)
    terminal.show(document, *_parts(found, out, following, len(corpus.split("valid"))))


def _ends(options: TrainingOptions, dimensions: Sequence[Dimension]) -> list[TrainingOptions]:
    """The options, and with both ends of each dimension: a wrong value fails before anything is encoded."""
    from speechprompt.prompting.joint import variants_of

    found = [options]
    for dimension in dimensions:
        found += [variant for _, variant in variants_of(options, {dimension.name: dimension.ends})]
    return found


def _described(
    source: str,
    corpus: Corpus,
    spoken_lm: SpokenLM,
    searched: Mapping[str, Any],
    options: TrainingOptions,
) -> dict[str, Any]:
    """What a sweep's file says it was made of; a sweep of anything else is not continued."""
    from speechprompt.prompting.finishing import provenance
    from speechprompt.speech.digests import corpus_digest

    return {
        "source": source,
        "spoken_lm": spoken_lm.name,
        "lm_fingerprint": spoken_lm.lm.fingerprint,
        "corpus": provenance(corpus),
        "corpus_digest": corpus_digest(corpus),
        "slots": list(corpus.slots),
        **searched,
        "options": options.model_dump(mode="json"),
    }


def _check_output(out: Path, force: bool) -> None:
    """OutputExists when `out` is there; with `force`, ArtifactError when it is not a sweep."""
    from speechprompt.experiments.sweep import SWEEP

    if out.exists() and not force:
        raise OutputExists(out)
    if out.exists() and not (out / SWEEP).is_file():
        raise ArtifactError(f"{out} does not hold a sweep, so --force does not replace it")
    check_writable(out)


class _Listener:
    """Trials and steps as one progress line."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress, self._steps = progress, steps
        self._best, self._done = -1.0, 0

    def hear(self, event: Mapping[str, Any]) -> None:
        """Show how many trials are done, the best of them, and the step of the current ones."""
        if event["event"] == "trial":
            self._done += 1
            self._best = max(self._best, event["accuracy"])
        if event["event"] in ("trial", "step", "evaluation"):
            best = f"  best valid {percent(self._best)}" if self._done else ""
            step = event["step"] if event["event"] != "trial" else 0
            self._progress.update(step, self._steps, f"{self._done} trials done{best}")


def _parts(trials: list[Trial], out: Path, following: str, valid: int) -> list[Any]:
    names = list(trials[0].changes)
    rows = [
        (
            *(str(trial.changes[name]) for name in names),
            percent(trial.accuracy),
            f"{trial.loss:.3f}",
            trial.step,
        )
        for trial in trials
    ]
    title = f"{len(trials)} trials on {valid} validation utterances, best first"
    return [
        table((*names, "valid accuracy", "loss", "best step"), rows, title),
        f"the best prompt: {out / 'best'}; its accuracy above is too good by selection",
        following,
    ]
