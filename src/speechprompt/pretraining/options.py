"""Options of a pretraining by name: from a configuration file, from flags, or both. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from speechprompt.errors import UnknownName, UsageError

OptionsT = TypeVar("OptionsT")


def flat_fields(kind: type[Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Name -> (type, default) of an options dataclass; `prediction_steps` is `steps` of its part `prediction`."""
    found: dict[str, tuple[Any, Any]] = {}
    hints, defaults = get_type_hints(kind), kind()
    for field in fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint):
            default = getattr(defaults, field.name)
            inner = flat_fields(hint, name + "_")  # type: ignore[arg-type]
            found |= {key: (hint_, _part(default, key[len(name) + 1 :])) for key, (hint_, _) in inner.items()}
        else:
            found[name] = (hint, getattr(defaults, field.name))
    return found


def _part(value: Any, name: str) -> Any:
    """The value that a flat name has in nested options."""
    for field in fields(value):
        if name == field.name:
            return getattr(value, name)
        if name.startswith(field.name + "_") and is_dataclass(getattr(value, field.name)):
            return _part(getattr(value, field.name), name[len(field.name) + 1 :])
    raise KeyError(name)


def read_options(kind: type[OptionsT], values: Mapping[str, Any]) -> OptionsT:
    """Options with these values under flat names, defaults elsewhere.

    UnknownName for a name that is none of them; UsageError for a value that does not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    known = flat_fields(kind)
    for name in values:
        if name not in known:
            raise UnknownName("pretraining option", name, known)
    try:
        return TypeAdapter(kind).validate_python(_nested(kind, values))
    except ValidationError as error:
        first = error.errors()[0]
        place = "_".join(str(part) for part in first["loc"])
        raise UsageError(f"pretraining option '{place}': {first['msg']} (got {first['input']!r})") from None


def _nested(kind: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values as nested tables, defaults of parts that are themselves changed included."""
    from dataclasses import asdict

    defaults, hints, found = asdict(kind()), get_type_hints(kind), dict[str, Any]()
    for field in fields(kind):
        name = prefix + field.name
        if is_dataclass(hints[field.name]):
            inner = _nested(hints[field.name], values, name + "_")
            found[field.name] = {**defaults[field.name], **inner}
        elif name in values:
            found[field.name] = values[name]
    return found
