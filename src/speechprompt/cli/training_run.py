"""The folder beside an output while it is being trained: checkpoint, event log, what is shown of them, and the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from speechprompt.cli.terminal import Progress, Terminal, percent
from speechprompt.filesystem import replace_folder

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

CHECKPOINT = "checkpoint.pt"

Listener = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class RunFolder:
    """`OUT.run`: where training keeps what resuming needs, until OUT is whole."""

    out: Path
    suffix: str = ".run"

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.out.with_name(self.out.name + self.suffix)

    @property
    def checkpoint(self) -> Path:
        """The file from which training goes on."""
        return self.path / CHECKPOINT

    @property
    def events(self) -> Path:
        """A JSON line for every step and evaluation."""
        from speechprompt.experiments.sections import EVENTS

        return self.path / EVENTS

    def resume_hint(self) -> str:
        """What to tell someone who stopped the training."""
        if self.checkpoint.exists():
            return f"interrupted; the same command goes on from {self.checkpoint}"
        return "interrupted before the first checkpoint; the same command starts over"

    @contextmanager
    def listener(
        self, terminal: Terminal, progress: Progress, options: TrainingOptions
    ) -> Iterator[Listener]:
        """Log events and show them. Events of a run that was not resumed are replaced."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.exists():
            self.events.unlink(missing_ok=True)
        with self.events.open("a", encoding="utf-8") as file:
            steps = None if options.by_epoch else options.steps
            yield _Listener(self, file, terminal, progress, steps).hear

    def forget_after(self, step: int) -> None:
        """Drop logged events past a step, which training is about to repeat."""
        kept = [line for line in self.events.read_text("utf-8").splitlines(True) if _step(line) <= step]
        self.events.write_text("".join(kept), encoding="utf-8")

    def close(self) -> None:
        """Move the event log into the saved output and remove the folder, unless it holds files of others."""
        from speechprompt.prompting.training import remove_checkpoint

        self.events.replace(self.out / self.events.name)
        remove_checkpoint(self.checkpoint)
        with suppress(OSError):  # not empty
            self.path.rmdir()

    def become_output(self) -> None:
        """Put the folder, which holds the whole output by now, in the place of OUT, without its checkpoint."""
        from speechprompt.prompting.training import remove_checkpoint

        replace_folder(self.path, self.out)
        remove_checkpoint(self.out / CHECKPOINT)


def _step(line: str) -> int:
    try:
        return int(json.loads(line).get("step", 0))
    except ValueError:
        return 1 << 62  # a line that the interruption cut


@dataclass
class _Listener:
    folder: RunFolder
    file: IO[str]
    terminal: Terminal
    progress: Progress
    steps: int | None
    loss: float | None = None
    accuracy: float | None = None
    best: float = field(default=-1.0)
    best_of: dict[str, float] = field(default_factory=dict)

    def hear(self, event: Mapping[str, Any]) -> None:
        """Write the event down, and show where training stands."""
        kind = event["event"]
        if kind == "resumed":
            self.file.flush()
            self.folder.forget_after(event["step"])
            self.terminal.say(f"resuming at step {event['step']} from {self.folder.checkpoint}")
        self.file.write(json.dumps(event) + "\n")
        if kind == "step":
            loss = float(event["loss"])
            self.loss = loss if self.loss is None else 0.9 * self.loss + 0.1 * loss
        elif kind == "evaluation":
            self.accuracy = event["accuracy"]
            self.best = max(self.best, event["accuracy"])
            self.best_of[event["run"]] = max(self.best_of.get(event["run"], -1.0), event["accuracy"])
            self.file.flush()
        elif kind == "learning_rate":
            self.terminal.say(f"learning rate {event['rate']:.2g} found by range test")
        elif kind == "ngrams":
            self.terminal.say("fitting weights of n-grams beside the prompt")
        elif kind == "ngrams_fitted":
            told = f"{percent(event['prompt_alone'])} -> {percent(event['accuracy'])}"
            self.terminal.say(f"n-grams count {event['share']:g} times beside the prompt: valid {told}")
        if "step" in event:
            self.progress.update(event["step"], self.steps, self._text())

    def _text(self) -> str:
        parts = [] if self.loss is None else [f"loss {self.loss:.3f}"]
        if len(self.best_of) > 1:
            parts += [f"best valid {percent(min(self.best_of.values()))} to {percent(self.best)}"]
        elif self.accuracy is not None:
            parts += [f"valid {percent(self.accuracy)} (best {percent(self.best)})"]
        return "  ".join(parts)


def train_resumably(
    terminal: Terminal,
    folder: RunFolder,
    corpus: Corpus,
    spoken_lm: SpokenLM,
    options: TrainingOptions,
    initial: Artifact | None = None,
    force: bool = False,
) -> Artifact:
    """Train with progress, a checkpoint and an event log beside the output; save; clear the run folder.

    An interruption is raised again with a line that says how to go on.
    """
    from speechprompt.prompting.train import train

    started = time.perf_counter()
    try:
        with (
            terminal.progress("training") as progress,
            folder.listener(terminal, progress, options) as listen,
        ):
            artifact = train(
                corpus,
                spoken_lm,
                None,
                options,
                initial=initial,
                listener=listen,
                checkpoint=folder.checkpoint,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(folder.resume_hint()) from None
    seconds = round(time.perf_counter() - started, 3)
    artifact = replace(artifact, metrics={**artifact.metrics, "training_seconds": seconds})
    artifact.save(folder.out, force)
    folder.close()
    return artifact
