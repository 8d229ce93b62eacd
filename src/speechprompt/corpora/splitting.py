"""Ways to divide a corpus that give the same answer everywhere: hashes, seeded shuffles, whole speakers.

Knows nothing of files. The published splits that were drawn with numpy or scikit-learn are reproduced bit for
bit without either: both are a Mersenne Twister, a masked draw and a swap.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)


def hashed_share(key: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the key and the seed only."""
    digest = hashlib.sha1(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def hashed_split(key: str, seed: int = 0, valid: float = 0.1, test: float = 0.1) -> str:
    """The split of a key by hash alone: adding rows never moves the others."""
    share = hashed_share(key, seed)
    return "test" if share < test else "valid" if share < test + valid else "train"


@lru_cache(maxsize=4096)
def speech_commands_split(speaker: str) -> str:
    """The official split of a Speech Commands speaker: sha1 of the file name up to `_nohash_`.

    Source: the README of Speech Commands; its validation_list.txt and testing_list.txt are made this way.
    """
    largest = 2**27 - 1
    digest = int(hashlib.sha1(speaker.encode("utf-8", "surrogateescape")).hexdigest(), 16)
    percentage = (digest % (largest + 1)) * (100.0 / largest)
    return "valid" if percentage < 10 else "test" if percentage < 20 else "train"


def numpy_permutation(count: int, seed: int) -> list[int]:
    """What `numpy.random.RandomState(seed).permutation(count)` returns."""
    words = [seed & 0xFFFFFFFF]
    for index in range(1, 624):
        words.append((1812433253 * (words[-1] ^ (words[-1] >> 30)) + index) & 0xFFFFFFFF)
    generator = random.Random()
    generator.setstate((3, (*words, 624), None))
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        mask = (1 << last.bit_length()) - 1
        while (other := generator.getrandbits(32) & mask) > last:
            pass
        order[last], order[other] = order[other], order[last]
    return order


def sklearn_split(rows: Sequence[int], test_share: float, seed: int) -> tuple[list[int], list[int]]:
    """What `sklearn.model_selection.train_test_split(rows, test_size=..., random_state=...)` returns."""
    order = numpy_permutation(len(rows), seed)
    tests = math.ceil(test_share * len(rows))
    return [rows[index] for index in order[tests:]], [rows[index] for index in order[:tests]]


def marked(count: int, valid: Iterable[int], test: Iterable[int]) -> bytearray:
    """One byte per row (an index into SPLITS): what is neither valid nor test is train."""
    marks = bytearray(count)
    for split, rows in ((VALID, valid), (TEST, test)):
        for row in rows:
            marks[row] = split
    return marks


def shuffled_tenths(count: int, seed: int) -> bytearray:
    """Seeded 80/10/10 with the sizes of the reference (valid and test are count // 10 each)."""
    order, tenth = numpy_permutation(count, seed), count // 10
    return marked(count, order[:tenth], order[tenth : 2 * tenth])


def dealt(strata: Mapping[str, str], seed: int = 0, valid: float = 0.1, test: float = 0.1) -> dict[str, str]:
    """Deal whole groups (speakers) into splits, stratum by stratum (accent, gender, one for all).

    A stratum of three or more groups puts at least one into each split, one of two has no valid, a single
    group is train.
    """
    members: dict[str, list[str]] = {}
    for group, stratum in strata.items():
        members.setdefault(stratum, []).append(group)
    splits = {}
    for groups in members.values():
        ordered = sorted(groups, key=lambda group: (hashed_share(group, seed), group))
        tests = max(round(len(ordered) * test), 1) if len(ordered) > 1 else 0
        valids = max(round(len(ordered) * valid), 1) if len(ordered) > 2 else 0
        for place, group in enumerate(ordered):
            splits[group] = SPLITS[TEST if place < tests else VALID if place < tests + valids else TRAIN]
    return splits


def folded(strata: Mapping[str, str], folds: int, seed: int = 0) -> dict[str, str]:
    """Deal whole groups round-robin into fold1, fold2, …, stratum after stratum."""
    ordered = sorted(strata, key=lambda group: (strata[group], hashed_share(group, seed), group))
    return {group: f"fold{place % folds + 1}" for place, group in enumerate(ordered)}
