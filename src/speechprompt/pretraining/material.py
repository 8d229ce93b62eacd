"""The units that a unit LM may learn from: distinct, from training rows only, a small share held out.

Knows corpora and their splits; no model. What any test could score stays out by construction: a row trains
only if every split field says so, and no unit sequence trains that a row of another split also has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from speechprompt.errors import TrainingError, UnknownName
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.splits import canonical_split
from speechprompt.speech.units import Units

SPLIT_FIELDS = ("split", "official_split")
"""Both are obeyed where a corpus has both, as ESD and VCTK do."""


@dataclass(frozen=True, slots=True)
class SourceCount:
    """What one corpus gave: `rows` distinct sequences with `units` units in all, of `training_rows` rows."""

    name: str
    licence: str | None
    training_rows: int
    rows: int
    units: int


@dataclass(frozen=True, slots=True)
class UnitMaterial:
    """Unit sequences to learn from and to hold out; `left_out` are distinct ones that other splits also have."""

    taught: tuple[Units, ...]
    held_out: tuple[Units, ...]
    sources: tuple[SourceCount, ...]
    left_out: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Counts and hash."""
        return {
            "sources": [asdict(source) for source in self.sources],
            "rows": len(self.taught),
            "units": sum(map(len, self.taught)),
            "held_out_rows": len(self.held_out),
            "left_out": self.left_out,
            "digest": self.digest,
        }


def trains(utterance: Utterance, split_fields: Sequence[str] = SPLIT_FIELDS) -> bool:
    """Whether every split field that the row has says train, or `split` where it has none; folds are test material."""
    stated = {"split": utterance.split, **utterance.extra}
    found = [stated[field] for field in split_fields if stated.get(field) is not None] or [utterance.split]
    return all(canonical_split(str(split)) == "train" for split in found)


def check_split_fields(corpora: Sequence[Corpus], split_fields: Sequence[str]) -> None:
    """UnknownName for a field, other than `SPLIT_FIELDS`, that no row has."""
    known = dict.fromkeys(SPLIT_FIELDS)
    known |= {field: None for corpus in corpora for u in corpus.utterances for field in u.extra}
    for field in split_fields:
        if field not in known:
            raise UnknownName("split field", field, known)


def gather(
    corpora: Sequence[Corpus],
    excluded: Iterable[Corpus] = (),
    split_fields: Sequence[str] = SPLIT_FIELDS,
    held_out: float = 0.01,
) -> UnitMaterial:
    """Distinct unit sequences of the corpora's training rows, those of `excluded` corpora's rows left out.

    Which are held out, a hash of their units decides. TrainingError when nothing remains to learn or to hold out.
    """
    forbidden = {_key(u) for corpus in excluded for u in corpus.utterances if u.units is not None}
    forbidden |= {
        _key(u)
        for corpus in corpora
        for u in corpus.utterances
        if u.units is not None and not trains(u, split_fields)
    }
    distinct: dict[bytes, Units] = {}
    sources, left_out = [], set[bytes]()
    for corpus in corpora:
        rows = [u for u in corpus.utterances if u.units is not None and trains(u, split_fields)]
        fresh: dict[bytes, Units] = {}
        for u in rows:
            assert u.units is not None
            if not len(u.units):
                continue
            key = _key(u)
            if key in forbidden:
                left_out.add(key)
            elif key not in distinct:
                fresh[key] = u.units
        distinct |= fresh
        units = sum(map(len, fresh.values()))
        sources.append(SourceCount(corpus.name, corpus.licence, len(rows), len(fresh), units))
    taught = tuple(units for key, units in distinct.items() if _place(key) >= held_out)
    kept = tuple(units for key, units in distinct.items() if _place(key) < held_out)
    if not taught or not kept:
        others = f" ({len(left_out)} more stand in validation or test rows as well)" if left_out else ""
        raise TrainingError(
            f"{len(distinct)} distinct training sequences{others} leave nothing to "
            f"{'learn from' if not taught else 'hold out'}; bring more units, change --held-out, or name a corpus "
            "that no test scores with --untested"
        )
    digest = hashlib.sha256(b"".join(hashlib.sha256(key).digest() for key in sorted(distinct)))
    return UnitMaterial(taught, kept, tuple(sources), len(left_out), digest.hexdigest())


def _key(utterance: Utterance) -> bytes:
    assert utterance.units is not None
    return utterance.units.ids.tobytes()


def _place(key: bytes) -> float:
    return int.from_bytes(hashlib.sha256(key).digest()[:6]) / 2**48
