"""Lines of the table of results: what was measured of a row, its cells under the headings, and how it grows.

A page grows by lines and by columns: what a call does not measure stays, as long as it is of the same inputs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechprompt.experiments.table_rows import (
    DRAWN,
    METHODS,
    NEEDS_LM,
    NGRAM_COPIES,
    NGRAM_TUNED,
    Declaration,
    TableRow,
)
from speechprompt.experiments.tables import interval_cell, share_cell
from speechprompt.metrics import Interval, accuracy_interval, paired_difference_interval

ValueT = TypeVar("ValueT")

_TIME = "not measured yet: "
_LACKING = ("absent: ", _TIME)
_CHANGED = "measured with other options than are declared now"
_LM = ("lm_fingerprint", "lm_dtype")
_RIGHT = "right_on_test"
"""Of a cell: base64 of bits, the first test utterance first."""
COMPARED = ("n-gram", NGRAM_COPIES, NGRAM_TUNED, "mfcc n-gram", "cnn", "finetune")
"""Baselines and ceilings whose paired difference from the prompt has a column; the JSON holds all of them."""
HEADINGS = (
    *("test", "LM", "n", "rounds", "known", "aim", *METHODS),
    "trained",
    *(f"prompt - {method}, points" for method in COMPARED),
    "remark",
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: a row on one LM, with `shots` one point of a learning curve.

    `accuracy` holds an interval a method, `differences` prompt minus the method on the same utterances, `valid` the
    mean accuracy on validation of the methods that choose there.
    """

    name: str
    title: str
    spoken_lm: str
    known: str
    aim: str
    shots: int | None = None
    utterances: int | None = None
    rounds: int | None = None
    accuracy: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Interval] = field(default_factory=dict)
    valid: Mapping[str, float] = field(default_factory=dict)
    trained_parameters: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""

    def cells(self, marked: bool = False) -> tuple[str, ...]:
        """The line under `HEADINGS`; `marked`: differences that exclude zero are bold in Markdown."""
        return (
            self.title if self.shots is None else f"{self.title}, {self.shots} a label",
            self.spoken_lm,
            "" if self.utterances is None else f"{self.utterances:,}",
            "" if self.rounds is None else str(self.rounds),
            self.known,
            self.aim,
            *(self._cell(method) for method in METHODS),
            "" if self.trained_parameters is None else f"{self.trained_parameters:,}",
            *(self._difference(method, marked) for method in COMPARED),
            "; ".join(text for text in (self.remark, *self._notes()) if text),
        )

    def _notes(self) -> list[str]:
        """The LM's precision where it is not float32, and what prompts reach without n-grams or copies beside them."""
        prompt, ngrams, once = (
            self._noted(f"{part}_on_test") for part in ("prompt_alone", "ngrams_alone", "without_copies")
        )
        notes = []
        if self.facts.get("lm_dtype") not in (None, "torch.float32"):
            notes.append(f"in {self.facts['lm_dtype'].removeprefix('torch.')}")
        if prompt is not None:
            notes.append(
                f"with n-grams: prompts alone {share_cell(prompt)}, n-grams alone {share_cell(ngrams)}"
            )
        if once is not None:
            notes.append(f"heard once: prompts {share_cell(once)}")
        return notes

    def _noted(self, name: str) -> float | None:
        """A number that the cells of prompts note, over all utterances; None where they do not, or no test is shown."""
        cells = [cell for cell in self.facts.get("cells", {}).get("prompt", ()) if name in cell]
        if not cells or not self.accuracy:
            return None
        return float(np.average([c[name] for c in cells], weights=[c["utterances"] for c in cells]))

    def _difference(self, method: str, marked: bool) -> str:
        found = self.differences.get(method)
        bold = "**" if marked and found is not None and found.excludes_zero else ""
        return bold + interval_cell(found, signed=True) + bold

    def _cell(self, method: str) -> str:
        """The test's interval; where the test is not shown, the accuracy on validation."""
        if self.accuracy:
            return interval_cell(self.accuracy.get(method))
        return f"valid {share_cell(self.valid[method])}" if method in self.valid else ""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ResultsTable:
    """All lines, and what was measured on."""

    lines: tuple[Line, ...]
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {**self.settings, "lines": [line.to_json() for line in self.lines]}

    def shown(self, marked: bool = False) -> tuple[list[str], list[list[str]]]:
        """Headings and cells, without columns that are empty in every line; `marked` as of `Line.cells`."""
        cells = [line.cells(marked) for line in self.lines]
        kept = [i for i, _ in enumerate(HEADINGS) if any(row[i] for row in cells)]
        return [HEADINGS[i] for i in kept], [[row[i] for i in kept] for row in cells]


def dated(line: Line, row: TableRow, declaration: Declaration) -> Line:
    """An earlier line under the words declared now, with a remark when its methods' options are others."""
    measured = line.facts.get("options", {})
    now = {method: declaration.options(row, method) for method in measured if method in DRAWN}
    remark = "" if line.remark == _CHANGED else line.remark
    if json.loads(json.dumps(now)) != measured:
        remark = _CHANGED
    return replace(line, title=row.title, known=row.known, aim=row.aim, remark=remark)


def kept(line: Line, earlier: Line) -> Line:
    """The line, or an earlier one with more methods where this call lacked data, LM or time for them."""
    more = {*earlier.accuracy, *earlier.valid} > {*line.accuracy, *line.valid}
    return earlier if more and line.remark.startswith(_LACKING) else line


def with_answers(line: Line, right: Mapping[str, Sequence[NDArray[np.bool_]]]) -> Line:
    """The line whose cells note which test utterances (B,) they got right, in order."""
    cells = {
        method: [
            {**cell, _RIGHT: base64.b64encode(np.packbits(found).tobytes()).decode()}
            for cell, found in zip(line.facts["cells"][method], right[method], strict=True)
        ]
        for method in line.facts["cells"]
    }
    return replace(line, facts={**line.facts, "cells": cells})


def answers_of(cells: Sequence[Mapping[str, Any]]) -> list[NDArray[np.bool_]] | None:
    """Which test utterances (B,) each cell got right; None where they do not note it. ValueError for damaged notes."""
    if not cells or not all(_RIGHT in cell for cell in cells):
        return None
    found = []
    for cell in cells:
        packed = np.frombuffer(base64.b64decode(cell[_RIGHT], validate=True), np.uint8)
        if len(packed) != -(-cell["utterances"] // 8):
            raise ValueError(f"{_RIGHT} is not of {cell['utterances']} utterances")
        found.append(np.unpackbits(packed, count=cell["utterances"]).astype(bool))
    return found


def check_facts(facts: Mapping[str, Any]) -> None:
    """ValueError, KeyError, TypeError or AttributeError for facts read from a page that no line can grow by."""
    if not facts:
        return
    machines = {place["machine"] for place in facts["measured_by"]}
    if not all(isinstance(facts.get(name, {}), dict) for name in ("cells", "options", "inputs")):
        raise ValueError("facts are no tables")
    for method, cells in facts["cells"].items():
        answers_of(cells)
        if method not in METHODS or not {cell["measured_by"] for cell in cells} <= machines:
            raise ValueError(f"nobody measured {method}")


def scored(line: Line, groups: Sequence[str] | None, folded: bool) -> Line:
    """The line's numbers, from which test utterances its cells got right; what has no such notes stays as it is.

    Folds are joined to one list of utterances, in which `groups` are the speakers; seeds are rows over the same ones.
    """
    cells = line.facts["cells"]
    right = {}
    for method in METHODS:
        found = answers_of(cells[method]) if method in cells else None
        if found is not None:
            right[method] = np.concatenate(found)[None] if folded else np.array(found)
    accuracy = {
        **line.accuracy,
        **{method: accuracy_interval(found, groups) for method, found in right.items()},
    }
    differences = dict(line.differences)
    if "prompt" in right:
        others = [method for method in right if method != "prompt"]
        differences |= {m: paired_difference_interval(right["prompt"], right[m], groups) for m in others}
    return replace(line, accuracy=_ordered(accuracy), differences=_ordered(differences))


def grown(line: Line, earlier: Line, inputs: Mapping[str, str]) -> Line:
    """The line and what an earlier one has of other methods, where `inputs` (by method, now) are those of then.

    What an LM answered stays unless this call measured with another one. Numbers come of `scored`.
    """
    now, then = line.facts, earlier.facts
    asked = now["lm_fingerprint"] is not None
    other_lm = asked and any(now[name] != then.get(name) for name in _LM)
    stay = [
        method
        for method in then["cells"]
        if method not in now["cells"]
        and then.get("inputs", {}).get(method) == inputs.get(method)
        and not (other_lm and method in NEEDS_LM)
        and _answers_all(then["cells"][method], line)
    ]
    if not stay:
        return line
    facts = {**now, **({} if asked else {name: then.get(name) for name in ("spoken_lm", *_LM)})}
    for name in ("cells", "options", "inputs"):
        facts[name] = _ordered(
            {**now[name], **{m: one for m, one in then.get(name, {}).items() if m in stay}}
        )
    machines = {cell["measured_by"] for method in stay for cell in then["cells"][method]}
    new = [place for place in then["measured_by"] if place not in now["measured_by"]]
    facts["measured_by"] = [*now["measured_by"], *(place for place in new if place["machine"] in machines)]
    whole = "prompt" in stay
    return replace(
        line,
        accuracy={**line.accuracy, **{m: earlier.accuracy[m] for m in stay if m in earlier.accuracy}},
        differences={m: earlier.differences[m] for m in stay if whole and m in earlier.differences},
        valid={**line.valid, **{m: earlier.valid[m] for m in stay if m in earlier.valid}},
        trained_parameters=earlier.trained_parameters if whole else line.trained_parameters,
        facts=facts,
        remark=_without(line.remark, stay),
    )


def _answers_all(cells: Sequence[Mapping[str, Any]], line: Line) -> bool:
    """Whether cells answer a line's test utterances, each of them (seeds) or together (folds)."""
    counts = [cell["utterances"] for cell in cells]
    return line.utterances is None or line.utterances == sum(counts) or set(counts) == {line.utterances}


def lacking(methods: Sequence[str]) -> str:
    """The remark of a line that lacks methods; empty where it lacks none."""
    return f"{_TIME}{', '.join(methods)}" if methods else ""


def _without(remark: str, methods: Sequence[str]) -> str:
    if not remark.startswith(_TIME):
        return remark
    return lacking([name for name in remark.removeprefix(_TIME).split(", ") if name not in methods])


def without_tests(line: Line) -> Line:
    """The line without what its cells noted on the test."""
    cells = {
        method: [{k: v for k, v in cell.items() if not k.endswith("_on_test")} for cell in found]
        for method, found in line.facts["cells"].items()
    }
    return replace(line, facts={**line.facts, "cells": cells})


def _ordered(values: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """By method, in the order of the columns."""
    return {method: values[method] for method in METHODS if method in values}
