"""How well a few clips teach, and what it costs: the same lesson with other training options.

    python benchmarks/teach.py FOLDER --labels 2,5,7 --prefix george_ --clips 7

FOLDER holds a folder of clips for each label. The first `--clips` of each label (by name) whose names start with
`--prefix` are taught, the rest asked. Prints, for each set of options, the answers to hidden clips, the accuracy on
the others with the mean negative log-likelihood in nats of their calibrated scores, and CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from speechprompt import SpokenLM
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.outputs import scores_of
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.run import Examples
from speechprompt.prompting.task import Task
from speechprompt.prompting.teach import LESSON_OPTIONS, teach
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.manifest import Corpus, Utterance

NONE = TrainingOptions(label_smoothing=0.0, prompt_dropout=0.0, unit_masking=0.0)
VARIANTS = {
    "without regularisation": NONE,
    "the recipe `default`": TrainingOptions(),
    "label smoothing .1": NONE.model_copy(update={"label_smoothing": 0.1}),
    "smoothing and unit masking .15": NONE.model_copy(update={"label_smoothing": 0.1, "unit_masking": 0.15}),
    "smoothing and span dropout .2 (lessons)": LESSON_OPTIONS,
    "lessons over the state": LESSON_OPTIONS.model_copy(update={"streams": "state"}),
    "lessons over logits": LESSON_OPTIONS.model_copy(update={"streams": "units"}),
    "all three": LESSON_OPTIONS.model_copy(update={"unit_masking": 0.15}),
}
SLOT = "label"


def clips_of(folder: Path, labels: list[str], prefix: str, most: int, spoken_lm: SpokenLM) -> list[Utterance]:
    """Up to `most` encoded clips of every label."""
    rows = []
    for label in labels:
        for path in sorted((folder / label).glob(f"{prefix}*"))[:most]:
            waveform, _ = read_waveform(path, spoken_lm.tokenizer.sample_rate)
            units = spoken_lm.tokenizer.encode(waveform)
            rows.append(Utterance(f"{label}/{path.name}", "train", {SLOT: label}, units=units))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--clips", type=int, default=7)
    parser.add_argument(
        "--asked", type=int, default=24, help="clips of a label at most, the taught ones included"
    )
    parser.add_argument("--steps", type=int, help="by default what a lesson takes")
    parser.add_argument("--lm", default="tiny")
    given = parser.parse_args()
    spoken_lm, labels = SpokenLM.load(given.lm), given.labels.split(",")
    rows = clips_of(given.folder, labels, given.prefix, given.asked, spoken_lm)
    taught, others = [], []
    for label in labels:
        mine = [row for row in rows if row.labels[SLOT] == label]
        taught += mine[: given.clips]
        others += mine[given.clips :]
    corpus = Corpus(given.folder.name, tuple(taught), {SLOT: tuple(labels)})
    asked = Examples.of(Task.of_corpus(corpus), others)
    for name, options in VARIANTS.items():
        began = time.process_time()
        artifact = teach(corpus, spoken_lm, "few", given.steps, options=options)
        cost, held = time.process_time() - began, artifact.metrics["held_out"]
        calibration: Calibration = artifact.config.calibration
        probabilities = calibration.apply(SLOT, scores_of(spoken_lm.lm, artifact.entry, asked)[SLOT])
        right = probabilities.argmax(-1) == asked.targets[:, 0]
        nats = -probabilities.gather(1, asked.targets).log().mean()
        print(
            f"{name:42s} hidden {held['right']}/{held['clips']}  others {float(right.float().mean()):.3f} of "
            f"{len(others)}  {float(nats):.2f} nats  {cost:.1f} CPU s ({torch.get_num_threads()} threads)",
            flush=True,
        )


if __name__ == "__main__":
    main()
