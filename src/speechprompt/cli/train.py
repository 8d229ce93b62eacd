"""The command `train`: one prompt on a source, one a fold, or several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from speechprompt.cli.terminal import Terminal, next_command, pairs, percent, reading_flags
from speechprompt.cli.together import check_together_output, jobs_of, train_together, with_choices
from speechprompt.cli.training_options import fill_from_file, option_flags, resolved
from speechprompt.cli.training_run import RunFolder, train_resumably
from speechprompt.errors import UsageError

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.joint import Job
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus
    from speechprompt.speech.splits import Fold
    from speechprompt.spoken_lm import SpokenLM

Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="default|few|paper",
        help="Named set of training options; few: for up to about 2,000 clips to train on.",
    ),
]
AUTO = "auto"
RecipeOrAuto = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="auto|default|few|paper",
        help="Named set of training options; auto: few for up to 2,000 clips to train on, else default.",
    ),
]
SHAPING = ("ensemble", "rotate_validation", "prompt_length", "verbalizer", "streams")
"""Options that say themselves how many prompts answer, and what they are."""
Shots = Annotated[
    int | None, typer.Option("--shots", min=1, help="Train on so many utterances a label only.")
]
Folds = Annotated[
    int | None,
    typer.Option("--folds", min=3, help="Cross-validate in so many rounds over all utterances instead."),
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="A folder of label folders, a manifest, a csv or tsv, or a data set id (hf:owner/name); several train "
        "a prompt each.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", metavar="A,B", help="Slots of one prompt; give it again to train several at once."
    ),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(
        "--init-from", metavar="ARTIFACT", help="Start from the vectors of another prompt, or of as many."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE.toml", is_eager=True, callback=fill_from_file,
        help="Options of this command by name (steps = 500); flags override it.",
    ),
]  # fmt: skip


def register(app: typer.Typer, with_options: bool) -> None:
    """Add the command; its training options are read only when they are needed."""
    flags = option_flags() if with_options else []
    add_command(app, train, "speechprompt train clips/ --slots colour --out prompts/colour", flags=flags)


def train(
    terminal: Terminal,
    sources: Sources,
    out: Out,
    changes: Mapping[str, Any],
    lm: LmName = "tiny",
    slots: SlotNames = None,
    tasks: Tasks = None,
    recipe: RecipeOrAuto = AUTO,
    shots: Shots = None,
    folds: Folds = None,
    init_from: InitFrom = None,
    config: Config = None,
    split_field: SplitField = "split",
    skip_unreadable: SkipUnreadable = False,
    force: Force = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Train a prompt on the train split, chosen on the valid split; the test split is not looked at.

    While it runs, PATH.run holds a checkpoint: the same command goes on where a stopped one was. With --folds,
    PATH holds a prompt for each round (fold1, fold2, ...) and folds.json with the pooled numbers. Several sources,
    several --task, or training options with several values (--seed 0,1,2) train a prompt each, all in one run;
    PATH then holds a folder for each. With --ensemble, or the recipe few, PATH is one prompt folder all the same: its
    prompts answer together. Up to 2,000 clips get that recipe where nothing is said about how many prompts there are.
    """
    from speechprompt.prompting.artifact import Artifact

    single, choices = with_choices(changes)
    options = resolved("default" if recipe == AUTO else recipe, single)
    asked = [names_of(task) or [] for task in tasks or ()]
    chosen = list(dict.fromkeys(slot for task in asked for slot in task)) or names_of(slots)
    several = len(sources) > 1 or bool(tasks) or bool(choices)
    if several and (folds is not None or (slots is not None and tasks)):
        raise UsageError("several prompts at once take no --folds, and either --slots or --task")
    _check_output(out, force, folds, several)
    read = (read_source(one, terminal, chosen, split_field, skip_unreadable) for one in sources)
    corpora = [trainable(terminal, corpus, folds) for corpus in read]
    spoken_lm = open_spoken_lm(lm, device, dtype, threads)
    initial = None if init_from is None else Artifact.load(init_from, spoken_lm)
    automatic = recipe == AUTO and initial is None
    firsts = [_first_round(corpus, folds, shots, options.seed) for corpus in corpora]
    suited = [_suited(terminal, options, single, corpus, spoken_lm, automatic) for corpus in firsts]
    if folds is not None:
        from speechprompt.cli.folds import train_folds

        _tell_start(terminal, initial, suited)
        corpus, drawn = _divided(terminal, corpora[0], folds, spoken_lm, suited[0], skip_unreadable)
        document, parts = train_folds(
            terminal, corpus, spoken_lm, suited[0], out, drawn, shots, initial, force
        )
        terminal.show(document, *parts)
        return
    has_test = bool(corpora[0].split("test"))
    corpora = [only_splits(one, ("train", "valid")) for one in corpora]
    # wrong slots and values fail before anything is encoded
    jobs = jobs_of(corpora, asked, suited, choices, shots, initial)
    _tell_start(terminal, initial, [job.options for job in jobs])
    jobs = _encoded(jobs, spoken_lm, terminal, skip_unreadable)
    if several:
        train_together(terminal, jobs, spoken_lm, out, force, lm)
        return
    artifact = train_resumably(terminal, RunFolder(out), jobs[0].corpus, spoken_lm, suited[0], initial, force)
    reading = [*reading_flags(split_field, skip_unreadable)]
    following = ["evaluate", out, sources[0], *reading] if has_test else ["predict", "FILE", "--prompt", out]
    terminal.show(document_of(artifact, out), _facts(artifact, out), next_command(*following, lm=lm))


def _divided(
    terminal: Terminal,
    corpus: Corpus,
    count: int,
    spoken_lm: SpokenLM,
    options: TrainingOptions,
    skip_unreadable: bool,
) -> tuple[Corpus, list[Fold]]:
    """The corpus with units and copies at other speeds, and its folds."""
    from speechprompt.speech.splits import folds

    drawn = folds(corpus, count)  # of all utterances, as evaluate draws them again
    corpus = encoded(corpus, spoken_lm, terminal, skip_unreadable)
    return with_copies(corpus, spoken_lm, terminal, [options], every_split=True), drawn  # each trains in turn


def _encoded(
    jobs: Sequence[Job], spoken_lm: SpokenLM, terminal: Terminal, skip_unreadable: bool
) -> list[Job]:
    """The jobs with units and copies at other speeds; those that share a corpus still do."""
    variants = [job.options for job in jobs]
    corpora = {id(job.corpus): job.corpus for job in jobs}
    for key, corpus in corpora.items():
        found = encoded(corpus, spoken_lm, terminal, skip_unreadable)
        corpora[key] = with_copies(found, spoken_lm, terminal, variants)
    return [replace(job, corpus=corpora[id(job.corpus)]) for job in jobs]


def _tell_start(terminal: Terminal, initial: Artifact | None, variants: Sequence[TrainingOptions]) -> None:
    """A notice where one of several prompts that answer together starts others, or another number of them."""
    several = 1 if initial is None else len(initial.members)
    if initial is not None and several > 1 and any(options.ensemble != several for options in variants):
        terminal.notice(
            f"{initial.path} holds {several} prompts that answer together, and training starts from the first of them; "
            f"with --ensemble {several} each starts from its own"
        )


def _first_round(corpus: Corpus, folds: int | None, shots: int | None, seed: int) -> Corpus:
    """The clips of a training, as few as prompts that validate in turn would learn by; with folds the first round."""
    from speechprompt.speech.splits import folds as folds_of
    from speechprompt.speech.splits import with_fold

    one = corpus if folds is None else with_fold(corpus, folds_of(corpus, folds)[0])
    return few(one, shots, seed, splits=("train", "valid"))


def _suited(
    terminal: Terminal,
    options: TrainingOptions,
    changes: Mapping[str, Any],
    corpus: Corpus,
    spoken_lm: SpokenLM,
    automatic: bool,
) -> TrainingOptions:
    """The options, or (`automatic`) those of the recipe `few` where clips are few and its prompts are not too short.

    Notices tell of that, and of several prompts over an LM so wide that they are very short.
    """
    from speechprompt.prompting.initialisation import length_of
    from speechprompt.prompting.recipes import SHORTEST_MEMBER
    from speechprompt.prompting.train import few_options, suits_few

    if automatic and not set(SHAPING) & changes.keys():
        found = few_options(corpus, {name: getattr(options, name) for name in changes})
        if suits_few(corpus, spoken_lm, found):
            terminal.notice(
                f"{len(corpus.split('train'))} clips to train on are few, so three prompts learn that answer together "
                "and validate in turn: every clip teaches most of them (--recipe few; --recipe default trains one)"
            )
            return found
    length = length_of(spoken_lm.lm, options, sum(map(len, corpus.slots.values())))
    if options.ensemble > 1 and options.prompt_length is None and length < SHORTEST_MEMBER:
        terminal.notice(
            f"within 0.15 M parameters each of {options.ensemble} prompts over {spoken_lm.name} has {length} vectors a "
            "layer; --recipe default trains one longer prompt"
        )
    return options


def _check_output(out: Path, force: bool, folds: int | None, several: bool) -> None:
    """What each kind of output says when something is at `out`, or nothing can be written there."""
    if several:
        check_together_output(out, force)
    elif folds is not None:
        from speechprompt.cli.folds import check_folds_output

        check_folds_output(out, force)
    else:
        from speechprompt.prompting.artifact import check_output

        check_output(out, force)
    check_writable(out)


def document_of(artifact: Artifact, out: Path) -> dict[str, Any]:
    """The JSON of a trained artifact."""
    config = artifact.config
    return {
        "artifact": str(out),
        "task": config.task,
        "slots": config.slots,
        "spoken_lm": config.spoken_lm,
        "trained_parameters": config.trained_parameters,
        "valid": artifact.metrics["valid"],
        "training_seconds": artifact.metrics["training_seconds"],
        "corpus": config.corpus,
    }


def _of_all(artifact: Artifact) -> str:
    """How many prompts the parameters are those of, where they are several."""
    count = len(artifact.members)
    return f" in {count} prompts that answer together" if count > 1 else ""


def _facts(artifact: Artifact, out: Path) -> Any:
    from speechprompt.prompting.artifact import over_copies

    config, valid = artifact.config, artifact.metrics["valid"]
    return pairs(
        {
            "prompt": str(out),
            "answers": ", ".join(f"{slot} ({len(labels)} labels)" for slot, labels in config.slots.items()),
            "valid accuracy": f"{percent(valid['accuracy'])} at step {valid['step']}{over_copies(valid.get('copies'))}",
            "trained parameters": f"{config.trained_parameters:,}{_of_all(artifact)} on the frozen {config.spoken_lm}",
            "seconds": artifact.metrics["training_seconds"],
        }
    )
