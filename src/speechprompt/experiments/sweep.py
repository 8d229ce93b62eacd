"""Training options tried side by side: trials in joint runs over one LM, judged on validation, the best kept.

The test split is never looked at. The best of many validation accuracies is too good by selection, so it is what
chooses, not a result; `evaluate` on the test split gives that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprompt.errors import WorkError
from speechprompt.experiments.search import Changes, Searcher
from speechprompt.filesystem import replace_folder

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.prompting.task import Task
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

BEST, TRIALS, SWEEP, CHECKPOINT = "best", "trials.jsonl", "sweep.json", "checkpoint.pt"

Listener = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of options and how it did on validation; `trained_parameters` as in its artifact."""

    number: int
    changes: Changes
    accuracy: float
    loss: float
    step: int
    trained_parameters: int

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: accuracy, then loss."""
        return self.accuracy, -self.loss


@dataclass
class Sweep:
    """A sweep over one task of an encoded corpus, in a folder where a stopped one goes on.

    `at_once` trials train in one run. `described` is what makes it this sweep and no other.
    """

    folder: Path
    corpus: Corpus
    task: Task
    spoken_lm: SpokenLM
    options: TrainingOptions
    described: Mapping[str, Any]
    at_once: int = 6

    def run(self, searcher: Searcher, listener: Listener | None = None) -> list[Trial]:
        """Run every trial that is not known; all of them, best first. WorkError when the folder is another sweep's.

        `listener` hears the training's events and, after each trial, {"event": "trial", ...}.
        """
        tell = listener or (lambda event: None)
        trials = self._resumed()
        for trial in trials:
            searcher.tell(trial.changes, trial.accuracy)
            tell({"event": "trial", **asdict(trial)})
        while proposed := searcher.propose(self.at_once):
            found = self._train(proposed, len(trials), tell)
            self._keep(trials, found)
            for trial, _ in found:
                trials.append(trial)
                searcher.tell(trial.changes, trial.accuracy)
                tell({"event": "trial", **asdict(trial)})
        return sorted(trials, key=lambda trial: trial.rank, reverse=True)

    def _keep(self, known: Sequence[Trial], found: Sequence[tuple[Trial, Artifact]]) -> None:
        """Write down trials of one run, all or none, so that its checkpoint is theirs until they are known."""
        from speechprompt.prompting.training import remove_checkpoint

        best, artifact = max(found, key=lambda one: one[0].rank)
        if not known or best.rank > max(trial.rank for trial in known):
            artifact.save(self.folder / BEST, force=True)
        unfinished = self.folder / f"{TRIALS}.tmp"
        lines = [json.dumps(asdict(trial)) + "\n" for trial in [*known, *(trial for trial, _ in found)]]
        unfinished.write_text("".join(lines), encoding="utf-8")
        unfinished.replace(self.folder / TRIALS)
        remove_checkpoint(self.folder / CHECKPOINT)

    def _train(self, proposed: Sequence[Changes], known: int, tell: Listener) -> list[tuple[Trial, Artifact]]:
        from speechprompt.prompting.joint import Job, train_jobs
        from speechprompt.prompting.recipes import TrainingOptions
        from speechprompt.prompting.training_copies import with_training_copies

        fixed = self.options.given()
        jobs = [
            Job(
                f"trial {known + place}",
                self.corpus,
                self.task,
                TrainingOptions.of_recipe(self.options.recipe, {**fixed, **changes}),
            )
            for place, changes in enumerate(proposed)
        ]
        variants = [job.options for job in jobs]
        self.corpus = with_training_copies(self.corpus, self.spoken_lm, variants).corpus
        jobs = [replace(job, corpus=self.corpus) for job in jobs]
        artifacts = train_jobs(jobs, self.spoken_lm, tell, self.folder / CHECKPOINT)
        found = []
        for place, (changes, artifact) in enumerate(zip(proposed, artifacts, strict=True)):
            valid = artifact.metrics["valid"]
            size = artifact.config.trained_parameters
            found.append(
                (
                    Trial(
                        known + place, dict(changes), valid["accuracy"], valid["loss"], valid["step"], size
                    ),
                    artifact,
                )
            )
        return found

    def _resumed(self) -> list[Trial]:
        """Trials that an interrupted run finished; makes the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        description = self.folder / SWEEP
        text = json.dumps(self.described, indent=2, sort_keys=True) + "\n"
        if description.exists() and description.read_text(encoding="utf-8") != text:
            raise WorkError(f"{self.folder} is left from another sweep; delete it, or choose another --out")
        description.write_text(text, encoding="utf-8")
        file = self.folder / TRIALS
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        trials = [Trial(**json.loads(line)) for line in whole]
        best = self.folder / BEST
        if trials and not best.is_dir():
            raise WorkError(f"{self.folder} has lost its best prompt; delete it and start over")
        file.write_text("".join(whole), encoding="utf-8")
        return trials


def finish(sweep: Sweep, trials: Sequence[Trial], out: Path) -> dict[str, Any]:
    """Move a finished sweep to `out` (replacing what is there) with its table as sweep.json; that table."""
    document = {
        **sweep.described,
        "best": str(out / BEST),
        "trials": [asdict(trial) for trial in trials],
    }
    (sweep.folder / SWEEP).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (sweep.folder / TRIALS).unlink()
    replace_folder(sweep.folder, out)
    return document
