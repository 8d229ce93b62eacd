"""The demo: bundled corpus, bundled spoken LM, one prompt a task, and a report; offline, in minutes.

Spoken by synthetic voices, and split by voice: no voice is in two splits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from speechprompt.errors import ArtifactError, OutputExists
from speechprompt.experiments.sections import EVENTS

if TYPE_CHECKING:
    from speechprompt.evaluation.evaluate import Evaluation
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.predictor import Prediction
    from speechprompt.speech.manifest import Corpus
    from speechprompt.spoken_lm import SpokenLM

FOLDER = Path(__file__).parent.parent / "corpora" / "demo"
REPORT, PROMPTS = "report.html", "prompts"
STEPS, FAST_STEPS = 800, 120
PREDICTED_CLIPS = 3

Update = Callable[[int, int | None, str], None]
Stage = Callable[[str], AbstractContextManager[Update]]
"""A stage by its title; what it yields is told how many of how many, and a few words."""


@dataclass(frozen=True)
class Demo:
    """What the demo made: a prompt and its numbers for each task, answers to a few clips, and the report."""

    report: Path
    evaluations: Mapping[Path, Evaluation]
    predictions: Sequence[tuple[Mapping[str, str], Sequence[Prediction]]]
    seconds: float


def demo_corpus() -> Corpus:
    """The corpus that ships inside the package."""
    from speechprompt.speech.manifest import Corpus

    return Corpus.read(FOLDER / "manifest.jsonl")


def run_demo(out: Path, spoken_lm: SpokenLM, stage: Stage, fast: bool = False, force: bool = False) -> Demo:
    """Encode, train a prompt for each slot, evaluate beside baselines, predict clips, write the report.

    `fast` trains fewer steps. OutputExists unless `force`; ArtifactError when `out` is not a demo's. Side
    effects: the folder `out`, the unit store.
    """
    check_demo_output(out, force)
    started = perf_counter()
    with stage("encoding") as update:
        corpus = _encoded(demo_corpus(), spoken_lm, update)
    if out.exists():
        shutil.rmtree(out)
    trained: dict[Path, tuple[Artifact, Evaluation]] = {}
    for slot in corpus.slots:
        folder = out / PROMPTS / slot
        with stage(f"training {slot}") as update:
            _train(corpus, spoken_lm, slot, FAST_STEPS if fast else STEPS, folder, update)
        with stage(f"scoring {slot}") as update:
            update(0, None, "beside majority, n-gram and probe")
            trained[folder] = _scored(corpus, spoken_lm, folder)
    predictions = _predictions(corpus, spoken_lm, list(trained))
    report = _report(out / REPORT, corpus, spoken_lm, list(trained.values()))
    evaluations = {folder: evaluation for folder, (_, evaluation) in trained.items()}
    return Demo(report, evaluations, predictions, perf_counter() - started)


def check_demo_output(out: Path, force: bool) -> None:
    """OutputExists when `out` is there; with `force`, ArtifactError when it is not what a demo wrote."""
    if not out.exists():
        return
    if not force:
        raise OutputExists(out)
    if not out.is_dir() or {path.name for path in out.iterdir()} - {REPORT, PROMPTS}:
        raise ArtifactError(f"{out} holds other things than a demo's, so --force does not replace it")


def _encoded(corpus: Corpus, spoken_lm: SpokenLM, update: Update) -> Corpus:
    from speechprompt.encoding import encode_corpus

    return encode_corpus(corpus, spoken_lm, listener=lambda done, total: update(done, total, "clips")).corpus


def _train(corpus: Corpus, spoken_lm: SpokenLM, slot: str, steps: int, folder: Path, update: Update) -> None:
    """Train a prompt for one slot and save it with its event log."""
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.prompting.train import train

    told = {"loss": "", "valid": ""}
    events: list[str] = []

    def listen(event: Mapping[str, Any]) -> None:
        events.append(json.dumps(event) + "\n")
        if event["event"] == "step":
            told["loss"] = f"loss {event['loss']:.2f}"
        elif event["event"] == "evaluation":
            told["valid"] = f"  valid {event['accuracy']:.0%}"
        if "step" in event:
            update(event["step"], steps, told["loss"] + told["valid"])

    started = perf_counter()
    options = TrainingOptions(steps=steps)
    artifact = train(corpus.with_slots([slot]), spoken_lm, None, options, listener=listen)
    seconds = round(perf_counter() - started, 3)
    replace(artifact, metrics={**artifact.metrics, "training_seconds": seconds}).save(folder)
    (folder / EVENTS).write_text("".join(events), encoding="utf-8")


def _scored(corpus: Corpus, spoken_lm: SpokenLM, folder: Path) -> tuple[Artifact, Evaluation]:
    """The saved prompt and its evaluation, whose numbers it keeps."""
    from speechprompt.evaluation.evaluate import evaluate
    from speechprompt.prompting.artifact import Artifact, save_metrics

    artifact = Artifact.load(folder, spoken_lm)
    evaluation = evaluate(spoken_lm, artifact, corpus)
    save_metrics(artifact, {**artifact.metrics, evaluation.split: evaluation.to_json()})
    return artifact, evaluation


def _predictions(
    corpus: Corpus, spoken_lm: SpokenLM, folders: Sequence[Path]
) -> list[tuple[Mapping[str, str], Sequence[Prediction]]]:
    """The labels of a few test clips, and what all prompts together answer to them."""
    from speechprompt.prompting.predictor import Predictor

    predictor = Predictor(spoken_lm, folders)
    test = [utterance for utterance in corpus.split("test") if utterance.audio is not None]
    shown = test[:: max(1, len(test) // PREDICTED_CLIPS)][:PREDICTED_CLIPS]
    return [(u.labels, predictor.predict(u.audio)) for u in shown if u.audio is not None]


def _report(
    path: Path, corpus: Corpus, spoken_lm: SpokenLM, trained: Sequence[tuple[Artifact, Evaluation]]
) -> Path:
    from speechprompt.evaluation.reports import Report, write_report
    from speechprompt.experiments.sections import task_section

    test = corpus.split("test")
    sections = [task_section(artifact, evaluation, spoken_lm, test) for artifact, evaluation in trained]
    config = trained[0][0].config
    origins = {
        "spoken LM": f"{config.spoken_lm} ({config.lm_fingerprint})",
        "corpus": f"{corpus.name} ({corpus.licence})",
        "splits": corpus.split_rule or "as read",
        **config.versions,
    }
    subtitle = "One frozen spoken LM, one small trained prompt for each question."
    return write_report(Report("speechprompt demo", tuple(sections), origins, subtitle), path)
