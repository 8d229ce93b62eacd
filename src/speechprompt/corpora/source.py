"""An opened corpus folder with the options it is read under: files, metadata, and what was left out."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from speechprompt.corpora.headers import Header, read_header
from speechprompt.corpora.protocol import CorpusDescription
from speechprompt.errors import AudioError, CorpusError
from speechprompt.filesystem import is_folder

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".sph", ".aiff", ".aif")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
UNFINISHED_SUFFIXES = (".part", ".partial", ".crdownload", ".download", ".aria2")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z")
PART_OF_ARCHIVE = "_partaa"
"""VoxCeleb comes in pieces that are joined before they are unpacked."""
LISTED_AT_MOST = 20


@dataclass(slots=True)
class Source:
    """A corpus folder, `given` by the user and found (`root`), with the options of one reading.

    `seed` None means the seed of the rule. `notices` are lines a user should be told. `skipped` counts the
    files that were listed but absent or unreadable, `skipped_files` names the first of them.
    """

    description: CorpusDescription
    given: Path
    root: Path
    rule: str
    rule_was_named: bool = False
    task: str | None = None
    variant: str | None = None
    seed: int | None = None
    split_list: Path | None = None
    skip_unreadable: bool = False
    notices: list[str] = field(default_factory=list)
    skipped: int = 0
    skipped_files: list[str] = field(default_factory=list)
    _root_text: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._root_text = f"{self.root}/"

    def seed_or(self, published: int) -> int:
        """The seed that was asked for, else the published one."""
        return published if self.seed is None else self.seed

    def path(self, relative: str) -> Path:
        """Where a file of the corpus lies."""
        return self.root / relative

    def folders(self, relative: str = "") -> list[str]:
        """The names of the folders in a folder, sorted, without hidden ones."""
        with os.scandir(self.root / relative) as entries:
            return sorted(entry.name for entry in entries if not _hidden(entry.name) and is_folder(entry))

    def files(
        self,
        relative: str = "",
        suffixes: tuple[str, ...] = AUDIO_SUFFIXES,
        above: frozenset[tuple[int, int]] = frozenset(),
    ) -> Iterator[str]:
        """The files below a folder, as relative paths, sorted folder by folder; hidden ones are left out.

        Links to folders are followed, but not back to one `above`.
        """
        status = (self.root / relative).stat()
        here = status.st_dev, status.st_ino
        if here in above:
            return
        names, folders = [], []
        with os.scandir(self.root / relative) as entries:
            for entry in entries:
                if _hidden(entry.name):
                    continue
                if entry.name.lower().endswith(suffixes) and not is_folder(entry):
                    names.append(entry.name)
                elif is_folder(entry):
                    folders.append(entry.name)
        prefix = f"{relative}/" if relative else ""
        names.sort()
        yield from (prefix + name for name in names)
        for folder in sorted(folders):
            yield from self.files(prefix + folder, suffixes, above | {here})

    def first(self, *relative: str) -> str | None:
        """The first of these files that exists, or None."""
        return next((name for name in relative if (self.root / name).is_file()), None)

    def find(self, *relative: str) -> Path | None:
        """The first of these files that exists in the corpus folder or the folder that was given, or None."""
        for base in (self.root, self.given, self.root.parent):
            if base == self.root.parent and not base.is_relative_to(self.given):
                continue
            for name in relative:
                if (base / name).is_file():
                    return base / name
        return None

    def require(self, *relative: str, hint: str = "") -> Path:
        """Like `find`, but a CorpusError that says which file is missing and what to do."""
        found = self.find(*relative)
        if found is None:
            advice = hint or f"unpack the whole archive ({self.description.url})"
            raise CorpusError(f"{self.root} lacks {' or '.join(relative)}; {advice}")
        return found

    def metadata(self, slot: str, *relative: str, hint: str = "") -> Path | None:
        """A metadata file that one slot needs: required for its task, a notice where all slots are read."""
        found = self.find(*relative)
        if found is not None:
            return found
        if self.task is None:
            self.notice(f"without {relative[0]} the slot '{slot}' is left out")
        elif slot in self.description.tasks[self.task]:
            return self.require(*relative, hint=hint)
        return None

    def fall_back(self, rule: str, why: str) -> None:
        """Use another split rule than the default one, and say so."""
        self.notice(f"split rule '{rule}' instead of '{self.rule}': {why}")
        self.rule = rule

    def skip(self, relative: str, why: str) -> None:
        """Count a file that cannot be used, or raise CorpusError when nothing may be skipped."""
        if not self.skip_unreadable:
            raise CorpusError(
                f"{self.path(relative)} {why}; finish the download, or pass --skip-unreadable to leave it out"
            )
        self.skipped += 1
        if len(self.skipped_files) < LISTED_AT_MOST:
            self.skipped_files.append(relative)

    def has(self, relative: str) -> bool:
        """Whether a file that the metadata names is there; if not it is left out or an error."""
        if os.path.isfile(f"{self._root_text}{relative}"):  # noqa: PTH113 - a million times
            return True
        self.skip(relative, "is listed but not there")
        return False

    def header(self, relative: str) -> Header | None:
        """The audio header of a file; None when it is unreadable and may be skipped."""
        try:
            return read_header(self.path(relative))
        except AudioError as error:
            if not self.skip_unreadable:
                raise CorpusError(str(error)) from None
            self.skip(relative, "is unreadable")
            return None

    def notice(self, line: str) -> None:
        """Tell the user something once."""
        if line not in self.notices:
            self.notices.append(line)


def plain(text: str) -> str:
    """Text in Unicode NFC: file systems differ in how they spell accented letters."""
    return unicodedata.normalize("NFC", text)


def stem(name: str) -> str:
    """A file name without its folders and suffix."""
    return name.rpartition("/")[2].rpartition(".")[0]


def locate(description: CorpusDescription, given: Path) -> Path:
    """The corpus folder at or below (three levels) the given one; CorpusError when none is there."""
    if not given.exists():
        raise CorpusError(f"no folder at {given}; get {description.title} from {description.url} first")
    if not given.is_dir():
        raise CorpusError(f"{given} is a file; unpack it and pass the folder")
    level = [_whole(description, given)]
    for _ in range(4):
        for folder in level:
            if any(next(folder.glob(mark), None) is not None for mark in description.marks):
                return _whole(description, folder)
        level = [child for folder in level for child in _children(folder)][:500]
    names = sorted(path.name for path in given.iterdir())
    for name in names:
        if name.lower().endswith(UNFINISHED_SUFFIXES):
            raise CorpusError(f"{given / name} is an unfinished download; finish it, then unpack it")
    for name in names:
        if name.lower().endswith(ARCHIVE_SUFFIXES) or PART_OF_ARCHIVE in name:
            raise CorpusError(f"{given / name} is packed; unpack it there, and pass the same folder again")
    found = ", ".join(names[:5]) or "nothing"
    raise CorpusError(
        f"{given} does not look like {description.title}: no {' or '.join(description.marks)} in it "
        f"(found: {found}); pass the folder that the archive unpacks to ({description.url})"
    )


def _whole(description: CorpusDescription, folder: Path) -> Path:
    """The folder above, where this one is a part of the corpus and another part lies beside it."""
    others = [name for name in description.parts if name != folder.name]
    if folder.name in description.parts and any((folder.parent / name).is_dir() for name in others):
        return folder.parent
    return folder


def _children(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not _hidden(entry.name) and is_folder(entry))


def _hidden(name: str) -> bool:
    """What systems leave behind: .DS_Store, ._clip.wav, __MACOSX."""
    return name[0] == "." or name == "__MACOSX"
