"""The command `show`: what an artifact is, without loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import add_command
from speechprompt.cli.terminal import Terminal, pairs, percent, table

if TYPE_CHECKING:
    from speechprompt.prompting.artifact import PromptConfig

SHOWN_LABELS = 12

Folder = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A prompt folder.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, show, "speechprompt show prompts/colour")


def show(terminal: Terminal, artifact: Folder) -> None:
    """What a prompt answers, on which spoken LM, trained how and on what, and how well."""
    from speechprompt.prompting.artifact import read_config, read_metrics

    config, metrics = read_config(artifact), read_metrics(artifact)
    document = {
        "artifact": str(artifact),
        **config.model_dump(mode="json", by_alias=True),
        "metrics": metrics,
    }
    terminal.show(document, *_parts(artifact, config, metrics))


def _parts(folder: Path, config: PromptConfig, metrics: Mapping[str, Any]) -> list[Any]:
    corpus, numbers = config.corpus, _number_rows(metrics)
    counts = ", ".join(f"{split} {count}" for split, count in corpus.get("utterances", {}).items() if count)
    facts = {
        "prompt": str(folder),
        "spoken LM": f"{config.spoken_lm} (unit LM {config.lm_fingerprint})",
        "method": f"{config.method}, length {config.prompt_length}",
        "verbalizer": f"{config.verbalizer_name}, {config.decoding}",
        "trained parameters": f"{config.trained_parameters:,}",
        "prompts": f"{len(config.members)} that answer together" if config.members else None,
        "answers": _answers(config.answer_copies),
        "recipe": f"{config.recipe}, seed {config.seed}",
        "data": f"{corpus.get('name')} ({counts})",
        "abstains": _abstention(config.threshold, metrics),
        "licence": corpus.get("licence"),
        "splits": corpus.get("split_rule"),
        "shots": _shots(corpus.get("shots")),
        "made with": ", ".join(f"{name} {version}" for name, version in config.versions.items()),
    }
    slots = [(slot, len(labels), _listed(labels)) for slot, labels in config.slots.items()]
    options = {name: value for name, value in config.options.items() if name not in ("recipe", "seed")}
    parts: list[Any] = [pairs(facts), "", table(("slot", "labels", ""), slots), ""]
    if numbers:
        parts += [table(("split", "accuracy", ""), numbers), ""]
    return [*parts, "training options", pairs({f"  {k.replace('_', '-')}": v for k, v in options.items()})]


def _answers(copies: int) -> str | None:
    """How a clip is heard, where that is more than once."""
    return f"the mean over a clip and {copies} copies of it at other speeds" if copies else None


def _shots(draw: object) -> str | None:
    """How many utterances trained the prompt, where they were few by choice."""
    return f"{draw.get('count')} a label, seed {draw.get('seed')}" if isinstance(draw, Mapping) else None


def _abstention(threshold: float, metrics: Mapping[str, Any]) -> str | None:
    """Below which score the prompt abstains, and what that does on validation; None when it never does."""
    numbers = metrics.get("trust")
    if not threshold or not isinstance(numbers, Mapping):
        return None
    error = numbers.get("error_among_answers")
    wrong = "" if error is None else f", {percent(error)} of those wrong"
    return f"below a score of {threshold:.3f}: answers {percent(numbers['coverage'])} of validation{wrong}"


def _listed(labels: list[str]) -> str:
    rest = len(labels) - SHOWN_LABELS
    return ", ".join(labels[:SHOWN_LABELS]) + (f", … and {rest} more" if rest > 0 else "")


def _number_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Accuracy by split: a number from training, an interval from an evaluation."""
    from speechprompt.prompting.artifact import over_copies

    rows = []
    for split, numbers in metrics.items():
        if not isinstance(numbers, Mapping) or "accuracy" not in numbers:
            continue
        accuracy, heard = numbers["accuracy"], over_copies(numbers.get("copies"))
        if isinstance(accuracy, Mapping):
            ends = f"[{percent(accuracy['low'])}, {percent(accuracy['high'])}]"
            rows.append((split, percent(accuracy["estimate"]), ends + heard))
        else:
            rows.append((split, percent(accuracy), f"best of training, step {numbers.get('step')}{heard}"))
    return rows
