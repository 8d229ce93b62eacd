"""The published draws, bit for bit against numpy and scikit-learn, and the properties of our own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from speechprompt.corpora import splitting

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 3_000), seed=SEEDS)
def test_numpy_permutation_is_numpys(count, seed) -> None:
    assert splitting.numpy_permutation(count, seed) == np.random.RandomState(seed).permutation(count).tolist()


@settings(max_examples=20, deadline=None)
@given(count=st.integers(5, 500), share=st.sampled_from([0.1, 0.2, 0.25]), seed=st.integers(0, 1_000))
def test_sklearn_split_is_scikit_learns(count, share, seed) -> None:
    rows = list(range(100, 100 + count))
    expected = train_test_split(rows, test_size=share, random_state=seed)
    assert list(splitting.sklearn_split(rows, share, seed)) == [list(part) for part in expected]


@pytest.mark.parametrize(
    ("split", "speaker"), [("train", "5b09db89"), ("test", "c22d3f18"), ("valid", "638685f2")]
)
def test_speech_commands_split_is_the_official_one(speaker, split) -> None:
    assert splitting.speech_commands_split(speaker) == split


@given(
    groups=st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from("ab"), max_size=40), seed=SEEDS
)
def test_dealt_groups_stay_whole_and_every_large_stratum_is_everywhere(groups, seed) -> None:
    splits = splitting.dealt(groups, seed)
    assert splits.keys() == groups.keys()
    for stratum in set(groups.values()):
        found = {splits[group] for group, other in groups.items() if other == stratum}
        members = sum(other == stratum for other in groups.values())
        assert found == {1: {"train"}, 2: {"train", "test"}}.get(members, {"train", "valid", "test"})


@given(groups=st.dictionaries(st.text(max_size=4), st.just(""), min_size=5, max_size=40), seed=SEEDS)
def test_folds_differ_by_one_group_at_most(groups, seed) -> None:
    folds = splitting.folded(groups, 5, seed)
    sizes = [list(folds.values()).count(f"fold{number}") for number in range(1, 6)]
    assert max(sizes) - min(sizes) <= 1


@given(key=st.text(max_size=20), seed=SEEDS)
def test_hashed_split_depends_on_the_key_alone(key, seed) -> None:
    assert splitting.hashed_split(key, seed) == splitting.hashed_split(key, seed)
    assert splitting.hashed_split(key, seed, valid=0, test=0) == "train"
    assert splitting.hashed_split(key, seed, valid=0, test=1) == "test"


def test_shuffled_tenths_has_the_sizes_of_the_reference() -> None:
    marks = splitting.shuffled_tenths(21_386, seed=0)
    assert [marks.count(split) for split in range(3)] == [21_386 - 2 * 2_138, 2_138, 2_138]
