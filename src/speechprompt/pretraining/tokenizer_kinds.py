"""The tokenizers that can be pretrained here: what their options are and what trains them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from speechprompt.errors import CheckpointError, OutputExists
from speechprompt.pretraining.mel_tokenizer import MelTokenizerOptions, pretrain_mel_tokenizer
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

    options: type[Any]
    pretrain: Pretraining


KINDS: Mapping[str, TokenizerKind] = {MEL_HUBERT: TokenizerKind(MelTokenizerOptions, pretrain_mel_tokenizer)}


def check_tokenizer_output(folder: Path, force: bool) -> None:
    """OutputExists when `folder` is there; with `force`, CheckpointError when it is not a tokenizer."""
    if not folder.exists():
        return
    if not force:
        raise OutputExists(folder)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} is not a tokenizer, so --force does not replace it")
