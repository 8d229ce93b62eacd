"""Prepare a made-up corpus of a million files: seconds, and bytes of memory a file.

    python benchmarks/prepare_million.py --files 1000000 --layout voxceleb1

Files are links to one empty file where the file system allows it, in a folder that is deleted afterwards. Memory
is the growth of the peak resident set of the process that prepares, over the same process with nothing to do.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FILES_A_LINK = 30_000


def names(layout: str, files: int) -> Iterator[str]:
    """Relative paths in the official layout of a corpus."""
    for number in range(files):
        if layout == "voxceleb1":
            yield f"dev/wav/id{10001 + number // 800}/video{number // 40 % 20:06d}/{number % 40:05d}.wav"
        elif layout == "google-speech-commands-v1":
            yield f"{('yes', 'no', 'bed')[number % 3]}/{number // 30:08x}_nohash_{number % 30}.wav"
        elif layout == "fsdd":
            yield f"recordings/{number % 10}_speaker{number // 1000}_{number // 10 % 100}.wav"
        else:
            yield f"data/{('bangla', 'welsh', 'british')[number % 3]}/speaker_{number // 3000:02d}/{number:09d}.wav"


def build(root: Path, layout: str, files: int) -> None:
    """Make the tree, hard-linking to few inodes."""
    made: set[str] = set()
    source = root / "empty"
    for number, name in enumerate(names(layout, files)):
        if number % FILES_A_LINK == 0:
            source = root / f".empty{number}"
            source.touch()
        path = root / name
        folder = os.path.dirname(path)  # noqa: PTH120 - a million times
        if folder not in made:
            made.add(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path)


def measure(layout: str, root: str, out: str) -> None:
    """In the child: prepare and report what it took."""
    from speechprompt.corpora import prepare
    from speechprompt.corpora.registry import describe

    rule = "speaker-hash" if layout.startswith("google") else None
    variant = "words" if layout.startswith("google") else None
    describe(layout)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    prepared = prepare(layout, root, out, split_rule=rule, variant=variant)
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{layout}: {prepared.rows} rows, {seconds:.1f} s, {grown / prepared.rows:.0f} bytes a file")


def main() -> int:
    """Build, measure in a fresh process, delete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--layout", default="voxceleb1")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.layout, *options.measure)
        return 0
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "root").mkdir()
        build(folder / "root", options.layout, options.files)
        command = [sys.executable, __file__, "--layout", options.layout, "--measure"]
        return subprocess.call([*command, str(folder / "root"), str(folder / "manifest.jsonl")])
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
