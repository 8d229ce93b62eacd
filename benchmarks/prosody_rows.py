"""What `prosody_ablation.py` compares: the tasks, and what an LM reads of their utterances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from speechprompt.lms.pgslm_units import SeparatorProsody
from speechprompt.speech.manifest import Utterance
from speechprompt.speech.units import Units


@dataclass(frozen=True, slots=True)
class Variant:
    """What an LM reads beside units, what F0 is measured from, and what stands under the separator."""

    durations: bool = False
    f0: str | None = None
    separator: SeparatorProsody = "last"


VARIANTS = {
    "units": Variant(),
    "durations": Variant(True),
    "durations+f0": Variant(True, "utterance"),
    "durations+absolute f0": Variant(True, "absolute"),
    "durations+absolute f0 start": Variant(True, "absolute", "start"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: where its clips are, the slots asked at once, and what stays whole between folds.

    `separator` adds the variant that asks about the separator, `whole` a line for all slots right at once.
    """

    source: str
    slots: tuple[str, ...]
    group: Callable[[Utterance], str | None] = lambda u: u.speaker
    labels: Callable[[Utterance], dict[str, str]] = lambda u: dict(u.labels)
    folds: int = 4
    published_split: bool = False
    separator: bool = False
    whole: bool = False


ROWS = {
    "ravdess": Row("ravdess4", ("emotion", "gender"), separator=True),
    "esd": Row("esd_en_hubert100.jsonl.gz", ("emotion",), folds=5),
    "barista": Row("barista_intent", ("coffeeDrink", "size", "roast", "numberOfShots"), folds=5, whole=True),
    "fsdd-speaker": Row(
        "fsdd", ("speaker",), lambda u: f"take {u.extra['take']}", lambda u: {"speaker": str(u.speaker)}
    ),
    "fsdd-digit": Row("fsdd", ("digit",), folds=6),
    "arabic": Row("arabic_speech_commands", ("command",), published_split=True),
}


def heard(units: Units, variant: Variant) -> Units:
    """Units as a variant hears them: absolute F0, or F0 from the utterance's mean, or none.

    The mean is over voiced units by their durations. pGSLM's is over voiced values 5 ms apart: another constant.
    """
    if variant.f0 is None or units.f0 is None:
        return replace(units, f0=None)
    voiced = units.f0 != 0
    if variant.f0 == "absolute" or not voiced.any():
        return units
    assert units.durations is not None
    mean = np.average(units.f0[voiced], weights=units.durations[voiced])
    return replace(units, f0=np.where(voiced, units.f0 - mean, 0).astype(np.float32))


def name_of(variant: Variant) -> str:
    """What the table calls a variant."""
    return next(name for name, known in VARIANTS.items() if known == variant)
