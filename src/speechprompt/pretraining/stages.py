"""Results of a pretraining's stages on disk, each with what it was made from: other audio or options make it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprompt.errors import AudioError
from speechprompt.speech.manifest import Utterance


def stage(
    path: Path, made_from: Mapping[str, Any], make: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """The arrays of a stage: those that `path` (.npz) holds if made from the same, else made and kept there."""
    text = json.dumps(dict(made_from), sort_keys=True)
    if path.exists():
        with np.load(path) as stored:
            if "made_from" in stored and str(stored["made_from"]) == text:
                return dict(stored)
    arrays = make()
    temporary = path.with_suffix(".part.npz")
    kept: dict[str, Any] = {**arrays, "made_from": np.array(text)}
    np.savez(temporary, **kept)
    temporary.replace(path)
    return arrays


def audio_digest(utterances: Sequence[Utterance]) -> str:
    """Hash of ids and of the audio behind them: each file's path, size and time, and the span's ends.

    Files are not read, for they may hold hundreds of hours. AudioError: a file is not there.
    """
    digest = hashlib.sha256()
    for u in utterances:
        described = [u.id, u.start_seconds, u.end_seconds, *(_file(u.audio) if u.audio else ())]
        digest.update(json.dumps(described).encode())
    return digest.hexdigest()


def _file(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise AudioError(f"{path} cannot be read ({error.strerror or error}); check the path") from None
    return str(path.absolute()), status.st_size, status.st_mtime_ns
