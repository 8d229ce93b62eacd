"""How closely and how fast the batch pitch tracker follows YAAPT, per corpus of real speech.

    python benchmarks/pitch.py FOLDER... [--clips 60] [--skip 30] [--maximum-hz 400] [--together 60]

Each FOLDER holds the audio of one corpus. Clips are taken in the order of a hash of their names, after `skip` ones
that the tracker was tuned on. Noise and silence are a row of their own. Voicing decision error (VDE): share of
frames that only one of them calls voiced; gross pitch error (GPE): share of frames that both call voiced and that
differ by over 20 %. Times are processor time of one thread, both trackers in turns on the same clips; the best of
`--rounds`. Both get `--together` clips a call, by default all of them. YAAPT tracks one after another; ours puts like
lengths together in batches of up to 64 s (padding counted), about what one call of `encode` holds (60 s of clips).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from speechprompt.speech.audio import read_waveform
from speechprompt.tokenizers.pitch import BatchPitchTracker
from speechprompt.tokenizers.prosody import Pitch, PitchTracker
from speechprompt.tokenizers.protocol import Waveform
from speechprompt.tokenizers.yaapt import YaaptTracker

SAMPLE_RATE = 16000
NOT_SPEECH = ("noise", "silence", "esc10", "esc50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--skip", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--together", type=int, help="clips a call; all by default")
    parser.add_argument("--maximum-hz", type=int, default=400, help="of ours; YAAPT keeps its 400")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'corpus':32s} clips seconds   VDE     GPE    fine  ms/s  YAAPT ms/s  times faster")
    apart: list[Path] = []
    for folder in arguments.folders:
        files = chosen(folder, arguments.skip, arguments.clips)
        speech = [file for file in files if not any(word in str(file) for word in NOT_SPEECH)]
        apart += [file for file in files if file not in speech]
        if speech:
            report(folder.name, speech, arguments)
    if apart:
        report("(noise and silence)", apart, arguments)


def chosen(folder: Path, skip: int, clips: int) -> list[Path]:
    """Audio files in the order of their names' hashes."""

    def place(file: Path) -> str:
        return hashlib.sha256(f"pitch{file.name}{file.parent.name}".encode()).hexdigest()

    found = sorted((f for kind in ("flac", "wav") for f in folder.rglob(f"*.{kind}")), key=place)
    return found[skip : skip + clips]


def report(name: str, files: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Print one row of the table."""
    clips = [read_waveform(file, SAMPLE_RATE)[0] for file in files]
    seconds = sum(map(len, clips)) / SAMPLE_RATE
    together = arguments.together or len(clips)
    reference, ours = YaaptTracker(), BatchPitchTracker(maximum_hz=arguments.maximum_hz)
    ours.track(clips[:2], SAMPLE_RATE)
    slow = fast = math.inf
    for _ in range(arguments.rounds):
        slower, expected = timed(reference, clips, together)
        faster, found = timed(ours, clips, together)
        slow, fast = min(slow, slower), min(fast, faster)
    a, b = np.concatenate(expected), np.concatenate(found)
    both = (a > 0) & (b > 0)
    off = np.abs(b[both] / a[both] - 1)
    voicing, gross = ((a > 0) != (b > 0)).mean(), (off > 0.2).mean() if both.any() else 0.0
    fine = np.median(off[off <= 0.2]) if both.any() else 0.0
    print(
        f"{name:32s} {len(clips):5d} {seconds:7.1f} {voicing:7.2%} {gross:6.2%} {fine:6.2%} "
        f"{1000 * fast / seconds:5.1f} {1000 * slow / seconds:11.1f} {slow / fast:13.1f}"
    )


def timed(tracker: PitchTracker, clips: Sequence[Waveform], together: int) -> tuple[float, list[Pitch]]:
    """Processor seconds and tracks of all clips, so many a call."""
    start, tracks = time.process_time(), []
    for first in range(0, len(clips), together):
        tracks += tracker.track(clips[first : first + together], SAMPLE_RATE)
    return time.process_time() - start, tracks


if __name__ == "__main__":
    main()
