"""Artifacts on disk, and how they come and go while a server runs: the watched folder, uploads, deletions.

Everything is validated before it is served, and served by one swap of the catalogue.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from speechprompt.errors import ArtifactError, OutputExists, SpeechPromptError, UsageError
from speechprompt.prompting.artifact import CONFIG, METRICS, TENSORS, Artifact
from speechprompt.server.archive import unpack
from speechprompt.server.catalogue import Catalogue, ServedTask
from speechprompt.server.presenting import details

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names that uploads may have: one folder, no tricks, no quoting in a URL."""

Signature = tuple[tuple[int, int, int], ...]


class ArtifactsFolder:
    """A folder of prompt folders, kept in step with a catalogue. Calls block; changes happen one at a time."""

    def __init__(self, catalogue: Catalogue, folder: Path | None) -> None:
        self.catalogue, self.folder = catalogue, folder
        self.refused: Mapping[str, str] = {}
        self._served: dict[str, Signature] = {}
        self._tried: dict[str, Signature] = {}
        self._changing = threading.Lock()

    def scan(self) -> None:
        """Serve what is new or changed on disk, stop what is gone, keep the old where the new is damaged."""
        if self.folder is None:
            return
        with self._changing:
            present = dict(_signatures(self.folder))
            fresh, refused = [], {k: v for k, v in self.refused.items() if k in present}
            for name, signature in present.items():
                if self._tried.get(name) == signature:
                    continue
                self._tried[name] = signature
                refused.pop(name, None)
                try:
                    fresh.append(self._load(self.folder / name, name))
                except Exception as error:  # one folder must not take the others down
                    foreseen = isinstance(error, SpeechPromptError)
                    refused[name] = str(error) if foreseen else f"{name} cannot be served: {error!r}"
                    extra = {"task": name, "reason": refused[name]}
                    logger.warning("artifact refused", extra=extra, exc_info=not foreseen)
                else:
                    self._served[name] = signature
            self.refused = refused
            self._publish(fresh, gone=[name for name in self._served if name not in present])
            self._tried = {name: self._tried[name] for name in present}

    def _publish(self, fresh: list[ServedTask], gone: list[str]) -> None:
        if fresh:
            self.catalogue.put(*fresh)
        for name in gone:
            del self._served[name]
            if name in self.catalogue.tasks:
                self.catalogue.remove(name)
        for change, names in (("served", [task.name for task in fresh]), ("removed", gone)):
            for name in names:
                logger.info("artifact %s", change, extra={"task": name})

    def install(self, name: str, content: bytes) -> ServedTask:
        """Validate a zip of an artifact folder, keep it under `name` and serve it.

        ArtifactError when it is unfit or the folder cannot be written; UsageError for the name.
        """
        check_name(name)
        try:
            with tempfile.TemporaryDirectory(
                prefix=".incoming-", dir=self.folder, ignore_cleanup_errors=True
            ) as scratch:
                unpack(content, Path(scratch))
                return self.register(self._unpacked(scratch, name), name)
        except OSError as error:
            raise ArtifactError(f"could not write {name}: {error.strerror or error}") from None

    def _unpacked(self, scratch: str, name: str) -> Artifact:
        try:
            return Artifact.load(scratch, self.catalogue.spoken_lm)
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(f"{scratch}/", "").replace(scratch, name)) from None

    def check_free(self, name: str) -> None:
        """OutputExists when a task has this name, or a folder that is not served, such as a refused one."""
        if name in self.catalogue.tasks or (self.folder and os.path.lexists(self.folder / name)):
            raise OutputExists(f"task '{name}'", OutputExists.SEND_REPLACE)

    def register(self, artifact: Artifact, name: str, force: bool = True) -> ServedTask:
        """Serve an artifact under `name` from now on, and keep it in the folder. ArtifactError when it is unfit.

        OutputExists where there is one already, unless `force`.
        """
        check_name(name)
        with self._changing:
            if not force:
                self.check_free(name)
            task = self._ready(replace(artifact, path=None), name)
            if self.folder is not None:
                _save(artifact, self.folder / name)
                self._served[name] = self._tried[name] = _signature(self.folder / name)
                self._forget_refusal(name)
            self.catalogue.put(task)
            logger.info("artifact served", extra={"task": name, "revision": task.revision})
            return task

    def delete(self, name: str) -> None:
        """Delete a task's folder and stop serving it. UnknownName; ArtifactError when the folder stays."""
        with self._changing:
            self.catalogue.task(name)
            if self.folder is not None and name in self._served:
                _remove(self.folder / name)
            self.catalogue.remove(name)
            self._served.pop(name, None)
            self._tried.pop(name, None)
            self._forget_refusal(name)
            logger.info("artifact removed", extra={"task": name})

    def _forget_refusal(self, name: str) -> None:
        self.refused = {key: reason for key, reason in self.refused.items() if key != name}

    def _load(self, path: Path, name: str) -> ServedTask:
        try:
            return self._ready(Artifact.load(path, self.catalogue.spoken_lm), name)
        except SpeechPromptError as error:
            raise ArtifactError(str(error).replace(str(path), name)) from None

    def _ready(self, artifact: Artifact, name: str) -> ServedTask:
        """An artifact that can be served, and shown in the list of tasks. ArtifactError."""
        task = self.catalogue.served(artifact, name)
        try:
            details(task).model_dump_json()
        except ValueError as error:  # pydantic's own: not UTF-8, or nested too deep
            raise ArtifactError(f"{name}: its name or {METRICS} cannot be shown as JSON: {error}") from None
        return task


def check_name(name: str) -> None:
    """UsageError for a name that could not be a folder and a part of a URL."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name[:100]}' cannot be a task's name; use letters, digits, '.', '_' and '-', at most 100"
        )


def _save(artifact: Artifact, folder: Path) -> None:
    """Write a prompt folder, whatever prompt was there. ArtifactError, which names the folder without its path."""
    try:
        artifact.save(folder, force=True)
    except ArtifactError as error:
        raise ArtifactError(str(error).replace(str(folder), folder.name)) from None


def _remove(folder: Path) -> None:
    """Delete a prompt folder, or a link to one but not what it points to. ArtifactError when it is still there."""
    try:
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
    except OSError as error:
        if os.path.lexists(folder):
            raise ArtifactError(
                f"{folder.name} could not be deleted and is served on: {error.strerror}; "
                "make its folder writable for the server, or delete it there"
            ) from None


def _signatures(folder: Path) -> Iterator[tuple[str, Signature]]:
    """Each prompt folder with what changes when it is written. Hidden folders are work in progress."""
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from None
    for child in children:
        if not child.name.startswith(".") and _may_be_prompt(child):
            yield child.name, _signature(child)


def _may_be_prompt(folder: Path) -> bool:
    """Whether it has a configuration, or cannot be looked into, which reading it will say."""
    try:
        return stat.S_ISREG((folder / CONFIG).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _signature(folder: Path) -> Signature:
    stats = []
    for name in (CONFIG, TENSORS, METRICS):
        try:
            found = (folder / name).stat()
        except OSError:
            stats.append((0, 0, 0))
        else:
            stats.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stats)
