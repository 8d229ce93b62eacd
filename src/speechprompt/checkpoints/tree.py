"""What a pickle described, finished: pending arrays and tensors made, OmegaConf containers made plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from speechprompt.checkpoints.inert_pickle import Opaque
from speechprompt.checkpoints.values import Dtype, PendingArray
from speechprompt.errors import CheckpointError

MAX_DEPTH = 150
MAX_NAME_CHARACTERS = 64 * 2**20
"""Names of all tensors together; one long key on every path would make far more of a small file."""


class Finisher:
    """Walks a tree once, in place where it can; `make` turns the caller's own leaves into values."""

    def __init__(self, make: Callable[[Any], Any] = lambda leaf: leaf) -> None:
        self._make = make
        self._done: dict[int, tuple[Any, Any]] = {}

    def finish(self, thing: Any, depth: int = 0) -> Any:
        """The finished thing. ValueError when it nests too deeply, or contains itself through a tuple."""
        if thing is None or isinstance(thing, str | bytes | int | float | Tensor):
            return thing
        if id(thing) in self._done:
            return self._done[id(thing)][1]
        if depth > MAX_DEPTH:
            raise ValueError(f"nested over {MAX_DEPTH} deep")
        finished = self._finish(thing, depth + 1)
        self._done[id(thing)] = (thing, finished)  # holding `thing` keeps its id from being used again
        return finished

    def _finish(self, thing: Any, depth: int) -> Any:
        if isinstance(thing, dict):
            return self._finish_dict(thing, depth)
        if isinstance(thing, list):
            return self._finish_list(thing, depth)
        if isinstance(thing, tuple):
            return tuple(self.finish(item, depth) for item in thing)
        if isinstance(thing, Opaque):
            return self._finish_opaque(thing, depth)
        if isinstance(thing, PendingArray):
            return self.finish(thing.resolved(), depth)
        if isinstance(thing, Dtype):
            return thing.code
        return self._make(thing)

    def _finish_dict(self, thing: dict[Any, Any], depth: int) -> dict[Any, Any]:
        self._done[id(thing)] = (thing, thing)
        for key, value in thing.items():
            thing[key] = self.finish(value, depth)
        return thing

    def _finish_list(self, thing: list[Any], depth: int) -> list[Any]:
        self._done[id(thing)] = (thing, thing)
        thing[:] = [self.finish(item, depth) for item in thing]
        return thing

    def _finish_opaque(self, thing: Opaque, depth: int) -> Any:
        if thing.name.startswith("omegaconf."):
            if "_content" in thing:
                return self._finish_container(thing, depth)
            if "_val" in thing:
                return self.finish(thing["_val"], depth)
        self._done[id(thing)] = (thing, thing)
        thing.args = self.finish(thing.args, depth)
        thing.state = self.finish(thing.state, depth)
        thing.items = self.finish(thing.items, depth)
        return thing

    def _finish_container(self, thing: Opaque, depth: int) -> Any:
        content = thing["_content"]
        if not isinstance(content, dict | list):
            return content
        self._done[id(thing)] = (thing, content)
        return self.finish(content, depth)


def tensors_of(tree: object) -> dict[str, Tensor]:
    """Every tensor below dicts and lists, named by its path with dots; what is shared is named once.

    CheckpointError when the names are longer than any model's.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    named = 0

    def walk(thing: Tensor | Mapping[Any, Any] | list[Any] | tuple[Any, ...], path: str) -> None:
        nonlocal named
        named += len(path)
        if named > MAX_NAME_CHARACTERS:
            raise CheckpointError(
                "tensors are named by more than any model has; the file is damaged: fetch it again"
            )
        if isinstance(thing, Tensor):
            found[path] = thing
        elif id(thing) not in seen:
            seen.add(id(thing))
            entries = thing.items() if isinstance(thing, Mapping) else enumerate(thing)
            for key, value in entries:
                if isinstance(value, Tensor | Mapping | list | tuple):
                    walk(value, f"{path}.{key}" if path else str(key))

    if isinstance(tree, Tensor | Mapping | list | tuple):
        walk(tree, "")
    return found


def without_prefix(tensors: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """The same tensors without a prefix that every name has (DataParallel's by default)."""
    if not all(name.startswith(prefix) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
