"""Options by flat names, and which rows may teach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from speechprompt.errors import TrainingError, UnknownName, UsageError
from speechprompt.pretraining.material import gather, trains
from speechprompt.pretraining.options import flat_fields, read_options
from speechprompt.pretraining.unit_lm_options import UnitLmOptions
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.units import Units


@dataclass(frozen=True, slots=True)
class Inner:
    width: int = 8
    rate: float = 0.5


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(width=4))
    steps: int = 3


def test_flat_names_reach_parts_and_leave_the_rest_as_it_was() -> None:
    assert flat_fields(Outer) == {"inner_width": (int, 4), "inner_rate": (float, 0.5), "steps": (int, 3)}
    assert read_options(Outer, {"inner_rate": "0.25"}) == Outer(Inner(4, 0.25), 3)
    assert read_options(Outer, {}) == Outer()
    with pytest.raises(UnknownName, match="did you mean inner_width"):
        read_options(Outer, {"inner_widht": 1})
    with pytest.raises(UsageError, match="'inner_width'"):
        read_options(Outer, {"inner_width": "wide"})


@pytest.mark.parametrize("changes", [{"layers": 0}, {"width": 30}, {"width": 33, "heads": 3}, {"steps": 0}])
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        read_options(UnitLmOptions, changes)


def row(identity: str, split: str, units: list[int], **extra: str) -> Utterance:
    return Utterance(identity, split, {}, units=Units(np.array(units)), extra=extra)


def test_every_split_field_must_say_train() -> None:
    assert trains(row("a", "train", [1]))
    assert trains(row("a", "train", [1], official_split="training"))
    assert not trains(row("a", "train", [1], official_split="dev"))
    assert not trains(row("a", "fold1", [1]))
    assert trains(row("a", "train", [1], official_split="dev"), ["split"])
    assert trains(row("a", "test", [1], official_split="train"), ["official_split"])
    assert not trains(row("a", "test", [1]), ["official_split"])


def test_what_a_test_could_score_teaches_nothing() -> None:
    rows = [row(str(i), "train", [i, i + 1]) for i in range(40)] + [
        row("same", "train", [0, 1]),
        row("t", "test", [3, 4]),
    ]
    corpus = Corpus("c", tuple(rows), {})
    found = gather([corpus], held_out=0.3)
    learnt = {tuple(units.ids) for units in (*found.taught, *found.held_out)}
    assert (len(learnt), (3, 4) in learnt, found.left_out) == (39, False, 1)
    assert not {tuple(u.ids) for u in found.taught} & {tuple(u.ids) for u in found.held_out}
    again = gather([Corpus("c", tuple(reversed(rows)), {})], held_out=0.3)
    assert (again.digest, len(again.held_out)) == (found.digest, len(found.held_out))
    other = Corpus("o", (row("x", "train", [5, 6]),), {})
    assert gather([corpus], [other], held_out=0.3).left_out == 2
    with pytest.raises(TrainingError, match="nothing to hold out"):
        gather([Corpus("c", (rows[0],), {})], held_out=0.0001)
