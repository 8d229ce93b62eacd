"""Any source that a user may name -> Corpus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from speechprompt.errors import CorpusError, UsageError
from speechprompt.speech.folders import has_file, read_label_folders, split_folders
from speechprompt.speech.jsonl import read_jsonl
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.rows import check_split_field
from speechprompt.speech.tables import METADATA, read_tables

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
METADATA_LINES = "metadata.jsonl"
_FILES = (".jsonl", ".json", ".gz", ".csv", ".tsv", ".txt")


def read_corpus(
    source: str | Path,
    slots: Sequence[str] | None = None,
    split_field: str = "split",
    seed: int = 0,
    skip_unreadable: bool = False,
) -> Corpus:
    """Read a corpus from whatever the user has.

    A manifest (.jsonl, .jsonl.gz) or a folder that holds manifest.jsonl; a folder of label folders (below
    split folders or not); a folder with metadata.csv or metadata.jsonl; a csv or tsv; a NeMo manifest (.jsonl, .json);
    `hf:owner/name[:config]`, or `owner/name` where no such path exists. `slots` picks and orders the label
    slots. `split_field` names the field that holds the split. `seed` draws the splits that are missing; a
    notice says so. The draw looks at all labels, whichever slots are picked; of a table, a NeMo manifest or a data
    set only the fields that `slots` names are labels, so there the same draw takes the same slots.
    `skip_unreadable` leaves out the files of label folders whose names are not UTF-8, and lists them.
    CorpusError, one line with file and line number: material that contradicts itself, or a folder that cannot
    be listed. UnknownName: a slot or a `split_field` that does not exist. UsageError: a slot named twice.
    Side effects: only a data set id downloads and writes.
    """
    if isinstance(slots, str):
        slots = (slots,)
    if slots is not None and len(set(slots)) < len(slots):
        raise UsageError(f"the slots {', '.join(slots)} name one twice; name each once")
    corpus = _read(source, slots, split_field, seed, skip_unreadable)
    if split_field == "split":
        return corpus
    # two ways to divide one source have two rules
    rule = f"field {split_field}"
    return replace(corpus, split_rule=f"{rule}; {corpus.split_rule}" if corpus.split_rule else rule)


def _read(
    source: str | Path, slots: Sequence[str] | None, split_field: str, seed: int, skip_unreadable: bool
) -> Corpus:
    text = str(source)
    path = Path(source).expanduser()
    looks_hub = isinstance(source, str) and _HUB_ID.fullmatch(text) and path.suffix not in _FILES
    if text.startswith("hf:") or (looks_hub and not path.exists()):
        from speechprompt.speech.hub import read_hub

        return read_hub(text.removeprefix("hf:"), slots, split_field, seed)
    if path.is_dir():
        return _read_folder(path, slots, split_field, seed, skip_unreadable)
    if not path.exists():
        raise CorpusError(f"{path} does not exist; name a manifest, a folder, a table or a data set id")
    suffixes = path.suffixes[-2:]
    if suffixes[-1:] in ([".jsonl"], [".json"]) or suffixes in ([".jsonl", ".gz"], [".json", ".gz"]):
        return read_jsonl(path, slots, split_field, seed)
    if path.suffix in (".csv", ".tsv", ".txt"):
        return read_tables([(path, None)], path.stem, slots, split_field, seed)
    raise CorpusError(f"{path} is no corpus; name a .jsonl, .jsonl.gz, .csv or .tsv file, or a folder")


def _read_folder(
    folder: Path, slots: Sequence[str] | None, split_field: str, seed: int, skip_unreadable: bool
) -> Corpus:
    for name in ("manifest.jsonl", "manifest.jsonl.gz"):
        if has_file(folder, name):
            return read_jsonl(folder / name, slots, split_field, seed)
    name = folder.resolve().name
    if has_file(folder, METADATA):
        return read_tables([(folder / METADATA, None)], name, slots, split_field, seed)
    if has_file(folder, METADATA_LINES):
        return replace(read_jsonl(folder / METADATA_LINES, slots, split_field, seed), name=name)
    by_split = split_folders(folder)
    if tables := [(path / METADATA, split) for split, path in by_split.items() if has_file(path, METADATA)]:
        return read_tables(tables, name, slots, split_field, seed)
    check_split_field(split_field, ())
    return read_label_folders(folder, slots, seed, skip_unreadable)
