"""The table of results: every declared row under every method, each cell measured once, as Markdown and JSON.

An interrupted study goes on where it was; a changed input (units, labels, LM, options, seed, a method's version)
measures again only the cells that depend on it. A page grows: lines of rows that a call does not measure stay.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.errors import SpeechPromptError, UnknownName, UsageError, WorkError
from speechprompt.evaluation.summary import read_json
from speechprompt.experiments.demo import Stage
from speechprompt.experiments.results_page import write_page
from speechprompt.experiments.table_cells import (
    TRAINED,
    Cell,
    FeatureCache,
    Measure,
    check_options,
    facts_of,
    training_options,
)
from speechprompt.experiments.table_rounds import (
    AbsentMaterial,
    Round,
    drawn_groups,
    find_source,
    read_row,
    rounds_of,
)
from speechprompt.experiments.table_rows import DRAWN, METHODS, NGRAM_COPIES, Declaration, TableRow
from speechprompt.experiments.tables import interval_cell, share_cell
from speechprompt.metrics import Interval, accuracy_interval, paired_difference_interval
from speechprompt.speech.manifest import Corpus
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.spoken_lm import SpokenLM

_LACKING = ("absent: ", "not measured yet: ")
_CHANGED = "measured with other options than are declared now"
COMPARED = ("n-gram", NGRAM_COPIES, "mfcc n-gram", "cnn", "finetune")
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
        """What prompts reach on the test without the n-grams beside them, or without copies at other speeds."""
        prompt, ngrams, once = (
            self._noted(f"{part}_on_test") for part in ("prompt_alone", "ngrams_alone", "without_copies")
        )
        beside = f"with n-grams: prompts alone {share_cell(prompt)}, n-grams alone {share_cell(ngrams)}"
        return [beside] * (prompt is not None) + [f"heard once: prompts {share_cell(once)}"] * (
            once is not None
        )

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


@dataclass
class Study:
    """What all rows share. `lms` loads a spoken LM by the name that rows use; `out` holds the cells.

    No cell is begun after `deadline` (`time.monotonic()`); `columns` None takes each row's own. `tuning` shows
    accuracy on validation only, so that options can be chosen without a look at a test.
    """

    declaration: Declaration
    material: Path
    unpacked: Path
    out: Path
    lms: Callable[[str], SpokenLM]
    stage: Stage
    seeds: int
    columns: Sequence[str] | None = None
    deadline: float | None = None
    tuning: bool = False
    loaded: dict[str, SpokenLM] = field(default_factory=dict)
    features: FeatureCache = field(default_factory=FeatureCache)
    measured: int = 0
    reused: int = 0
    _held: tuple[object, Corpus] | None = None

    def lines(self, row: TableRow) -> list[Line]:
        """A row's lines: one for each LM, and for each point of its learning curve."""
        found = []
        for name in row.lms:
            for shot in row.shots or (None,):
                line = Line(row.name, row.title, name, row.known, row.aim, shot)
                try:
                    found.append(self._line(row, name, shot, line))
                except SpeechPromptError as error:
                    text = " ".join(str(error).split())
                    absent = isinstance(error, AbsentMaterial)
                    found.append(replace(line, remark=f"{'absent' if absent else 'failed'}: {text}"))
        return found

    def _line(self, row: TableRow, name: str, shot: int | None, line: Line) -> Line:
        source = find_source(row, self.material, self.unpacked)
        spoken_lm = self._lm(name)
        methods = self.declaration.methods(row, self.columns)
        corpus = self._encoded(row, source, spoken_lm, methods)
        rounds = rounds_of(row, corpus, self.seeds, shot)
        if any(u.audio is None for u in corpus.utterances):
            methods = [m for m in methods if m not in ("mfcc n-gram", NGRAM_COPIES)]
        if not self.declaration.options(row, NGRAM_COPIES):
            methods = [m for m in methods if m != NGRAM_COPIES]
        cells = {m: self._cells(row, m, rounds, spoken_lm, shot) for m in methods}
        whole = {m: found for m, found in cells.items() if found is not None}
        missing = [m for m in methods if m not in whole]
        facts = facts_of(spoken_lm, corpus, row, whole, self.declaration)
        remark = f"not measured yet: {', '.join(missing)}" if missing else ""
        line = replace(line, facts=facts, remark=remark, valid=_validated(whole), rounds=len(rounds))
        return _without_tests(line) if self.tuning else _scored(line, row, rounds, whole)

    def _lm(self, name: str) -> SpokenLM:
        if name not in self.loaded:
            try:
                self.loaded[name] = self.lms(name)
            except UnknownName as error:
                raise AbsentMaterial(f"spoken LM {name} ({error}); name its folder with --lm") from None
        return self.loaded[name]

    def _encoded(self, row: TableRow, source: Path, spoken_lm: SpokenLM, methods: Sequence[str]) -> Corpus:
        """The row's corpus with units, and with the copies at other speeds that a method trains on or answers over.

        That of the line before is kept, since a learning curve asks again.
        """
        identity = (row, spoken_lm.name)
        if self._held is None or self._held[0] != identity:
            with self.stage(f"{row.name}: encoding") as update:
                found = encode_corpus(
                    read_row(row, source),
                    spoken_lm,
                    listener=lambda done, total: update(done, total, "clips"),
                )
            corpus = found.corpus
            options = [self.declaration.options(row, m) for m in (*TRAINED, NGRAM_COPIES) if m in methods]
            trained = [training_options(values, 0) for values in options]
            wanted = [one.options.copying for one in trained]
            answered = [AnswerCopies(one.answer_copies) for one in trained]
            if any(one.options.speed_copies or one.answer_copies for one in trained):
                with self.stage(f"{row.name}: encoding at other speeds") as update:
                    corpus = with_speed_copies(
                        corpus,
                        spoken_lm,
                        wanted,
                        listener=lambda done, total: update(done, total, "clips"),
                        splits=("train",) if row.folds is None else None,
                    ).corpus
                    corpus = with_speed_copies(
                        corpus,
                        spoken_lm,
                        answered,
                        listener=lambda done, total: update(done, total, "clips"),
                        splits=("valid", "test") if row.folds is None else None,
                    ).corpus
            self._held = identity, corpus
        return self._held[1]

    def _cells(
        self, row: TableRow, method: str, rounds: Sequence[Round], spoken_lm: SpokenLM, shot: int | None
    ) -> list[Cell] | None:
        """A method's cell of each round; None when the time is up before all are there."""
        options = self.declaration.options(row, method) if method in (*DRAWN, NGRAM_COPIES) else {}
        same = method not in DRAWN and row.folds is None and shot is None
        found = []
        for one in rounds[:1] if same else rounds:
            measure = Measure(method, one, spoken_lm, options, self.out / "cells")
            cell = measure.load()
            if cell is not None:
                self.reused += 1
            elif self.deadline is not None and time.monotonic() > self.deadline:
                return None
            else:
                point = "" if shot is None else f" {shot} shots"
                with self.stage(f"{row.name}{point}: {method} {one.name}") as update:
                    cell = measure.run(self.features, update)
                self.measured += 1
            found.append(cell)
        return found


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


def make_table(study: Study, rows: Sequence[TableRow], write: Path) -> ResultsTable:
    """Measure what is missing of the rows and write `write` (Markdown), its pictures and the same as JSON.

    All are written again after every row, so that a study can be read while it runs. Lines of other rows that
    the JSON already holds stay, and so does a line for which data, LM or time are lacking now. Errors of one row stay
    in its lines; UsageError for wrong options or a page of the other kind (tests, or validation), and WorkError for a
    damaged JSON, come before any work.
    """
    for row in rows:
        for method in DRAWN:
            check_options(method, study.declaration.options(row, method))
    page, own = write.with_suffix(".json"), dict[str, list[Line]]()
    _earlier(study, page)
    for row in rows:
        found = study.lines(row)
        earlier = _earlier(study, page)  # now, for another call may have measured other rows meanwhile
        own[row.name] = [_kept(line, earlier.get(row.name, ())) for line in found]
        lines = earlier | own
        ordered = [line for one in study.declaration.row for line in lines.get(one.name, ())]
        table = ResultsTable(tuple(ordered), _settings(study))
        write_page(table, write)
    return table


def _settings(study: Study) -> dict[str, Any]:
    return {
        "shown": "valid" if study.tuning else "test",
        "cells_measured": study.measured,
        "cells_reused": study.reused,
    }


def _earlier(study: Study, path: Path) -> dict[str, list[Line]]:
    """Lines by row that the page holds. UsageError for one of the other kind, WorkError when its JSON is damaged."""
    found: dict[str, list[Line]] = {}
    if not path.exists():
        return found
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        shown, read = str(document["shown"]), [read_json(Line, line) for line in document["lines"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, WorkError) as error:
        raise WorkError(
            f"{path} is damaged ({error}); delete it, and the same command writes it anew from the cells"
        ) from None
    if shown != _settings(study)["shown"]:
        raise UsageError(f"{path} holds the table of {shown} accuracies; name another page with --write")
    declared = {row.name: row for row in study.declaration.row}
    for line in read:
        if line.name in declared and not line.remark.startswith("failed"):
            found.setdefault(line.name, []).append(_dated(line, declared[line.name], study.declaration))
    return found


def _dated(line: Line, row: TableRow, declaration: Declaration) -> Line:
    """An earlier line under the words declared now, with a remark when its methods' options are others."""
    measured = line.facts.get("options", {})
    now = {method: declaration.options(row, method) for method in measured if method in DRAWN}
    remark = "" if line.remark == _CHANGED else line.remark
    if json.loads(json.dumps(now)) != measured:
        remark = _CHANGED
    return replace(line, title=row.title, known=row.known, aim=row.aim, remark=remark)


def _kept(line: Line, earlier: Sequence[Line]) -> Line:
    """The line, or the one with more methods that the page holds, where this call lacked data, LM or time for them."""
    for one in earlier:
        same = (one.spoken_lm, one.shots) == (line.spoken_lm, line.shots)
        more = {*one.accuracy, *one.valid} > {*line.accuracy, *line.valid}
        if same and more and line.remark.startswith(_LACKING):
            return one
    return line


def _scored(line: Line, row: TableRow, rounds: Sequence[Round], cells: Mapping[str, Sequence[Cell]]) -> Line:
    """The line's numbers. Folds are joined to one list of utterances; seeds are rows over the same utterances."""
    folded = row.folds is not None
    test = [u for one in (rounds if folded else rounds[:1]) for u in one.rows("test")]
    groups = drawn_groups(test)
    right = {method: _right(found, rounds, folded) for method, found in cells.items()}
    differences = {}
    if "prompt" in right:
        differences = {
            method: paired_difference_interval(right["prompt"], table, groups)
            for method, table in right.items()
            if method != "prompt"
        }
    prompts = cells.get("prompt")
    return replace(
        line,
        utterances=len(test),
        accuracy={method: accuracy_interval(table, groups) for method, table in right.items()},
        differences=differences,
        trained_parameters=None if not prompts else max(cell.trained_parameters for cell in prompts),
    )


def _without_tests(line: Line) -> Line:
    """The line without what its cells noted on the test."""
    cells = {
        method: [{k: v for k, v in cell.items() if not k.endswith("_on_test")} for cell in found]
        for method, found in line.facts["cells"].items()
    }
    return replace(line, facts={**line.facts, "cells": cells})


def _validated(cells: Mapping[str, Sequence[Cell]]) -> dict[str, float]:
    """Mean accuracy on validation of the methods that choose there."""
    means = {}
    for method, found in cells.items():
        reached = [cell.valid_accuracy for cell in found if cell.valid_accuracy is not None]
        if reached:
            means[method] = float(np.mean(reached))
    return means


def _right(cells: Sequence[Cell], rounds: Sequence[Round], folded: bool) -> NDArray[np.bool_]:
    """Which utterances are right: (seeds, B), or (1, B) over all folds."""
    rows = [
        [a == b for a, b in zip(cell.predictions, one.labels("test"), strict=True)]
        for cell, one in zip(
            cells, rounds, strict=False
        )  # a method that draws nothing has one cell for all seeds
    ]
    return np.concatenate([np.array(row) for row in rows])[None] if folded else np.array(rows)
