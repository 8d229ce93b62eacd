"""The command `predict`: answers of prompts to audio files, one or millions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.clip_list import listed_clips
from speechprompt.cli.commands import (
    ArtifactLm,
    Copies,
    Device,
    Dtype,
    Force,
    Threads,
    add_command,
    check_writable,
)
from speechprompt.cli.materials import open_artifacts
from speechprompt.cli.prediction_file import PredictionFile
from speechprompt.cli.terminal import Terminal, pairs, table
from speechprompt.errors import CorpusError

if TYPE_CHECKING:
    from speechprompt.prompting.bulk import Answered, Listed
    from speechprompt.prompting.predictor import Prediction, SlotPrediction

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="Audio files (wav, flac, ogg, opus, mp3), folders of them, manifests or tables; - is stdin.",
    ),
]
Prompts = Annotated[
    list[Path],
    typer.Option("--prompt", "-p", metavar="ARTIFACT", help="A prompt folder; give it again for more tasks."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Write answers to a .jsonl, .csv or .parquet file; resumable."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, predict, "speechprompt predict clips/ --prompt prompts/colour --out answers.csv")


def predict(
    terminal: Terminal,
    files: Sources,
    prompts: Prompts,
    out: Out = None,
    force: Force = False,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many labels of a slot to show.")] = 1,
    windows: Annotated[
        bool, typer.Option("--windows", help="Show the answer in each window of long clips.")
    ] = False,
    copies: Copies = None,
    lm: ArtifactLm = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Ask one or several prompts about audio files; each file is encoded once.

    A file that cannot be read is listed and the rest go on; the exit code is then 1. With --json every answer
    is one line of its own. With --out a second run answers what is new or failed, and a stopped one goes on; all
    answers of a prompt in a file are computed in one precision and over as many copies. Clips that come as units have
    none.
    """
    from speechprompt.prompting.artifact import content_hash
    from speechprompt.prompting.bulk import answer_all
    from speechprompt.prompting.predictor import Predictor
    from speechprompt.speech.speeds import AnswerCopies

    AnswerCopies(copies or 0).speeds()  # an odd number is refused before anything is read
    if out is not None:
        check_writable(out)
    listed, tokenizer = listed_clips(files)
    spoken_lm, artifacts = open_artifacts(prompts, lm, device, dtype, threads)
    if tokenizer is not None and tokenizer != spoken_lm.tokenizer_name:
        raise CorpusError(f"these are units of {tokenizer}, not of {spoken_lm.tokenizer_name}; pass --lm")
    predictor = Predictor(spoken_lm, artifacts, copies=copies)
    asked = predictor.prompts.chosen()
    if out is None:
        answered = answer_all(predictor, listed, asked)
        _show(terminal, _told(terminal, answered, len(listed)), top_k, windows)
        return
    digests = {prompt.name: content_hash(folder) for prompt, folder in zip(asked, prompts, strict=True)}
    precision = str(spoken_lm.lm.dtype).removeprefix("torch.")
    heard = {prompt.name: len(prompt.speeds(copies)) for prompt in asked}
    with PredictionFile.open(out, digests, precision, force, heard) as file:
        left = file.left(listed)
        _write(terminal, file, _told(terminal, answer_all(predictor, left, asked), len(left)), listed)


def _told(terminal: Terminal, answered: Iterator[Answered], total: int) -> Iterator[Answered]:
    """What comes of each clip, with progress, notices and errors on stderr."""
    with terminal.progress("predicting") as progress:
        for done, one in enumerate(answered, start=1):
            if one.error is not None:
                terminal.complain(one.error)
            for prediction in one.predictions[:1]:
                for notice in prediction.notices:
                    terminal.notice(notice.replace(one.clip.source, "some clips") if total > 9 else notice)
            yield one
            progress.update(done, total, one.clip.id)


def _show(terminal: Terminal, answered: Iterator[Answered], top_k: int, windows: bool) -> None:
    """Answers on stdout: lines of JSON as they come, or a table at the end."""
    answers: list[Prediction] = []
    failed = False
    for one in answered:
        failed |= one.error is not None
        if terminal.as_json:
            for document in _documents(one):
                terminal.json_line(document)
        else:
            answers += one.predictions
    if answers:
        rows = [row for answer in answers for row in _rows(answer, top_k, windows)]
        headings = ("file", "task", "slot", "label", "score")
        terminal.out.print(table(headings, rows))
    if failed:
        raise typer.Exit(1)


def _documents(one: Answered) -> Iterator[dict[str, Any]]:
    named = {} if one.clip.id == one.clip.source else {"id": one.clip.id}
    if one.error is not None:
        yield {"source": one.clip.source, **named, "error": one.error}
    for prediction in one.predictions:
        yield {**prediction.to_json(), **named}


def _write(
    terminal: Terminal,
    file: PredictionFile,
    answered: Iterator[Answered],
    listed: Sequence[Listed],
) -> None:
    """Answers into the file, and a summary on stdout."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    failed: dict[str, str] = {}
    fresh = 0
    try:
        for one in answered:
            file.add([one])
            if one.error is not None:
                failed[one.clip.id] = one.error
                continue
            fresh += 1
            for prediction in one.predictions:
                for slot, found in prediction.slots.items():
                    label = "(unsure)" if prediction.abstained else found.label
                    counts.setdefault((prediction.task, slot), Counter())[label] += 1
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; {fresh} answered clips are kept, and the same command goes on from {file.part}"
        ) from None
    file.finish()
    known = sum(one.id in file.done for one in listed)
    document = {"out": str(file.out), "answered": fresh, "known": known, "failed": failed}
    facts = {
        "answers": str(file.out),
        "clips": f"{fresh} answered now, {known} known before, {len(failed)} failed",
    }
    labels = [
        (task, slot, label, n) for (task, slot), seen in counts.items() for label, n in seen.most_common()
    ]
    parts = [pairs(facts), *([table(("task", "slot", "label", "clips"), labels)] if labels else [])]
    terminal.show(document, *parts)
    if failed:
        raise typer.Exit(1)


def _rows(answer: Prediction, top_k: int, windows: bool) -> list[tuple[str, ...]]:
    """A row for every label that is shown, and for every window; the file and the task are named once."""
    rows = []
    for slot, found in answer.slots.items():
        for rank, (label, score) in enumerate(_best(found, top_k)):
            rows.append(
                (slot if not rank else "", label + (_doubt(answer) if not rank else ""), f"{score:.3f}")
            )
    for window in answer.windows if windows else ():
        span = f"{window.start_seconds:.1f} to {window.end_seconds:.1f} s"
        rows += [
            (f"{slot}, {span}", window.labels[slot], f"{window.scores[slot]:.3f}") for slot in window.labels
        ]
    heads = [(str(answer.source), answer.task), *[("", "")] * (len(rows) - 1)]
    return [(*head, *row) for head, row in zip(heads, rows, strict=True)]


def _doubt(answer: Prediction) -> str:
    """What speaks against an answer: a score below the prompt's threshold, a clip unlike its training data."""
    strange = answer.out_of_domain is not None and answer.out_of_domain > 1
    doubts = ["unsure"] * answer.abstained + ["unfamiliar"] * strange
    return f" ({', '.join(doubts)})" if doubts else ""


def _best(found: SlotPrediction, top_k: int) -> Sequence[tuple[str, float]]:
    return sorted(found.scores.items(), key=lambda item: -item[1])[:top_k]
