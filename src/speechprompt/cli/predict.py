"""The command `predict`: answers of prompts to audio files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechprompt.cli.commands import ArtifactLm, Device, Dtype, Threads, add_command
from speechprompt.cli.materials import open_artifacts
from speechprompt.cli.terminal import Terminal, table
from speechprompt.errors import AudioError, MissingExtra, UsageError

if TYPE_CHECKING:
    from speechprompt.prompting.predictor import Prediction, Predictor, SlotPrediction

STDIN = "-"

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="Audio files (wav, flac, ogg, opus, mp3); - is stdin.")
]
Prompts = Annotated[
    list[Path],
    typer.Option("--prompt", "-p", metavar="ARTIFACT", help="A prompt folder; give it again for more tasks."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app, predict, "speechprompt predict a.wav b.wav --prompt prompts/colour --prompt prompts/speaker"
    )


def predict(
    terminal: Terminal,
    files: Files,
    prompts: Prompts,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many labels of a slot to show.")] = 1,
    lm: ArtifactLm = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Ask one or several prompts about audio files; each file is encoded once.

    A file that cannot be read is listed and the rest go on; the exit code is then 1. With --json every answer
    is one line of its own, at once.
    """
    from speechprompt.prompting.predictor import Predictor

    if files.count(STDIN) > 1:
        raise UsageError("stdin can be read once; name '-' once")
    spoken_lm, artifacts = open_artifacts(prompts, lm, device, dtype, threads)
    predictor = Predictor(spoken_lm, artifacts)
    answers: list[Prediction] = []
    failed = False
    with terminal.progress("predicting") as progress:
        for done, file in enumerate(files):
            progress.update(done, len(files), file)
            try:
                found = answers_to(predictor, file)
            except (AudioError, MissingExtra) as error:
                failed = True
                _report_failure(terminal, file, error)
                continue
            for notice in found[0].notices:
                terminal.notice(notice)
            if terminal.as_json:
                for answer in found:
                    terminal.json_line(answer.to_json())
            else:
                answers += found
    if answers:
        headings = ("file", "task", "slot", "label", "score")
        terminal.out.print(table(headings, [row for answer in answers for row in _rows(answer, top_k)]))
    if failed:
        raise typer.Exit(1)


def answers_to(predictor: Predictor, file: str) -> list[Prediction]:
    """Every task's answer to a file, or to stdin's bytes. AudioError when it cannot be read."""
    if file != STDIN:
        return predictor.predict(file)
    from speechprompt.speech.audio import read_waveform_bytes

    rate = predictor.spoken_lm.tokenizer.sample_rate
    waveform, notices = read_waveform_bytes(sys.stdin.buffer.read(), rate)
    return [replace(answer, source=STDIN, notices=tuple(notices)) for answer in predictor.predict(waveform)]


def _report_failure(terminal: Terminal, file: str, error: Exception) -> None:
    text = str(error) if file == STDIN or file in str(error) else f"{file}: {error}"
    terminal.complain(text)
    if terminal.as_json:
        terminal.json_line({"source": file, "error": text})


def _rows(answer: Prediction, top_k: int) -> list[tuple[str, ...]]:
    """A row for every label that is shown; the file and the task are named once."""
    rows = []
    for slot, found in answer.slots.items():
        for rank, (label, score) in enumerate(_best(found, top_k)):
            unsure = " (unsure)" if answer.abstained and not rank else ""
            rows.append((slot if not rank else "", label + unsure, f"{score:.3f}"))
    heads = [(str(answer.source), answer.task), *[("", "")] * (len(rows) - 1)]
    return [(*head, *row) for head, row in zip(heads, rows, strict=True)]


def _best(found: SlotPrediction, top_k: int) -> Sequence[tuple[str, float]]:
    return sorted(found.scores.items(), key=lambda item: -item[1])[:top_k]
