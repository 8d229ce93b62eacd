"""Split lists that were published apart from the audio: several small files, or one with a split column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from speechprompt.corpora.source import Source, plain
from speechprompt.corpora.splitting import SPLITS
from speechprompt.corpora.tables import read_table
from speechprompt.errors import CorpusError, UsageError

SPLIT_NAMES = {name: name for name in SPLITS} | {"dev": "valid", "val": "valid", "validation": "valid"}
PATH_COLUMNS = ("original_path", "path", "filename", "file", "audio")


class Listed(NamedTuple):
    """A line of a split list; `split` is the split, or the part of the published form it came from."""

    path: str
    label: str
    split: str


class Part(NamedTuple):
    """Lines `first` to `last` of one published file make (a part of) a split."""

    file: str
    split: str
    first: int = 0
    last: int | None = None


def read_split_list(
    source: Source, parts: Sequence[Part], folders: Sequence[str] = ()
) -> list[Listed] | None:
    """The lines of the split list of a corpus, or None when there is none and none was asked for.

    Looks at `--split-list` (one file with a split column, or any of the published files, or their folder),
    then for the published names in the corpus folder and in `folders` below it. Raises CorpusError when the
    list is incomplete or the rule `paper` was asked for by name and no list is there.
    """
    chosen = source.split_list
    if chosen is None:
        places = [source.find(f"{folder}{parts[0].file}") for folder in ("", *(f"{f}/" for f in folders))]
        chosen = next((place for place in places if place is not None), None)
    if chosen is None:
        if source.rule_was_named:
            raise CorpusError(
                f"split rule '{source.rule}' needs the published list {parts[0].file}; pass it with "
                f"--split-list"
            )
        return None
    if not chosen.exists():
        raise UsageError(f"no split list at {chosen}; pass an existing file with --split-list")
    if chosen.is_file() and (lines := _one_file(chosen)) is not None:
        return lines
    return list(_published(chosen if chosen.is_dir() else chosen.parent, parts))


def _one_file(path: Path) -> list[Listed] | None:
    """The form `original_path,label,split`; None when there is no split column."""
    rows = list(read_table(path))
    if not rows or "split" not in rows[0]:
        return None
    column = next((name for name in PATH_COLUMNS if name in rows[0]), None)
    if column is None:
        raise CorpusError(
            f"{path} has no column {' or '.join(PATH_COLUMNS)}; see the form original_path,label,split"
        )
    return [Listed(row[column], row.get("label", ""), _split_name(path, row["split"])) for row in rows]


def _split_name(path: Path, written: str) -> str:
    name = SPLIT_NAMES.get(written.lower())
    if name is None:
        raise CorpusError(f"{path} holds the split '{written}'; write train, valid or test")
    return name


def _published(folder: Path, parts: Sequence[Part]) -> Iterator[Listed]:
    for part in parts:
        path = folder / part.file
        if not path.is_file():
            raise CorpusError(f"the split list is incomplete: {path} is missing; put it beside the others")
        rows = list(read_table(path, columns=("filename", "label")))
        for row in rows[part.first : part.last]:
            yield Listed(row["filename"], row["label"], part.split)


def tail(path: str, parts: int) -> str:
    """The last parts of a path, in one spelling: the key under which lists and folders meet."""
    return plain("/".join(path.replace("\\", "/").split("/")[-parts:])).casefold()


def matched(
    source: Source, lines: Sequence[Listed], files: Mapping[str, str], parts: int
) -> Iterator[tuple[str, Listed]]:
    """Pair each line with its file (`files` maps a tail to a path); what is absent is left out or an error."""
    used = set()
    for line in lines:
        key = tail(line.path, parts)
        if key in files:
            used.add(key)
            yield files[key], line
        else:
            source.skip(line.path, "is in the split list but not in the folder")
    if len(used) < len(files):
        source.notice(f"{len(files) - len(used)} files are in no split list and are left out")
