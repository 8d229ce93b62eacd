"""Folders: told from files, and put in the place of older ones so that no failure leaves neither."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def is_folder(entry: os.DirEntry[str] | Path) -> bool:
    """Whether an entry is a folder or a link to one; False where that cannot be told."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, a path through a closed folder
        return False


def replace_folder(new: Path, target: Path) -> None:
    """Move `new` to `target` on the same file system; what was there (a link: the link) goes once that is done.

    OSError when it cannot be done; what was there is then back in its place, as it is after Ctrl-C.
    """
    if not target.exists():
        new.replace(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    old = aside / "folder"
    try:
        target.replace(old)
        new.replace(target)
    finally:  # after Ctrl-C, too
        if os.path.lexists(old) and not target.exists():
            old.rename(target)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
