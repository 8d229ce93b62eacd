"""Which rows go together in a batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_CHUNK_BATCHES = 50  # rows sorted together: more means less padding, fewer means more randomness


def length_buckets(
    lengths: Sequence[int], batch_size: int, seed: int | None = None, max_units: int | None = None
) -> list[list[int]]:
    """Batches of row indices with similar lengths; every index occurs exactly once.

    With a seed (training: another one each epoch) rows are shuffled, sorted by length within large chunks,
    and the batches shuffled. Without one (inference) rows are sorted by length. `max_units` bounds a batch's
    rows times its longest length, padding included; a row that is longer alone is a batch of its own.

    >>> length_buckets([5, 1, 4, 2], batch_size=2)
    [[1, 3], [2, 0]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
    sizes = np.asarray(lengths, dtype=np.int64)
    if seed is None:
        return list(_cut(np.argsort(sizes, kind="stable").tolist(), sizes.tolist(), batch_size, max_units))
    random = np.random.default_rng(seed)
    order = random.permutation(len(sizes))
    chunk = batch_size * _CHUNK_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        part = part[np.argsort(sizes[part], kind="stable")]
        batches.extend(_cut(part.tolist(), sizes.tolist(), batch_size, max_units))
    return [batches[i] for i in random.permutation(len(batches))]


def _cut(
    order: Iterable[int], sizes: Sequence[int], batch_size: int, max_units: int | None
) -> Iterator[list[int]]:
    """Cut rows in ascending order of length into batches within both limits."""
    batch: list[int] = []
    for index in order:
        too_many = max_units is not None and (len(batch) + 1) * sizes[index] > max_units
        if batch and (len(batch) == batch_size or too_many):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def exact_length_groups(lengths: Sequence[int], batch_size: int | None = None) -> list[list[int]]:
    """Indices of rows with equal lengths, shortest first, in groups of at most `batch_size`.

    For tokenizers whose units depend on padding (HuBERT-base normalises over time in its first layer).

    >>> exact_length_groups([3, 1, 3])
    [[1], [0, 2]]
    """
    of_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        of_length.setdefault(length, []).append(index)
    groups: list[list[int]] = []
    for length in sorted(of_length):
        members = of_length[length]
        step = batch_size or len(members)
        groups.extend(members[start : start + step] for start in range(0, len(members), step))
    return groups
