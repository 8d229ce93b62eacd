"""A unit store as a corpus without labels: what was encoded once may teach a unit LM."""

from __future__ import annotations

import json
from pathlib import Path

from speechprompt.errors import CorpusError
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.unit_store import DESCRIPTION, UnitStore


def is_store(folder: Path) -> bool:
    """Whether a folder is one tokenizer's unit store."""
    return (folder / DESCRIPTION).is_file()


def read_store(folder: Path) -> tuple[Corpus, str]:
    """Everything that a store holds, as training utterances, and the fingerprint of the tokenizer that made it.

    A store knows no splits: clips that a test scores train too, unless they are excluded. CorpusError when the
    folder is damaged or was renamed.
    """
    try:
        stated = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        fingerprint, precision = str(stated["tokenizer_fingerprint"]), str(stated["precision"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorpusError(f"{folder / DESCRIPTION} cannot be read ({error})") from None
    store = UnitStore(folder.absolute().parent, fingerprint, precision)
    if store.folder.name != folder.absolute().name:
        raise CorpusError(f"{folder} is not where its own {DESCRIPTION} puts it; give it its name back")
    units = store.get_many(store.keys())
    utterances = tuple(Utterance(key, "train", {}, units=units[key]) for key in sorted(units))
    return Corpus(f"unit store {folder.name}", utterances, {}, notices=tuple(store.notices)), fingerprint
