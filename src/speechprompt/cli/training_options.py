"""Training options as flags, made from the model that defines them; and the TOML file that fills flags in."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from speechprompt.cli.commands import flag
from speechprompt.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from speechprompt.prompting.recipes import TrainingOptions

NOTHING = "none"
"""What the command line says for an option's None."""


def option_flags() -> list[Parameter]:
    """A flag for every training option but the recipe; None means that it was not given."""
    from speechprompt.prompting.recipes import TrainingOptions

    return [
        option_flag(name, field.annotation, field.default, field.description)
        for name, field in TrainingOptions.model_fields.items()
        if name != "recipe"
    ]


def option_flag(name: str, kind: Any, default: object, description: str | None = None) -> Parameter:
    """The flag of one option; None means that it was not given."""
    text = (description or name.replace("_", " ")).strip()
    shown = f"{text[:1].upper()}{text[1:]}. [{_word(default)}]"
    kebab = name.replace("_", "-")
    if kind is bool:
        option = typer.Option(f"--{kebab}/--no-{kebab}", help=shown)
        return flag(name, bool | None, option)
    option = typer.Option(f"--{kebab}", help=shown, metavar=_kinds(kind), show_default=False)
    return flag(name, str | None, option)


def _word(value: object) -> str:
    return NOTHING if value is None else str(value)


def _kinds(annotation: Any) -> str:
    """What a value looks like: its choices, or its kind."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    parts = get_args(annotation) or (annotation,)
    return "|".join(_kinds(part) if get_args(part) else _kind(part) for part in parts)


def _kind(kind: Any) -> str:
    if kind is NoneType:
        return NOTHING
    return {int: "INTEGER", float: "NUMBER"}.get(kind, str(getattr(kind, "__name__", kind)).upper())


def resolved(recipe: str, changes: Mapping[str, Any]) -> TrainingOptions:
    """The options of a recipe with the flags that were given. UsageError for a wrong value."""
    from speechprompt.prompting.recipes import TrainingOptions

    given = {name: value for name, value in changes.items() if value is not None}
    return TrainingOptions.of_recipe(
        recipe, {name: None if value == NOTHING else value for name, value in given.items()}
    )


def fill_from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let a TOML file answer for the options that are not on the command line.

    UnknownName for a key that is no option of the command; UsageError when the file cannot be read.
    """
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    known = {name: parameter for parameter in context.command.params for name in _names(parameter)}
    defaults: dict[str, object] = {}
    for name, value in _flat(values).items():
        if name not in known:
            raise UnknownName(f"option in {path}", name, known)
        takes_several = getattr(known[name], "multiple", False) or known[name].nargs == -1
        defaults[str(known[name].name)] = _texts(value) if takes_several else _text(value)
    context.default_map = defaults
    return path


def _names(parameter: Any) -> set[str]:
    """What a file may call an option: its name, and its flag without dashes (`tasks` and `task`)."""
    flags = (text for text in parameter.opts if text.startswith("--"))
    return {str(parameter.name), *(text.removeprefix("--").replace("-", "_") for text in flags)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their flags' names: `steps` of a table `[prediction]` is `prediction_steps`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        full = prefix + name.replace("-", "_")
        found |= _flat(value, full + "_") if isinstance(value, Mapping) else {full: value}
    return found


def _texts(value: object) -> list[object]:
    """The values of an option that is given several times."""
    return [_text(one) for one in value] if isinstance(value, list) else [_text(value)]


def _text(value: object) -> object:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, bool) else str(value)
