"""How often the 95 % interval of a paired difference holds the truth, by how many speakers it draws.

    python benchmarks/interval_coverage.py

Two classifiers that are equally good over all speakers, of whom each favours one or the other (20 utterances a
speaker, right .85 of the time, differences with a standard deviation of .1): prints the share of intervals over
speakers (`metrics.paired_difference_interval`) that hold zero.
"""

from __future__ import annotations

import numpy as np

from speechprompt.metrics import paired_difference_interval

RUNS, UTTERANCES, RIGHT, SPREAD = 1000, 20, 0.85, 0.1


def holds_zero(speakers: int, random: np.random.Generator) -> bool:
    """One draw of speakers and of their answers."""
    favour = np.repeat(random.normal(0, SPREAD / 2, speakers), UTTERANCES)
    first, second = (random.random(len(favour)) < np.clip(RIGHT + sign * favour, 0, 1) for sign in (1, -1))
    groups = [str(i) for i in np.repeat(np.arange(speakers), UTTERANCES)]
    return not paired_difference_interval(first[None], second[None], groups).excludes_zero


def main() -> None:
    random = np.random.default_rng(0)
    for speakers in (5, 6, 9, 10, 24, 28, 109):
        held = [holds_zero(speakers, random) for _ in range(RUNS)]
        print(f"{speakers:4} speakers: {100 * np.mean(held):.1f} % of {RUNS} intervals hold the truth")


if __name__ == "__main__":
    main()
