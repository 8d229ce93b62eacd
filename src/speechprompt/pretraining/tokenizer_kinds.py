"""The tokenizers that can be pretrained here: what their options are and what trains them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from speechprompt.errors import CheckpointError, OutputExists
from speechprompt.filesystem import replace_folder
from speechprompt.pretraining.mel_tokenizer import MelTokenizerOptions, pretrain_mel_tokenizer
from speechprompt.speech.manifest import Utterance
from speechprompt.tokenizers.protocol import UnitTokenizer

MEL_HUBERT = "mel-hubert"


class SavedTokenizer(UnitTokenizer, Protocol):
    """A tokenizer that can be written to a folder."""

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and its weights."""
        ...


class Pretraining(Protocol):
    """From utterances with audio to a tokenizer, resuming from what a folder already holds."""

    def __call__(
        self, name: str, utterances: Any, folder: Path, options: Any, *, device: str, progress: Any
    ) -> SavedTokenizer:
        """Train; every stage leaves its result in `folder`."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """A kind's options (a dataclass whose defaults are complete) and its training."""

    name: str
    options: type[Any]
    pretrain: Pretraining


KINDS: Mapping[str, TokenizerKind] = {
    kind.name: kind for kind in (TokenizerKind(MEL_HUBERT, MelTokenizerOptions, pretrain_mel_tokenizer),)
}
RECORD = "pretraining.json"


def check_tokenizer_output(folder: Path, force: bool) -> None:
    """OutputExists when `folder` is there; with `force`, CheckpointError when it is not a tokenizer."""
    if not folder.exists():
        return
    if not force:
        raise OutputExists(folder)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} is not a tokenizer, so --force does not replace it")


def record_of(kind: str, options: Any, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """How a tokenizer was taught: kind, options, and how many clips of which corpus.

    The corpus is what stands before the slash of an utterance's id.
    """
    clips = Counter(u.id.partition("/")[0] for u in utterances)
    return {"kind": kind, "options": asdict(options), "clips": dict(clips)}


def write_tokenizer(
    folder: Path, tokenizer: SavedTokenizer, record: Mapping[str, Any] | None = None, force: bool = False
) -> Path:
    """Write a tokenizer, and beside it its `record`, whole or not at all. Errors as `check_tokenizer_output`.

    With `force`, what was there stays until all is written.
    """
    check_tokenizer_output(folder, force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    new = scratch / "new"
    try:
        tokenizer.save(new)
        if record is not None:
            (new / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        replace_folder(new, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
