"""Training options side by side on validation rows of several corpora: what the recipe `default` was chosen by.

    python benchmarks/recipe.py --data DATA --rows lithuanian,fsdd --try plain: --try "smooth:label_smoothing=0.1"

DATA holds the folders of unpack.py and, for `commands`, units/gsc_v1_hubert100.jsonl.gz. Test rows are dropped before
anything else: Lithuanian validates on eight of 23 speakers, FSDD on two of six, RAVDESS on six of 20 actors, ESD on two
of eight, VCTK on 20 of 87, ESC-10 on its second fold (the first is dropped), Arabic and the demo on their valid rows,
Speech Commands and Fluent on 1,500 of them. All variants of a corpus train in one joint run. Prints
accuracy and loss on validation at the best evaluation and at the last, and with several seeds also what they answer
together; `--out` appends the same as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechprompt import Corpus, SpokenLM
from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.evaluation.ensembles import ensemble_scores
from speechprompt.experiments.demo import demo_corpus
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.joint import Job, train_jobs
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.speech.manifest import Utterance

FOLDERS = {
    "lithuanian": ("lithuanian_speech_commands/manifest.jsonl", "command", 8),
    "fsdd": ("fsdd/manifest.jsonl", "digit", 2),
    "ravdess": ("ravdess4/manifest.jsonl", "emotion", 6),
    "arabic": ("arabic_speech_commands/manifest.jsonl", "command", 0),
    "esc10": ("esc10/manifest.jsonl", "sound", 0),
    "commands": ("units/gsc_v1_hubert100.jsonl.gz", "command", 0),
    "fluent": ("units/fsc_hubert100.jsonl.gz", "action,object,location", 0),
    "esd": ("units/esd_en_hubert100.jsonl.gz", "emotion", 2),
    "vctk": ("units/vctk_hubert100.jsonl.gz", "gender", 20),
}
"""A manifest, its slots, and how many speakers validate (0: the rows that it says)."""
FOLDS = {"fold1": "test", "fold2": "valid"}
"""What folds are where a corpus comes in folds; all others train."""
MOST_VALID = 1500


def development(row: str, data: Path) -> Corpus:
    """The train and valid rows of a corpus as this script divides them."""
    if row == "demo":
        return _learnt(demo_corpus().with_slots(["command"]))
    name, slot, speakers = FOLDERS[row]
    corpus = Corpus.read(data / name, slot.split(","))
    if all(u.split.startswith("fold") for u in corpus.utterances):
        rows = tuple(replace(u, split=FOLDS.get(u.split, "train")) for u in corpus.utterances)
        corpus = replace(corpus, utterances=rows)
    corpus = _learnt(corpus)
    if speakers:
        known = sorted({u.speaker for u in corpus.utterances if u.speaker is not None})
        out = set(np.random.default_rng(0).permutation(known)[:speakers].tolist())
        rows = tuple(replace(u, split="valid" if u.speaker in out else "train") for u in corpus.utterances)
        return replace(corpus, utterances=rows)
    valid = corpus.split("valid")
    kept = {u.id for u in valid[:: -(-len(valid) // MOST_VALID)]}
    return _only(corpus, lambda u: u.split != "valid" or u.id in kept)


def _learnt(corpus: Corpus) -> Corpus:
    return _only(corpus, lambda u: u.split != "test")


def _only(corpus: Corpus, keep: Any) -> Corpus:
    return replace(corpus, utterances=tuple(u for u in corpus.utterances if keep(u)))


def variant_of(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME:option=value,option=value` as a name and training options."""
    name, _, options = text.partition(":")
    pairs = (part.partition("=") for part in options.split(",") if part)
    return name, {key.strip(): value.strip() for key, _, value in pairs}


def measured(
    row: str, corpus: Corpus, spoken_lm: SpokenLM, tried: Mapping[str, Mapping[str, Any]], given: Any
) -> list[dict[str, Any]]:
    """Train all variants and seeds on an encoded corpus in one run; a line a variant."""
    task, shared = Task.of_corpus(corpus), {"steps": given.steps, "evaluations": given.evaluations}
    seeds = [int(seed) for seed in given.seeds.split(",")]
    options = {
        (name, seed): TrainingOptions.of_recipe("default", {**shared, **changes, "seed": seed})
        for name, changes in tried.items()
        for seed in seeds
    }
    corpus = with_speed_copies(corpus, spoken_lm, [o.copying for o in options.values()]).corpus
    jobs = [Job(f"{name} {seed}", corpus, task, each) for (name, seed), each in options.items()]
    began = time.process_time()
    trained = dict(zip(options, train_jobs(jobs, spoken_lm), strict=True))
    seconds = (time.process_time() - began) / len(jobs)
    valid = corpus.split("valid")
    return [
        {
            "row": row,
            "lm": spoken_lm.name,
            "variant": name,
            "options": dict(tried[name]),
            "train": len(corpus.split("train")),
            "valid": len(valid),
            "cpu_seconds": round(seconds, 1),
            **_numbers([trained[name, seed] for seed in seeds], spoken_lm, valid),
        }
        for name in tried
    ]


def _numbers(artifacts: list[Artifact], spoken_lm: SpokenLM, valid: tuple[Utterance, ...]) -> dict[str, Any]:
    histories = [artifact.metrics["history"] for artifact in artifacts]
    best = [artifact.metrics["valid"] for artifact in artifacts]
    found: dict[str, Any] = {
        "best": [each["accuracy"] for each in best],
        "best_loss": [each["loss"] for each in best],
        "best_step": [each["step"] for each in best],
        "last": [history[-1]["accuracy"] for history in histories],
        "last_loss": [history[-1]["loss"] for history in histories],
        "histories": histories,
        "trained_parameters": artifacts[0].config.trained_parameters,
    }
    if len(artifacts) > 1:
        scores = ensemble_scores(spoken_lm.lm, artifacts, valid)
        slots = artifacts[0].config.slots
        wanted = torch.tensor(
            Task("", {slot: tuple(labels) for slot, labels in slots.items()}).targets(valid)
        ).reshape(-1, len(slots))
        answered = torch.stack([scores[slot].argmax(1) for slot in slots], 1)
        found["together"] = float((answered == wanted).all(1).float().mean())
    return found


def shown(line: Mapping[str, Any]) -> str:
    """A line as text: means over the seeds."""
    mean = {
        name: float(np.mean(line[name])) for name in ("best", "best_loss", "best_step", "last", "last_loss")
    }
    together = f"  together {line['together']:.3f}" if "together" in line else ""
    return (
        f"{line['row']:11s}{line['variant']:28s}best {mean['best']:.3f} loss {mean['best_loss']:.2f} at "
        f"{mean['best_step']:4.0f}  last {mean['last']:.3f} loss {mean['last_loss']:.2f}{together}  "
        f"{line['cpu_seconds']} CPU s, {line['trained_parameters']:,} trained"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", default="lithuanian,fsdd,ravdess,arabic,demo")
    parser.add_argument("--try", dest="tried", action="append", required=True, metavar="NAME:OPTIONS")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--lm", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    spoken_lm = SpokenLM.load(given.lm, given.device, given.dtype)
    tried = dict(variant_of(text) for text in given.tried)
    for row in given.rows.split(","):
        corpus = encode_corpus(development(row, given.data), spoken_lm).corpus
        for line in measured(row, corpus, spoken_lm, tried, given):
            print(shown(line), flush=True)
            if given.out is not None:
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
