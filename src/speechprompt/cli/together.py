"""`train` for several prompts at once: tasks, sources, and options with several values, in one run over one LM."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprompt.cli.materials import few
from speechprompt.cli.terminal import Terminal, next_command, percent, table
from speechprompt.cli.training_options import NOTHING
from speechprompt.cli.training_run import RunFolder
from speechprompt.errors import ArtifactError, OutputExists, UsageError

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.joint import Job
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

RUNS = "runs.json"


def with_choices(changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Flags with one value, and those with several (`--seed 0,1,2`), whose first value is among the former."""
    given = {name: value for name, value in changes.items() if value is not None}
    several = {
        name: [part.strip() for part in value.split(",")]
        for name, value in given.items()
        if isinstance(value, str) and "," in value
    }
    for name, values in several.items():
        if len(set(values)) < len(values) or "" in values:
            raise UsageError(f"--{name.replace('_', '-')} {given[name]} names a value twice, or none")
    single = {**given, **{name: values[0] for name, values in several.items()}}
    choices = {name: [None if v == NOTHING else v for v in values] for name, values in several.items()}
    return single, choices


def check_together_output(out: Path, force: bool) -> None:
    """OutputExists when `out` is there; with `force`, ArtifactError when it is not the output of such a run."""
    if out.exists() and not force:
        raise OutputExists(out)
    if out.exists() and not (out / RUNS).is_file():
        raise ArtifactError(f"{out} does not hold several prompts, so --force does not replace it")


def jobs_of(
    corpora: Sequence[Corpus],
    tasks: Sequence[Sequence[str]],
    options: Sequence[TrainingOptions],
    choices: Mapping[str, Sequence[Any]],
    shots: int | None = None,
    initial: Artifact | None = None,
) -> list[Job]:
    """A job for each corpus, task (all slots together without any) and combination of choices, named by these.

    `options` has those of each corpus. With `shots` each trains on the few that its own task and seed draw; jobs that
    draw the same share a corpus.
    """
    from speechprompt.prompting.joint import Job, variants_of
    from speechprompt.prompting.task import Task

    jobs = []
    for corpus, own in zip(corpora, options, strict=True):
        variants = variants_of(own, choices)
        for slots in tasks or [list(corpus.slots)]:
            task = Task.of_corpus(corpus, slots)
            draws = dict.fromkeys((resolved.seed, resolved.taught_splits) for _, resolved in variants)
            drawn = {(seed, splits): few(corpus, shots, seed, slots, splits) for seed, splits in draws}
            for variant, resolved in variants:
                several_here = len(corpora) == 1 or len(tasks) > 1
                parts = [corpus.name] * (len(corpora) > 1) + [task.name] * several_here + [variant]
                name = "_".join(part for part in parts if part).replace("/", "-")
                own_corpus = drawn[resolved.seed, resolved.taught_splits]
                jobs.append(Job(name, own_corpus, task, resolved, initial))
    return jobs


def train_together(
    terminal: Terminal, jobs: Sequence[Job], spoken_lm: SpokenLM, out: Path, force: bool, lm: str
) -> None:
    """Train all jobs resumably and leave a prompt folder for each in `out`, with runs.json beside them."""
    from speechprompt.prompting.joint import train_jobs

    folder, started = RunFolder(out), time.perf_counter()
    longest = max((job.options for job in jobs), key=lambda options: options.steps)
    try:
        with terminal.progress("training") as progress, folder.listener(terminal, progress, longest) as hear:
            artifacts = train_jobs(jobs, spoken_lm, hear, folder.checkpoint)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(folder.resume_hint()) from None
    seconds = round(time.perf_counter() - started, 3)
    rows = []
    for job, artifact in zip(jobs, artifacts, strict=True):
        replace(artifact, metrics={**artifact.metrics, "training_seconds": seconds}).save(
            folder.path / job.name, force=True
        )
        valid = artifact.metrics["valid"]
        rows.append({"prompt": job.name, "task": job.task.name, "options": _changes(job, jobs), **valid})
    document = {"out": str(out), "spoken_lm": spoken_lm.name, "training_seconds": seconds, "prompts": rows}
    (folder.path / RUNS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    folder.become_output()
    shown = [(row["prompt"], percent(row["accuracy"]), f"{row['loss']:.3f}", row["step"]) for row in rows]
    terminal.show(
        document,
        table(("prompt", "valid accuracy", "loss", "best step"), shown),
        f"{len(rows)} prompts in {out}, {seconds:.0f} s",
        next_command("evaluate", out / rows[0]["prompt"], "SOURCE", lm=lm),
    )


def _changes(job: Job, jobs: Sequence[Job]) -> dict[str, Any]:
    """The options in which the jobs differ, as this one has them."""
    all_options = [dict(other.options) for other in jobs]
    ours = dict(job.options)
    return {name: value for name, value in ours.items() if any(o[name] != value for o in all_options)}
