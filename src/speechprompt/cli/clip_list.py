"""What `predict` is pointed at, as a list of clips: files, folders of files, manifests, stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechprompt.errors import CorpusError, UsageError
from speechprompt.filesystem import is_folder

if TYPE_CHECKING:
    from speechprompt.prompting.bulk import Listed

STDIN = "-"
MANIFESTS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")
INSIDE = ("manifest.jsonl", "manifest.jsonl.gz", "metadata.csv")


def listed_clips(sources: Sequence[str]) -> tuple[list[Listed], str | None]:
    """The clips of all sources in order, each id once, and the tokenizer of the units that they carry.

    A folder is its manifest where it holds one, else every audio file below it, and a refused clip for each folder
    that cannot be listed; a manifest or table is its utterances, units included, labels or not. CorpusError for one
    that cannot be read; UsageError for stdin twice.
    """
    if sources.count(STDIN) > 1:
        raise UsageError("stdin can be read once; name '-' once")
    found: dict[str, Listed] = {}
    tokenizers: set[str | None] = set()
    for source in sources:
        for one, tokenizer in _of_source(source):
            if one.units is not None:
                tokenizers.add(tokenizer)
            if found.setdefault(one.id, one) != one:
                raise CorpusError(f"two clips are called '{one.id}'; answer their manifests one by one")
    if len(tokenizers) > 1:
        raise CorpusError("the manifests carry units of several tokenizers; answer them one by one")
    return list(found.values()), next(iter(tokenizers), None)


def _of_source(source: str) -> Iterator[tuple[Listed, str | None]]:
    from speechprompt.prompting.bulk import Listed

    path = Path(source)
    if source == STDIN:
        yield Listed(STDIN, content=sys.stdin.buffer.read()), None
    elif source.endswith(MANIFESTS) or _holds_manifest(path):
        yield from _of_manifest(path)
    elif is_folder(path):
        from speechprompt.speech.folders import audio_files

        files, closed = audio_files(path)
        for file in sorted([*files, *closed]):
            one = _of_file(str(file))
            yield (replace(one, path=None, refused=closed[file]) if file in closed else one), None
    else:
        yield _of_file(source), None


def _holds_manifest(path: Path) -> bool:
    from speechprompt.speech.folders import has_file

    try:
        return is_folder(path) and any(has_file(path, name) for name in INSIDE)
    except CorpusError:  # a folder that may not be entered: refused as the clip that stands for it
        return False


def _of_file(name: str) -> Listed:
    from speechprompt.prompting.bulk import Listed

    return _with_text(Listed(name, Path(name)))


def _with_text(one: Listed) -> Listed:
    """The clip; refused where its names are not UTF-8, which no answer can repeat."""
    from speechprompt.speech.folders import NOT_TEXT, is_text

    return one if is_text(one.id + one.source) else replace(one, id=repr(one.id), path=None, refused=NOT_TEXT)


def _of_manifest(path: Path) -> Iterator[tuple[Listed, str | None]]:
    from speechprompt.prompting.bulk import Listed
    from speechprompt.speech.manifest import Corpus

    corpus = Corpus.read(path)
    for u in corpus.utterances:
        listed = Listed(u.id, u.audio, u.start_seconds, u.end_seconds, u.units)
        yield _with_text(listed), corpus.tokenizer
