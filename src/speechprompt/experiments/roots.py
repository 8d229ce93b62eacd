"""Where the corpora lie on this machine: a TOML file that maps a corpus to its folder."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speechprompt.corpora.registry import MODULES
from speechprompt.errors import UnknownName, UsageError

OPTIONS = ("split_list", "split_rule", "variant")


@dataclass(frozen=True, slots=True)
class CorpusRoot:
    """A corpus's folder, and how it is read where that is not the corpus's default."""

    root: Path
    split_list: Path | None = None
    split_rule: str | None = None
    variant: str | None = None


def read_roots(path: Path) -> dict[str, CorpusRoot]:
    """Corpus name -> folder, from `name = "folder"` or a table `[name]` with `root` and `OPTIONS`.

    Relative paths start at the file. UsageError when it cannot be read; UnknownName for a corpus or key that
    does not exist.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; pass a TOML file") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    for name in values:
        if name not in MODULES:
            raise UnknownName(f"corpus in {path}", name, MODULES)
    return {name: _root(name, value, path) for name, value in values.items()}


def _root(name: str, value: object, path: Path) -> CorpusRoot:
    table = {"root": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not all(isinstance(item, str) for item in table.values()):
        raise UsageError(f"{path}: '{name}' must be a folder, or a table of texts with root = \"folder\"")
    for key in table:
        if key not in ("root", *OPTIONS):
            raise UnknownName(f"key of '{name}' in {path}", key, ("root", *OPTIONS))
    if "root" not in table:
        raise UsageError(f"{path}: '{name}' has no folder; add root = \"folder\"")
    base = path.absolute().parent
    return CorpusRoot(
        root=base / Path(table["root"]).expanduser(),
        split_list=base / Path(table["split_list"]).expanduser() if "split_list" in table else None,
        split_rule=table.get("split_rule"),
        variant=table.get("variant"),
    )
