"""A folder of label folders, with or without split folders above them."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from speechprompt.errors import CorpusError
from speechprompt.filesystem import is_folder
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.rows import Row, Source, assemble
from speechprompt.speech.splits import canonical_split

_FORMATS = "wav flac ogg opus oga mp3 aif aiff aifc au caf w64 rf64 m4a mp4 aac webm mkv"
_NO_LABELS = (".", "__MACOSX", "lost+found")  # the last is a file system's, and closed to its users
AUDIO_SUFFIXES = frozenset("." + name for name in _FORMATS.split())
NOT_TEXT = "a file name that is not UTF-8 cannot be written into answers and reports; rename the file"


def read_label_folders(
    folder: Path, slots: Sequence[str] | None, seed: int, skip_unreadable: bool = False
) -> Corpus:
    """Read FOLDER/LABEL/…/clip.wav or FOLDER/SPLIT/LABEL/…/clip.wav; the slot is named `label`.

    Without label folders the utterances have no labels (enough to encode, not to train). CorpusError: no
    audio, a folder that cannot be listed, a file name that is not UTF-8 (with `skip_unreadable` such files are left
    out and listed), or split folders beside one that is none.
    """
    closed: dict[Path, str] = {}
    found = _clips(folder, closed)
    clips = sorted(found, key=lambda parts: [unicodedata.normalize("NFC", part) for part in parts])
    if closed:
        more = f" ({len(closed) - 1} more folders cannot be listed)" if len(closed) > 1 else ""
        raise CorpusError(f"{min(closed.items())[1]}{more}")
    if not clips:
        raise CorpusError(
            f"{folder} holds no audio, manifest.jsonl, metadata.csv or metadata.jsonl; check that it is the one"
        )
    clips, odd = _named(folder, clips)
    if odd and not (skip_unreadable and clips):
        more = f" ({len(odd) - 1} more files have such names)" if len(odd) > 1 else ""
        raise CorpusError(f"{NOT_TEXT}, or leave it out with --skip-unreadable: {odd[0]}{more}")
    tops = {parts[0] for parts in clips if len(parts) > 1}
    splits = {top: top for top in tops if canonical_split(top)}
    by_split = bool(tops) and len(splits) == len(tops)
    _check_tops(folder, clips, tops, set(splits))
    depth = 1 + by_split  # how many folders deep a labelled clip lies
    labelled = [parts for parts in clips if len(parts) > depth]
    stray = len(clips) - len(labelled)
    notices = [f"{len(odd)} files were left out: {NOT_TEXT}; first: {odd[0]}"] if odd else []
    if labelled and stray:
        notices.append(f"{stray} audio files in {folder} lie outside label folders and were left out")
    if not labelled:
        notices.append(f"{folder} has no label folders, so its utterances have no labels")
    source = Source(str(folder), folder.resolve().name, notices=tuple(notices))
    rows = (_row(folder, parts, by_split, bool(labelled)) for parts in labelled or clips)
    return replace(assemble(source, rows, slots, seed), left_out=dict.fromkeys(odd, NOT_TEXT))


def _named(folder: Path, clips: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The clips whose paths can be written down, and the paths of the others in a form that can."""
    odd = [parts for parts in clips if not is_text(str(folder.joinpath(*parts)))]
    kept = [parts for parts in clips if is_text(str(folder.joinpath(*parts)))] if odd else list(clips)
    return kept, [repr(str(folder.joinpath(*parts))) for parts in odd]


def _check_tops(folder: Path, clips: Sequence[tuple[str, ...]], tops: set[str], splits: set[str]) -> None:
    """CorpusError when some folders are splits and others are not: two or more split names over label folders."""
    others = sorted(tops - splits)
    if others and len(splits) > 1 and all(len(parts) > 2 for parts in clips if parts[0] in splits):
        named = " and ".join(sorted(splits))
        raise CorpusError(
            f"{folder} holds the splits {named}, and beside them '{others[0]}', which is none; move it away, or name "
            "it train, valid or test"
        )


def split_folders(folder: Path) -> dict[str, Path]:
    """The subfolders of a folder that are named as splits, in order of name. CorpusError: it cannot be listed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CorpusError(_closed(folder, error)) from error
    return {path.name: path for path in entries if is_folder(path) and canonical_split(path.name)}


def has_file(folder: Path, name: str) -> bool:
    """Whether a folder holds a file of that name. CorpusError: the folder may not be entered."""
    try:
        return stat.S_ISREG((folder / name).stat().st_mode)
    except PermissionError as error:
        raise CorpusError(_closed(folder, error)) from error
    except OSError:
        return False


def audio_files(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Every audio file below a folder, sorted, and the folders that cannot be listed, with why.

    Hidden files and folders are left out. CorpusError: neither.
    """
    closed: dict[Path, str] = {}
    found = [folder.joinpath(*parts) for parts in sorted(_clips(folder, closed))]
    if not found and not closed:
        raise CorpusError(f"{folder} holds no audio files; check that it is the one")
    return found, closed


def is_text(name: str) -> bool:
    """Whether a file name can be written down: one that is not UTF-8 reaches Python with half characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _closed(folder: Path, error: OSError) -> str:
    """What is said of a folder that cannot be listed."""
    name = str(folder) if is_text(str(folder)) else repr(str(folder))
    return (
        f"the folder {name} cannot be listed ({error.strerror or error}); make it readable, or move it away"
    )


def _clips(
    folder: Path,
    closed: dict[Path, str],
    inside: tuple[str, ...] = (),
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[tuple[str, ...]]:
    """Paths of audio files below a folder, as parts; hidden files and folders are left out.

    Links to folders are followed, but not back to one `above`, whose clips are there already. Folders that cannot be
    listed go into `closed`, with why: what they hold is not known.
    """
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        closed[folder] = _closed(folder, error)
        return
    here = status.st_dev, status.st_ino
    if here in above:
        return
    for entry in entries:
        if is_folder(entry):
            if not entry.name.startswith(_NO_LABELS):
                yield from _clips(Path(entry.path), closed, (*inside, entry.name), above | {here})
        elif Path(entry.name).suffix.lower() in AUDIO_SUFFIXES and not entry.name.startswith("."):
            yield (*inside, entry.name)


def _row(folder: Path, parts: tuple[str, ...], by_split: bool, labelled: bool) -> Row:
    name = unicodedata.normalize("NFC", "/".join(parts))
    label = unicodedata.normalize("NFC", parts[1 if by_split else 0])
    return Row(
        None,
        name,
        {"label": label} if labelled else {},
        parts[0] if by_split and len(parts) > 1 else None,
        folder.joinpath(*parts),
    )
