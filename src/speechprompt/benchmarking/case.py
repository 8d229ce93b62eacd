"""A case: one piece of work in our form and in others', and what it needs at least. Measured, it is a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from speechprompt.benchmarking.products import Product, operations_of

if TYPE_CHECKING:
    from speechprompt.benchmarking.clock import Clock, Form

OURS, NAIVE, PEFT, BOUND = "ours", "naive", "peft", "bound"
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Case:
    """Work to measure.

    `forms` holds our form and any number of others by name; each call handles its own amount, in `unit`s. `products`
    and `bytes` are what one call of ours cannot do without. `aims` name a form (or `bound`) and how many times as
    fast as it ours shall be; the aim `rate` is an absolute one, in units a second.
    """

    stage: str
    name: str
    unit: str
    forms: Mapping[str, Form]
    products: Sequence[Product] = ()
    bytes: float = 0.0
    dtype: Dtype = "float32"
    aims: Mapping[str, float] = field(default_factory=dict)

    def measure(self, clock: Clock, bandwidth: float) -> Row:
        """Run every form in turns, and the bound's products right after them."""
        seconds = clock.in_turns(self.forms)
        operations = operations_of(self.products)
        of_products = clock.product_seconds(self.products, self.dtype)
        of_bytes = self.bytes / bandwidth
        bound = max(of_products, of_bytes)
        rates = {name: form.amount / seconds[name] for name, form in self.forms.items()}
        if bound:
            rates[BOUND] = self.forms[OURS].amount / bound
        return Row(
            self.stage,
            self.name,
            self.unit,
            self.dtype,
            rates,
            dict(self.aims),
            operations,
            operations / of_products if of_products else None,
            self.bytes,
            "operations" if of_products >= of_bytes else "bytes",
        )


@dataclass(frozen=True, slots=True)
class Row:
    """What a case came to: `rates` in units a second of every form and of the bound."""

    stage: str
    name: str
    unit: str
    dtype: str
    rates: Mapping[str, float]
    aims: Mapping[str, float]
    operations: float
    operation_rate: float | None
    bytes: float
    bound_by: str

    @property
    def fraction(self) -> float | None:
        """Our share of the bound."""
        return self.ratio(BOUND)

    @property
    def others(self) -> list[str]:
        """Forms besides ours, the naive one, peft's and the bound."""
        return [name for name in self.rates if name not in (OURS, NAIVE, PEFT, BOUND)]

    def ratio(self, other: str) -> float | None:
        """How many times as fast as another form ours is; None where it was not measured."""
        return self.rates[OURS] / self.rates[other] if other in self.rates else None

    def reached(self) -> dict[str, tuple[float, float]]:
        """What was reached and what was aimed at, for each aim that could be measured."""
        found = {}
        for name, aim in self.aims.items():
            value = self.rates[OURS] if name == "rate" else self.ratio(name)
            if value is not None:
                found[name] = (value, aim)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ratios = {name: self.ratio(name) for name in self.rates if name != OURS}
        return {
            "stage": self.stage,
            "case": self.name,
            "unit": self.unit,
            "dtype": self.dtype,
            "per_second": dict(self.rates),
            "times_as_fast_as": ratios,
            "operations": self.operations,
            "operations_per_second": self.operation_rate,
            "bytes": self.bytes,
            "bound_by": self.bound_by if BOUND in self.rates else None,
            "aims": {
                name: {"reached": reached, "aim": aim} for name, (reached, aim) in self.reached().items()
            },
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number that is no throughput; `most` is its aim."""

    stage: str
    name: str
    value: float
    unit: str
    most: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        about = {"stage": self.stage, "figure": self.name, "value": self.value, "unit": self.unit}
        return about if self.most is None else {**about, "at_most": self.most}


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost against a size: `measured` at each of `sizes`, beside what `theory` says in any unit of its own."""

    stage: str
    name: str
    size: str
    unit: str
    sizes: Sequence[float]
    measured: Sequence[float]
    theory: Sequence[float]

    @property
    def scaled_theory(self) -> list[float]:
        """Theory in the measured unit, equal to the measurement at the largest size."""
        return [value * self.measured[-1] / self.theory[-1] for value in self.theory]

    @property
    def growth(self) -> tuple[float, float]:
        """How many times the first size's cost the last size's is: measured, and in theory."""
        return self.measured[-1] / self.measured[0], self.theory[-1] / self.theory[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        measured, theory = self.growth
        return {
            "stage": self.stage,
            "curve": self.name,
            "size": self.size,
            "unit": self.unit,
            "sizes": list(self.sizes),
            "measured": list(self.measured),
            "theory": self.scaled_theory,
            "growth": {"measured": measured, "theory": theory},
        }


Finding = Row | Figure | Curve
