"""The command `demo`: everything once, offline, in minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import Device, Force, Threads, add_command, check_writable
from speechprompt.cli.materials import open_spoken_lm
from speechprompt.cli.terminal import Terminal, interval, table

if TYPE_CHECKING:
    from speechprompt.evaluation.evaluate import Evaluation
    from speechprompt.experiments.demo import Demo, Update

OUT = Path("speechprompt-demo")


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, demo, "speechprompt demo --out my-demo")


def demo(
    terminal: Terminal,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write.")] = OUT,
    fast: Annotated[bool, typer.Option("--fast", help="Train fewer steps: a look, not a result.")] = False,
    lm: Annotated[
        str, typer.Option("--lm", metavar="NAME", help="Another spoken LM than the bundled one.")
    ] = "tiny",
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train and look at prompts on the bundled clips: no download, a few minutes, ends in a report.

    FOLDER receives report.html and a prompt for each task.
    """
    from speechprompt.experiments.demo import check_demo_output, run_demo

    check_demo_output(out, force)
    check_writable(out)
    spoken_lm = open_spoken_lm(lm, device, threads=threads)

    @contextmanager
    def stage(title: str) -> Iterator[Update]:
        with terminal.progress(title) as progress:
            yield progress.update

    found = run_demo(out, spoken_lm, stage, fast, force)
    terminal.show(_document(found), *_parts(found, out))


def _document(found: Demo) -> dict[str, Any]:
    return {
        "report": str(found.report),
        "prompts": {str(folder): evaluation.to_json() for folder, evaluation in found.evaluations.items()},
        "predictions": [
            {"labels": dict(labels), "answers": [answer.to_json() for answer in answers]}
            for labels, answers in found.predictions
        ],
        "seconds": round(found.seconds, 1),
    }


def _parts(found: Demo, out: Path) -> list[Any]:
    baselines = [score.name for score in next(iter(found.evaluations.values())).baselines]
    headings = ("task", "labels", "prompt, accuracy % [95 %]", *baselines, "prompt minus n-gram, points")
    rows = [_row(evaluation) for evaluation in found.evaluations.values()]
    heard = [
        (
            Path(str(answers[0].source)).name,
            *(f"{a.slots[a.task].label} {a.slots[a.task].score:.2f}" for a in answers),
        )
        for _, answers in found.predictions
    ]
    tasks = [evaluation.name for evaluation in found.evaluations.values()]
    prompt = next(iter(found.evaluations))
    return [
        table(headings, rows), "", table(("clip", *tasks), heard), "",
        f"report: {found.report} ({found.seconds:.0f} s in all)",
        "next, with a folder of your own clips, a subfolder for each label:",
        "  speechprompt doctor clips/",
        "  speechprompt train clips/ --out prompts/mine",
        "  speechprompt evaluate prompts/mine clips/",
        f"  speechprompt predict a.wav --prompt prompts/mine --prompt {prompt}",
    ]  # fmt: skip


def _row(evaluation: Evaluation) -> tuple[object, ...]:
    ngram = next(score for score in evaluation.baselines if score.name == "n-gram")
    return (
        evaluation.name,
        sum(len(slot.labels) for slot in evaluation.numbers.slots.values()),
        interval(evaluation.numbers.accuracy),
        *(f"{100 * score.accuracy.estimate:.1f}" for score in evaluation.baselines),
        interval(ngram.difference, points=True),
    )
