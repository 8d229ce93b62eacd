"""How fast the bundled spoken LM is, from waveform to label, on one thread.

    python benchmarks/bundled.py [--lm tiny] [--seconds 1,3,10] [--batch 8] [--json FILE]

Real time over CPU time of the tokenizer, of the unit LM with a prompt of default length, and of both; and the share
that the LM adds to the tokenizer's time. Clips are cut from the demo corpus's speech laid end to end; medians of
repeated runs.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from throughput import cpu_seconds

from speechprompt.lms.batch import collate
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.classifier import classify
from speechprompt.prompting.initialisation import new_entry
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.task import Task
from speechprompt.speech.audio import read_waveform
from speechprompt.speech.readers import read_corpus
from speechprompt.spoken_lm import SpokenLM

DEMO = Path(__file__).parents[1] / "src" / "speechprompt" / "corpora" / "demo"


def main() -> None:
    """Measure every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lm", default="tiny")
    parser.add_argument("--seconds", default="1,3,10")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spoken = SpokenLM.load(arguments.lm)
    rows = [
        measure(spoken, float(seconds), arguments.batch, arguments.repeats)
        for seconds in arguments.seconds.split(",")
    ]
    print(f"{spoken.name}, one thread, {arguments.batch} clips a batch, {platform.machine()}")
    print("clip   units/s  tokenizer x real time   LM x real time   both   LM adds")
    for row in rows:
        print(
            f"{row['seconds']:4.0f} s {row['units_per_second']:7.1f} {row['tokenizer']:22.0f} {row['lm']:16.0f}"
            f" {row['both']:6.0f} {100 * row['lm_share']:7.1f} %"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(spoken: SpokenLM, seconds: float, batch: int, repeats: int) -> dict[str, float]:
    """Figures of one clip length."""
    clips = speech(round(seconds * spoken.tokenizer.sample_rate), batch, spoken.tokenizer.sample_rate)
    encoding = cpu_seconds(lambda: spoken.tokenizer.encode_batch(clips), repeats)
    units = spoken.tokenizer.encode_batch(clips)
    task = Task("toy", {"label": tuple("abcdefgh")})
    targets = torch.zeros(len(units), 1, dtype=torch.long)
    bank = Bank([new_entry(task, spoken.lm, TrainingOptions(), units, targets)]).fold(spoken.lm)

    @torch.inference_mode()
    def answer() -> Any:
        rows = collate(units)
        return classify(spoken.lm, bank, rows, torch.zeros_like(rows.lengths))

    answering = cpu_seconds(answer, repeats)
    total = seconds * batch
    return {
        "seconds": seconds,
        "units_per_second": sum(map(len, units)) / total,
        "tokenizer": total / encoding,
        "lm": total / answering,
        "both": total / (encoding + answering),
        "lm_share": answering / encoding,
    }


def speech(samples: int, count: int, rate: int) -> list[np.ndarray]:
    """Clips of so many samples, cut from the demo corpus's speech laid end to end."""
    paths = [u.audio for u in read_corpus(DEMO).split("train")[::7] if u.audio is not None]
    line: list[np.ndarray] = []
    while sum(map(len, line)) < samples * count:
        line.append(read_waveform(paths[len(line) % len(paths)], rate)[0])
    joined = np.concatenate(line)
    return [joined[i * samples : (i + 1) * samples] for i in range(count)]


if __name__ == "__main__":
    main()
