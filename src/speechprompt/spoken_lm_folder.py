"""Writing a spoken LM as a folder that `SpokenLM.load` reads: spoken_lm.json and the LM in safetensors."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from speechprompt.errors import CheckpointError, OutputExists
from speechprompt.filesystem import replace_folder
from speechprompt.spoken_lm import DESCRIPTION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNITS_FOLDER = "units"
LM_FOLDER, TOKENIZER_FOLDER = "lm", "tokenizer"


def check_folder_output(folder: Path, force: bool) -> None:
    """OutputExists when `folder` is there; with `force`, CheckpointError when it is not a spoken LM."""
    if not folder.exists():
        return
    if not force:
        raise OutputExists(folder)
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError(f"{folder} is not a spoken LM, so --force does not replace it")


def write_folder(
    folder: Path,
    model: PreTrainedModel,
    name: str,
    tokenizer: str,
    license: str | None = None,
    force: bool = False,
    version: str = "1",
    tokenizer_folder: Path | None = None,
    texts: Mapping[str, str] | None = None,
    tokenizer_fingerprint: str | None = None,
) -> Path:
    """Write a unit LM and the name of its tokenizer, whole or not at all. Errors as `check_folder_output`.

    With `force`, what was there stays until all is written.

    `tokenizer_folder` is copied in, so that the spoken LM needs nothing else; `texts` are further files by name.
    With `tokenizer_fingerprint`, a tokenizer that its name finds later but that has another one is refused.
    """
    from transformers.utils import logging

    check_folder_output(folder, force)
    logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    about = {
        "schema": 1,
        "name": name,
        "version": version,
        "license": license,
        "tokenizer": tokenizer if tokenizer_folder is None else TOKENIZER_FOLDER,
        "tokenizer_name": tokenizer,
        **({} if tokenizer_fingerprint is None else {"tokenizer_fingerprint": tokenizer_fingerprint}),
        "lm": LM_FOLDER,
    }
    try:
        model.save_pretrained(scratch / LM_FOLDER)
        if tokenizer_folder is not None:
            shutil.copytree(tokenizer_folder, scratch / TOKENIZER_FOLDER)
        for file, text in (texts or {}).items():
            (scratch / file).write_text(text, encoding="utf-8")
        (scratch / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def write_prosody_tokenizer(
    folder: Path, units: str | Path, tracker: str = "f0", mean: str | Mapping[str, float] = "utterance"
) -> Path:
    """A tokenizer folder that adds F0 to the units of a published tokenizer, or of a folder, which is copied in.

    `tracker` is one of `spoken_lm.TRACKERS` (`f0-600`: F0 up to 600 Hz). `mean` is what F0 is measured from: the
    utterance's own, or a table of speakers' mean log-F0. OutputExists when `folder` is there.
    """
    if folder.exists():
        raise OutputExists(folder)
    folder.mkdir(parents=True)
    if isinstance(units, Path):
        shutil.copytree(units, folder / UNITS_FOLDER)
    about = {
        "schema": 1,
        "kind": "prosody",
        "units": UNITS_FOLDER if isinstance(units, Path) else units,
        "tracker": tracker,
        "mean": mean if isinstance(mean, str) else dict(mean),
    }
    (folder / "tokenizer.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return folder
