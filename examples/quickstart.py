"""Train a speech classifier, test it and use it, on the corpus that ships or your own.

    python examples/quickstart.py [FOLDER]

FOLDER is a folder of label folders (`clips/yes/*.wav`, `clips/no/*.wav`); by default the bundled demo corpus.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from speechprompt import Corpus, Predictor, SpokenLM, TrainingOptions, evaluate, train
from speechprompt.experiments.demo import demo_corpus


def main(folder: str | None = None, steps: int | None = None) -> float:
    """Train on one slot, print the test accuracy with its interval, answer one clip; returns the accuracy."""
    lm = SpokenLM.load("tiny")
    corpus = Corpus.from_folder(folder) if folder else demo_corpus().with_slots(["command"])
    # without options `train` chooses a recipe that suits the clips; 300 steps show how the demo corpus is learnt
    steps = steps or (None if folder else 300)
    artifact = train(corpus, lm, options=TrainingOptions(steps=steps) if steps else None)

    result = evaluate(lm, artifact, corpus, split="test", baselines=["majority", "n-gram"])
    accuracy = result.numbers.accuracy
    print(f"test accuracy {accuracy.estimate:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]")
    for baseline in result.baselines:
        print(f"  {baseline.name:9s} {baseline.accuracy.estimate:.3f}")

    with tempfile.TemporaryDirectory() as scratch:
        saved = artifact.save(Path(scratch) / "command")
        clip = next(u.audio for u in corpus.split("test") if u.audio is not None)
        for prediction in Predictor(lm, [saved]).predict(clip):
            for slot, answer in prediction.slots.items():
                print(f"{clip.name}: {slot} = {answer.label} ({answer.score:.2f})")
    return accuracy.estimate


if __name__ == "__main__":
    main(*sys.argv[1:2])
