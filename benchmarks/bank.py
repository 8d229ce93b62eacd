"""A thousand prompts in one process: what each costs in memory, and what asking all of them about a clip takes.

    python benchmarks/bank.py --prompt prompts/colour --count 1000

The artifacts are perturbed copies of a real one, saved and loaded as a server loads them. Memory is the growth of
the resident set after a first prompt has answered, so that libraries and the LM are not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechprompt import Artifact, Predictor, SpokenLM
from speechprompt.prompting.artifact import read_config


def resident_bytes() -> int:
    """Resident set of this process (Linux; elsewhere its peak)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@torch.no_grad()
def perturbed_copies(folder: Path, lm: SpokenLM, out: Path, count: int) -> list[Path]:
    """So many copies of an artifact with noise of a hundredth in every trained number, as folders."""
    generator = torch.Generator().manual_seed(0)
    written = []
    for number in range(count):
        artifact = Artifact.load(folder, lm)
        for parameter in artifact.entry.parameters():
            parameter += 0.01 * parameter.std() * torch.randn(parameter.shape, generator=generator)
        written.append(replace(artifact, path=None).save(out / f"task{number:04d}"))
    return written


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Memory a prompt, and CPU seconds of one request that names all of them."""
    lm = SpokenLM.load(read_config(folder).spoken_lm)
    tone = np.sin(np.arange(lm.tokenizer.sample_rate) / 9).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        folders = perturbed_copies(folder, lm, Path(scratch), count)
        predictor = Predictor(lm, [folders[0]])
        predictor.predict(tone)
        gc.collect()
        before, started = resident_bytes(), time.process_time()
        for path in folders[1:]:
            predictor.add(path)
        loading = time.process_time() - started
        gc.collect()
        grown = (resident_bytes() - before) / (count - 1)
        size = next(iter(predictor.prompts.values())).prompt.size_bytes
        predictor.predict(tone, list(predictor.prompts)[:64])
        started = time.process_time()
        answers = predictor.predict(tone)
        asking = time.process_time() - started
    bound = 1.2 * size + 16 * 1024
    return {
        "prompts": len(answers),
        "prefix_and_verbalizer_bytes": size,
        "resident_bytes_a_prompt": round(grown),
        "bound_bytes": round(bound),
        "within_bound": grown <= bound,
        "load_cpu_ms_a_prompt": round(1e3 * loading / (count - 1), 2),
        "ask_all_cpu_seconds": round(asking, 3),
        "ask_cpu_ms_a_prompt": round(1e3 * asking / count, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", type=Path, required=True, help="a trained artifact")
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.prompt, arguments.count), indent=1))
