"""The command `evaluate`: prompts on a split beside baselines on the same rows, and one prompt against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import (
    ArtifactLm,
    Copies,
    Device,
    Dtype,
    Seed,
    SkipUnreadable,
    SplitField,
    SplitName,
    Threads,
    add_command,
    names_of,
)
from speechprompt.cli.materials import encoded, heard_again, only_splits, open_artifacts, read_source
from speechprompt.cli.terminal import Terminal, interval, percent, table
from speechprompt.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from speechprompt.evaluation.evaluate import Comparison, Evaluation
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

Things = Annotated[
    list[str],
    typer.Argument(metavar="ARTIFACT... SOURCE", help="Prompt folders, then the source to score them on."),
]
Baselines = Annotated[
    str,
    typer.Option("--baselines", metavar="A,B|none", help="Any of majority, n-gram, probe; or none."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, evaluate, "speechprompt evaluate prompts/colour clips/ --split test")


def evaluate(
    terminal: Terminal,
    things: Things,
    split: SplitName = "test",
    free: Annotated[
        bool, typer.Option("--free", help="Also decode freely, over all units: an answer may be no label.")
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also let all the prompts answer together, as one classifier.")
    ] = False,
    baselines: Baselines = "majority,n-gram,probe",
    save: Annotated[
        bool, typer.Option("--save", help="Keep the numbers in the prompt's metrics.json and README.md.")
    ] = False,
    copies: Copies = None,
    lm: ArtifactLm = None,
    split_field: SplitField = "split",
    skip_unreadable: SkipUnreadable = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Accuracy of prompts on a split, with 95 % intervals, beside baselines trained on the train split.

    The difference to a baseline is paired: it is taken on the same utterances. Two prompts for the same slots
    are compared with McNemar's test. An ensemble answers with the mean log-probability of its prompts. A prompt of
    train --folds is scored on its own fold, and the baselines of one of train --shots learn from the same shots.
    With --copies, or where a prompt was trained with --answer-copies, it answers over several hearings of a clip; the
    baselines hear it once.
    """
    names = baseline_names(baselines)
    folders, source = _asked(things, ensemble, copies)
    spoken_lm, artifacts = open_artifacts([Path(folder) for folder in folders], lm, device, dtype, threads)
    if ensemble and any(_fold(one) != _fold(artifacts[0]) for one in artifacts):
        raise UsageError(
            "prompts of different folds are tested on different utterances; leave --ensemble out"
        )
    evaluations = []
    for artifact in artifacts:
        corpus = corpus_for(
            terminal, spoken_lm, artifact, source, split, split_field, bool(names), skip_unreadable
        )
        corpus = heard_again(terminal, corpus, spoken_lm, split, artifact.copies(copies))
        evaluations.append(scored(terminal, spoken_lm, artifact, corpus, split, names, free, seed, copies))
    if ensemble:
        evaluations.append(together(terminal, spoken_lm, artifacts, corpus, split, seed, copies))
    comparisons = compared(evaluations, seed)
    if save:
        save_numbers(terminal, artifacts, evaluations)
    document = {
        "evaluations": [evaluation.to_json() for evaluation in evaluations],
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    parts = [part for evaluation in evaluations for part in parts_of(evaluation)]
    terminal.show(document, *parts, *map(_sentence, comparisons))


def _asked(things: Sequence[str], ensemble: bool, copies: int | None) -> tuple[Sequence[str], str]:
    """The prompt folders and the source. UsageError for too few of them, or copies that cannot be heard."""
    from speechprompt.speech.speeds import AnswerCopies

    AnswerCopies(copies or 0).speeds()
    if ensemble and len(things) < 3:
        raise UsageError("an ensemble needs two prompt folders or more, and then a source")
    if len(things) < 2:
        raise UsageError(
            "evaluate needs a prompt folder and then a source: speechprompt evaluate ARTIFACT SOURCE"
        )
    *folders, source = things
    return folders, source


def _fold(artifact: Artifact) -> Any:
    """The fold of its corpus that the prompt is tested on, None for a prompt of no cross-validation."""
    return artifact.config.corpus.get("fold")


def baseline_names(text: str) -> list[str]:
    """`majority,ngram` as names; `none` as no name. UnknownName for any other."""
    from speechprompt.evaluation.evaluate import BASELINES

    names = [] if text == "none" else names_of(text) or []
    for name in names:
        if name not in BASELINES:
            raise UnknownName("baseline", name, (*BASELINES, "none"))
    return names


def corpus_for(
    terminal: Terminal,
    spoken_lm: SpokenLM,
    artifact: Artifact,
    source: str,
    split: str,
    split_field: str,
    with_baselines: bool,
    skip_unreadable: bool = False,
) -> Corpus:
    """The source's slots that a prompt answers, with units, cut down to the splits that scoring needs.

    A prompt of one fold, or of a few shots, has that fold and those shots drawn again; notices say what could not be,
    and how many of the clips the prompt knows from its training.
    ArtifactError when audio would be encoded by another tokenizer than the prompt was trained with.
    """
    from speechprompt.evaluation.as_trained import as_trained
    from speechprompt.prompting.artifact import check_tokenizer
    from speechprompt.prompting.heard import MOST_HEARD, count_heard
    from speechprompt.speech.recordings import copies
    from speechprompt.speech.splits import unheard_labels

    corpus = read_source(source, terminal, list(artifact.config.slots), split_field, skip_unreadable)
    corpus = as_trained(corpus, artifact.config.corpus, split)
    for notice in corpus.notices:
        terminal.notice(notice)
    training = [name for name in ("train", "valid") if with_baselines and corpus.split(name)]
    corpus = only_splits(corpus, dict.fromkeys([*training, split]))
    for notice in unheard_labels(corpus, split):
        terminal.notice(notice)
    if any(utterance.units is None for utterance in corpus.utterances):
        check_tokenizer(artifact.config, spoken_lm, artifact.path)
    corpus = encoded(corpus, spoken_lm, terminal, skip_unreadable)
    count, heard = copies(corpus, split), count_heard(artifact.heard, corpus.split(split))
    if heard > count:
        least = "" if artifact.heard is None or len(artifact.heard) < MOST_HEARD else "at least "
        terminal.notice(
            f"{least}{heard} of {len(corpus.split(split))} scored utterances are ones that the prompt trained on or "
            "was validated on, which flatters its accuracy; score clips that it has not heard, or the source that it "
            "trained on, whose splits keep them apart"
        )
    if count:
        terminal.notice(
            f"{count} of {len(corpus.split(split))} {split} utterances sound exactly like one in train or valid, which "
            "flatters every number below; speechprompt doctor names them"
        )
    return corpus


def scored(
    terminal: Terminal,
    spoken_lm: SpokenLM,
    artifact: Artifact,
    corpus: Corpus,
    split: str,
    names: Sequence[str],
    free: bool = False,
    seed: int = 0,
    copies: int | None = None,
) -> Evaluation:
    """One prompt's evaluation; a train split that is absent leaves the baselines out, with a notice."""
    from speechprompt.evaluation.evaluate import evaluate as evaluate_prompt

    if names and not corpus.split("train"):
        terminal.notice(f"{corpus.name} has no train split, so there are no baselines")
    with terminal.progress(f"scoring {artifact.name}") as progress:
        progress.update(0, None, f"on {len(corpus.split(split))} utterances")
        return evaluate_prompt(spoken_lm, artifact, corpus, split, names, free, seed, copies)


def together(
    terminal: Terminal,
    spoken_lm: SpokenLM,
    artifacts: Sequence[Artifact],
    corpus: Corpus,
    split: str,
    seed: int = 0,
    copies: int | None = None,
) -> Evaluation:
    """All prompts as one classifier; tells what its members train in all."""
    from speechprompt.evaluation.ensembles import evaluate_ensemble, trained_parameters

    evaluation = evaluate_ensemble(spoken_lm, artifacts, corpus, split, seed, copies)
    terminal.notice(f"the ensemble's prompts train {trained_parameters(artifacts):,} parameters together")
    return evaluation


def compared(evaluations: Sequence[Evaluation], seed: int = 0) -> list[Comparison]:
    """Every two prompts that answer the same slots of the same utterances."""
    from speechprompt.evaluation.evaluate import compare

    asked = [(e.numbers.slots.keys(), [row.id for row in e.rows]) for e in evaluations]
    return [
        compare(evaluations[i], evaluations[j], seed)
        for i, j in combinations(range(len(evaluations)), 2)
        if asked[i] == asked[j]
    ]


def save_numbers(
    terminal: Terminal, artifacts: Sequence[Artifact], evaluations: Sequence[Evaluation]
) -> None:
    """Write each evaluation under its split's name into its artifact."""
    from speechprompt.prompting.artifact import save_metrics

    for artifact, evaluation in zip(artifacts, evaluations, strict=False):  # an ensemble is no artifact
        save_metrics(artifact, {**artifact.metrics, evaluation.split: evaluation.to_json()})
        terminal.say(f"saved in {artifact.path}")


def parts_of(evaluation: Evaluation) -> list[Any]:
    """A title, the accuracy beside the baselines, and the slots."""
    numbers = evaluation.numbers
    over = f"{numbers.utterance_count} utterances of {evaluation.split}"
    if numbers.speaker_count:
        over += f", {numbers.speaker_count} speakers"
    if evaluation.copies:
        over += f", each heard at {evaluation.copies} other speeds too"
    rows = [(evaluation.name, interval(numbers.accuracy), _macro_f1(evaluation), "")]
    rows += [
        (b.name, interval(b.accuracy), f"{100 * b.macro_f1:.1f}", interval(b.difference, points=True))
        for b in evaluation.baselines
    ]
    headings = ("", "accuracy % [95 %]", "macro-F1 %", "prompt minus it, points [95 %]")
    parts: list[Any] = [
        f"{evaluation.name}: {over}; intervals over {numbers.interval_over}",
        table(headings, rows),
        "",
    ]
    if len(numbers.slots) > 1 or any(slot.equal_error_rate is not None for slot in numbers.slots.values()):
        parts += [_slot_table(evaluation), ""]
    if evaluation.free_accuracy is not None:
        parts += [f"free decoding: {percent(evaluation.free_accuracy)} right", ""]
    return parts


def _macro_f1(evaluation: Evaluation) -> str:
    slots = list(evaluation.numbers.slots.values())
    return f"{100 * slots[0].macro_f1.estimate:.1f}" if len(slots) == 1 else ""


def _slot_table(evaluation: Evaluation) -> Any:
    rows = [
        (
            name,
            len(slot.labels),
            interval(slot.accuracy),
            interval(slot.macro_f1),
            "" if slot.equal_error_rate is None else f"{100 * slot.equal_error_rate:.1f}",
        )
        for name, slot in evaluation.numbers.slots.items()
    ]
    return table(("slot", "labels", "accuracy % [95 %]", "macro-F1 % [95 %]", "EER %"), rows)


def _sentence(comparison: Comparison) -> str:
    test = comparison.test
    return (
        f"{comparison.first} minus {comparison.second}: {interval(comparison.difference, points=True)} points; "
        f"only the first right {test.only_first}, only the second {test.only_second}, "
        f"McNemar p = {test.p_value:.3g}"
    )
