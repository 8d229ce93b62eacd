"""Units in memory: bounded, least recently used first out, never another clip's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from speechprompt.speech.unit_cache import CacheKey, UnitCache
from speechprompt.speech.units import Units


def windows(length: int, fill: int = 0) -> tuple[Units, ...]:
    return (Units(np.full(length, fill), np.ones(length, np.int64)),)


def key(name: str, fingerprint: str = "a", precision: str = "float32", samples: int = 0) -> CacheKey:
    return CacheKey(name, fingerprint, precision, samples)


def test_sound_tokenizer_precision_and_window_all_tell_clips_apart() -> None:
    cache = UnitCache()
    keys = [key("x"), key("y"), key("x", "b"), key("x", precision="bfloat16"), key("x", samples=9)]
    for i, one in enumerate(keys):
        cache.put(one, windows(3, i))
    assert [int(cache.get(one)[0].ids[0]) for one in keys] == list(range(5))  # type: ignore[index]


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = UnitCache(3 * 2000)  # 1,024 bytes of bookkeeping and 50 x 16 of streams a row: three fit
    for name in "abc":
        cache.put(key(name), windows(50))
    assert cache.get(key("a")) is not None
    cache.put(key("d"), windows(50))
    assert [name for name in "abcd" if cache.get(key(name))] == ["a", "c", "d"]
    assert (cache.hits, cache.misses) == (4, 1)
    cache.put(key("huge"), windows(1000))
    assert cache.get(key("huge")) is None
    assert len(cache) == 3
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 400)), max_size=40), st.integers(0, 20_000)
)
def test_the_limit_holds_and_the_count_of_bytes_is_exact(puts: list[tuple[str, int]], limit: int) -> None:
    cache = UnitCache(limit)
    for name, length in puts:
        cache.put(key(name), windows(length))
        assert cache.size_bytes <= limit
    kept = [name for name in "abcdef" if cache.get(key(name)) is not None]
    assert len(kept) == len(cache)
    sizes = [1024 + sum(16 * len(units) for units in cache.get(key(name)) or ()) for name in kept]
    assert cache.size_bytes == sum(sizes)
