"""Foreign model files as inert material: torch checkpoints, k-means files, tar archives, fairseq dictionaries.

Nothing in a file is ever run: pickles are followed opcode by opcode and every unknown class becomes an `Opaque`.
What is malformed, cut off, hostile or simply something else raises one CheckpointError. Knows no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechprompt.checkpoints.archives import open_archive_members, opened, read_dictionary, reading
from speechprompt.checkpoints.inert_pickle import Global, Opaque
from speechprompt.checkpoints.kmeans_files import read_kmeans_centres
from speechprompt.checkpoints.torch_files import read_torch_file
from speechprompt.checkpoints.tree import tensors_of, without_prefix

__all__ = [
    "Global",
    "Opaque",
    "open_archive_members",
    "read_checkpoint",
    "read_dictionary",
    "read_kmeans_centres",
    "reading",
    "tensors_of",
    "without_prefix",
]


def read_checkpoint(source: str | Path | bytes) -> Any:
    """What torch.save wrote, zipped or in the older layout: dicts, lists and scalars with tensors on the CPU.

    Objects of other classes are `Opaque`, OmegaConf containers plain, numpy arrays numpy's. fairseq's optimiser
    state is left out. CheckpointError when the file is damaged, cut off, declares more than it holds, or is not
    a torch file.
    """
    with reading(source, "a torch checkpoint"), opened(source) as (file, size):
        return read_torch_file(file, size)
