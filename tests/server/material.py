"""What the server's tests share besides fixtures."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.task import Task
from toys import CORPUS, SPOKEN, artifact_of, entry_of

TOKEN = "a-token-of-some-length"


def clip_bytes(seconds: float = 0.7, seed: int = 0) -> bytes:
    """A wav file of noise whose loudness wanders, at 8 kHz."""
    random = np.random.default_rng(seed)
    loud = np.repeat(random.uniform(0, 0.5, max(1, int(seconds * 10))), 800)[: int(seconds * 8000)]
    buffer = io.BytesIO()
    soundfile.write(buffer, random.standard_normal(len(loud)) * loud, 8000, format="WAV")
    return buffer.getvalue()


def toy_artifact(name: str, slots: list[str], **kind: object) -> Artifact:
    """An artifact of the toy LM that answers some slots of the toy corpus."""
    return artifact_of(entry_of(SPOKEN.lm, task=Task.of_corpus(CORPUS, slots, name), **kind))
