"""Pickles as inert material: a machine that follows the opcodes and calls nothing that a file names.

Python's own unpickler imports and calls what a file asks for, sets attributes on whatever is on its stack and
allocates what a file declares. This one knows lists, dicts, strings and numbers; every class or function is a
`Global`, every object of one an `Opaque`, unless the caller gave a constructor of its own for that name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_OPCODES = 2_000_000
"""A published checkpoint has tens of thousands; this many still take seconds."""

MAX_COPIES = 4
"""Constructors may copy so many lengths of the stream; protocol 2's arrays are copied twice."""

_COPIED_FLOOR_BYTES = 2**20

Constructors = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names, by its dotted name; never imported."""

    name: str


class Opaque:
    """Stand-in for an object of an unknown class: its class's name and what the pickle said of it.

    What its own class would have kept in attributes reads as an attribute or by `opaque[name]`; use the latter
    for attributes called name, args, state or items. `args` are those of its constructor (an enum's value, a
    path's parts), `items` what was appended or set (of list and dict subclasses).
    """

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: list[Any] | dict[Any, Any] | None = None

    @property
    def fields(self) -> dict[Any, Any]:
        """Attributes and dict entries together."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        merged: dict[Any, Any] = {}
        for part in (*parts, self.items):
            merged.update(part if isinstance(part, dict) else {})
        return merged

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute or entry, or `default`."""
        return self.fields.get(name, default)

    def __getattr__(self, name: str) -> Any:
        if name in Opaque.__slots__ or name.startswith("__") or name not in self.fields:
            raise AttributeError(f"the stand-in for {self.name} has no {name}")
        return self.fields[name]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __repr__(self) -> str:
        return f"Opaque({self.name!r})"


class BoundedStream:
    """A binary file that ends after `limit` bytes and never allocates for a longer read."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._left, self._position = file, limit, 0

    def read(self, count: int) -> bytes:
        """At most `count` bytes; fewer only at the end."""
        return self._taken(self._file.read(max(0, min(count, self._left))))

    def readline(self) -> bytes:
        """The rest of a line with its end, or of the file."""
        return self._taken(self._file.readline(self._left))

    def exactly(self, count: int) -> bytes:
        """`count` bytes; ValueError when there are fewer."""
        if not 0 <= count <= self._left:
            raise ValueError(f"{count} bytes are declared where {self._left} may follow")
        data = self.read(count)
        if len(data) != count:
            raise ValueError(f"{count} bytes are declared but {len(data)} follow")
        return data

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    @property
    def left(self) -> int:
        """Bytes that may still be read."""
        return self._left

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        self._position += len(data)
        return data


class InertUnpickler:
    """Follows one pickle in a stream. `load` leaves the stream just behind it.

    `constructors` are the caller's own functions by the dotted name in the file; `persistent` answers persistent
    ids; `built` may replace an object once its state is known (it may read from the stream). What constructors
    copy has a budget, since a few bytes of opcodes may hand them the same long value again and again.
    Any malformed pickle raises some Exception, never anything else: callers turn it into a CheckpointError.
    """

    def __init__(
        self,
        stream: BoundedStream,
        constructors: Constructors,
        persistent: Callable[[Any], Any] | None = None,
        built: Callable[[Any], Any] | None = None,
    ) -> None:
        self._stream, self._constructors = stream, constructors
        self._persistent, self._built = persistent, built
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copyable = MAX_COPIES * stream.left + _COPIED_FLOOR_BYTES

    def load(self) -> Any:
        """The object that the pickle describes."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(self._stream)):  # type: ignore[arg-type]
            if step > MAX_OPCODES:
                raise ValueError(f"more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._tuple_of(_TUPLES[name])
        elif name in _FROM_MARK:
            self._push(_FROM_MARK[name](self._since_mark()))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise ValueError(f"opcode {name} has no place in a model file")

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _extend(self, values: Sequence[Any]) -> None:
        """Append to the list (or unknown list subclass), or add to the set, on top of the stack."""
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target.items = target.items or []
            target = target.items
        if isinstance(target, set):
            target.update(map(_key, values))
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise ValueError(f"items appended to a {type(target).__name__}")

    def _set_items(self, pairs: Sequence[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target.items = target.items or {}
            target = target.items
        if not isinstance(target, dict):
            raise ValueError(f"entries set in a {type(target).__name__}")
        target.update(_pairs(pairs))

    def _charge(self, *values: Any) -> None:
        """Take what a copy of some values needs from the budget; ValueError when it is used up."""
        self._copyable -= sum(map(_copied_bytes, values))
        if self._copyable < 0:
            raise ValueError("values are copied again and again")

    def _call(self, function: Any, arguments: Any) -> None:
        self._push(self.construct(function, arguments))

    def construct(self, function: Any, arguments: Any) -> Any:
        """What stands for `function(*arguments)`: our own constructor's value, or an Opaque."""
        if not isinstance(function, Global | Opaque) or not isinstance(arguments, tuple):
            raise ValueError(f"a {type(function).__name__} is called")
        if isinstance(function, Opaque):  # a method, a partial
            self._charge(function, arguments)
            return Opaque(f"{function.name}()", (function, *arguments))
        if function.name == "copyreg.__newobj__":
            self._charge(arguments)
            return self.construct(arguments[0], arguments[1:])
        if function.name == "copyreg._reconstructor":
            known_class, _, state = arguments
            return self.construct(known_class, () if state is None else (state,))
        if function.name in self._constructors:
            self._charge(*arguments)
            return self._constructors[function.name](*arguments)
        return Opaque(function.name, arguments)

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Global):
            raise ValueError(f"the state of {target.name} itself is set")
        if isinstance(target, Opaque):
            target.state = state
        elif hasattr(target, "set_state"):
            if not isinstance(state, tuple):
                raise ValueError(f"a state in a {type(state).__name__}")
            self._charge(*state)
            target.set_state(state)
        if self._built is not None:
            self._stack[-1] = self._built(target)

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    def _new_with_keywords(self, _: Any) -> None:
        keywords, arguments, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple):
            raise ValueError(f"arguments in a {type(arguments).__name__}")
        self._charge(arguments)
        self._call(function, (*arguments, *([keywords] if keywords else [])))

    def _object(self, _: Any) -> None:
        function, *arguments = self._since_mark()
        self._call(function, tuple(arguments))

    def _instance(self, name: str) -> None:
        self._call(_global(name), tuple(self._since_mark()))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError(f"a class named by a {type(module).__name__} and a {type(name).__name__}")
        self._charge(module, name)
        self._push(_global(f"{module} {name}"))

    def _tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise ValueError("a tuple of more than there is")
        self._stack[-count:] = [items]

    def _persistent_id(self, identifier: Any) -> None:
        if self._persistent is None:
            raise ValueError("a persistent id where none belongs")
        self._push(self._persistent(identifier))

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()


def _global(text: str) -> Global:
    module, _, name = text.partition(" ")
    return Global(f"{_MODULES.get(module, module)}.{name}")


def _copied_bytes(value: Any) -> int:
    """About what a copy of a value that constructors copy takes: of its own, without what it refers to."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, Global | Opaque):
        return len(value.name)
    return 8 * len(value) if isinstance(value, list | tuple | dict | set | frozenset) else 0


def _key(value: Any) -> Any:
    """A dict key or set member: a scalar, an Opaque, or a flat tuple of them.

    Deeper keys are refused: hashing nested tuples of a hostile file overflows the stack or never ends.
    """
    for part in value if isinstance(value, tuple) else (value,):
        if not (part is None or isinstance(part, str | bytes | int | float | complex | Opaque | Global)):
            raise ValueError(f"a {type(part).__name__} as a key")
    return value


def keyed(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of pairs whose keys are safe to hash."""
    return {_key(key): value for key, value in pairs}


def _pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(map(_key, flat[::2]), flat[1::2], strict=True)


_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": lambda items: dict(_pairs(items)),
    "FROZENSET": lambda items: frozenset(map(_key, items)),
}
_STEPS: dict[str, Callable[[InertUnpickler, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": InertUnpickler._mark,
    "POP": InertUnpickler._pop,
    "POP_MARK": lambda machine, _: machine._since_mark(),
    "DUP": lambda machine, _: machine._push(machine._stack[-1]),
    "APPEND": lambda machine, _: machine._extend([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._since_mark()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set_items([machine._stack.pop(-2), machine._stack.pop()]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._since_mark()),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine._push(machine._memo[index])
    ),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), InertUnpickler._memoize),
    "GLOBAL": lambda machine, name: machine._push(_global(name)),
    "STACK_GLOBAL": InertUnpickler._stack_global,
    "REDUCE": InertUnpickler._reduce,
    "NEWOBJ": InertUnpickler._reduce,
    "NEWOBJ_EX": InertUnpickler._new_with_keywords,
    "OBJ": InertUnpickler._object,
    "INST": InertUnpickler._instance,
    "BUILD": InertUnpickler._build,
    "PERSID": InertUnpickler._persistent_id,
    "BINPERSID": lambda machine, _: machine._persistent_id(machine._stack.pop()),
}
