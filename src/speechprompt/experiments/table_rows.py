"""What a table of results declares: a row a test, with its source, its protocol and the options of its methods.

A declaration is a TOML file: tables `[prompt]`, `[cnn]` and `[finetune]` hold options for all rows, `[[row]]` a
row; a row's own tables override them. No torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from speechprompt.errors import UnknownName, UsageError
from speechprompt.prompting.recipes import RECIPES

NGRAM_COPIES = "n-gram copies"
"""The n-gram SVM that trains on, and answers over, the copies at other speeds that a row's prompts have."""
NGRAM_TUNED = "n-gram tuned"
"""The n-gram SVM with all that prompts have: copies, options chosen on valid, and valid to learn from at the end."""
METHODS = (
    "majority",
    "n-gram",
    NGRAM_COPIES,
    NGRAM_TUNED,
    "mfcc n-gram",
    "probe",
    "prompt",
    "cnn",
    "finetune",
)
"""The columns, cheapest first; `cnn` and `finetune` are what full supervision reaches."""
COPYING = ("speed_copies", "speed_range", "answer_copies")
"""Options of prompts that say at which speeds clips are heard."""
NEEDS_LM = ("probe", "prompt", "finetune")
"""Methods whose answers depend on the LM; all others see units or sound only."""
DRAWN = ("prompt", "cnn", "finetune")
"""Methods that draw random numbers, so that every seed is another training."""


class TableRow(BaseModel):
    """One test: what it runs on, how utterances are divided, and what is known and hoped for.

    `folds` None takes the corpus's splits and several seeds; otherwise so many rounds over all utterances, speakers
    kept whole, one seed each. `valid` utterances: a tenth of train is drawn to validate, speakers not kept whole.
    `without` drops labels by slot. `shots` makes a learning curve, a line each; validation shrinks with training.
    `without_copies` keeps one file of every recording, before anything is divided. `development` leaves out the clips
    that the corpus's own split tests, so that options may be chosen by what the others' folds say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    source: str = Field(description="a manifest, or an archive of one, below the data folder")
    slots: tuple[str, ...]
    lms: tuple[str, ...] = ("tiny",)
    folds: int | None = Field(None, ge=3)
    valid: Literal["given", "utterances"] = "given"
    without: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    without_copies: bool = False
    development: bool = False
    shots: tuple[int, ...] = ()
    known: str = ""
    aim: str = ""
    prompt: dict[str, Any] = Field(default_factory=dict)
    cnn: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)
    columns: tuple[str, ...] | None = Field(None, description="by default those of the whole table")

    @model_validator(mode="after")
    def _development_in_folds(self) -> TableRow:
        """Without the test split only folds can say what is tested."""
        if self.development and self.folds is None:
            raise ValueError(f"'{self.name}' is for development, which needs 'folds'")
        return self


class Declaration(BaseModel):
    """A whole table; `row` in the order in which it is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int = Field(3, ge=1)
    columns: tuple[str, ...] = METHODS
    prompt: dict[str, Any] = Field(default_factory=dict)
    cnn: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)
    row: tuple[TableRow, ...]

    def options(self, row: TableRow, method: str) -> dict[str, Any]:
        """A method's options in a row: the row's own over those of all rows; n-grams hear the copies of prompts."""
        if method in (NGRAM_COPIES, NGRAM_TUNED):
            prompt = self.options(row, "prompt")
            prompt = {**RECIPES.get(prompt.get("recipe", ""), {}), **prompt}
            return {name: prompt[name] for name in COPYING if prompt.get(name)}
        shared: Mapping[str, Any] = getattr(self, method)
        return {**shared, **getattr(row, method)}

    def methods(self, row: TableRow, asked: Sequence[str] | None = None) -> list[str]:
        """A row's columns in the order of `METHODS`; of those `asked` for all, but where the row names its own."""
        if asked is None:
            return check_columns(self.columns if row.columns is None else row.columns)
        return [m for m in check_columns(asked) if row.columns is None or m in row.columns]

    def chosen(self, names: Sequence[str] | None) -> list[TableRow]:
        """Rows by name, all of them for None. UnknownName suggests the nearest; UsageError for no names."""
        if names is not None and not names:
            raise UsageError(f"no rows named; there are {', '.join(row.name for row in self.row)}")
        known = {row.name: row for row in self.row}
        for name in names or ():
            if name not in known:
                raise UnknownName("row", name, known)
        return list(self.row) if names is None else [known[name] for name in names]


def read_declaration(path: Path) -> Declaration:
    """Read and check a declaration. UsageError naming the first thing that does not fit."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        found = Declaration.model_validate(values)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {place}: {first['msg']}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    names = [row.name for row in found.row]
    if len(set(names)) < len(names):
        raise UsageError(f"{path}: two rows have one name; rename one")
    for row in found.row:
        found.methods(row)
        if odd := set(row.without) - set(row.slots):
            raise UsageError(
                f"{path}: row '{row.name}' drops labels of {min(odd)}, which is none of its slots"
            )
    return found


def check_columns(names: Sequence[str]) -> list[str]:
    """The columns in the order of `METHODS`. UnknownName for one that is none."""
    for name in names:
        if name not in METHODS:
            raise UnknownName("column", name, METHODS)
    return [name for name in METHODS if name in names]
