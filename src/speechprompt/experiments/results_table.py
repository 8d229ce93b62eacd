"""The table of results: every declared row under every method, each cell measured once, as Markdown and JSON.

An interrupted study goes on where it was; a changed input (units, labels, LM, options, seed, a method's version)
measures again only the cells that depend on it. A page grows: rows and methods that a call does not measure stay.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from speechprompt.encoding import encode_corpus, with_speed_copies
from speechprompt.errors import CorpusError, SpeechPromptError, UnknownName, UsageError, WorkError
from speechprompt.evaluation.summary import read_json
from speechprompt.experiments.demo import Stage
from speechprompt.experiments.results_lines import (
    Line,
    ResultsTable,
    check_facts,
    dated,
    grown,
    kept,
    lacking,
    scored,
    with_answers,
    without_tests,
)
from speechprompt.experiments.results_page import write_page
from speechprompt.experiments.table_cells import Cell, FeatureCache, Measure
from speechprompt.experiments.table_facts import facts_of, right_of, validated
from speechprompt.experiments.table_options import HEARING, check_options, copied_splits, hearing_options
from speechprompt.experiments.table_rounds import (
    AbsentMaterial,
    Round,
    drawn_groups,
    find_source,
    read_row,
    rounds_of,
)
from speechprompt.experiments.table_rows import (
    DRAWN,
    NEEDS_LM,
    NGRAM_COPIES,
    NGRAM_TUNED,
    Declaration,
    TableRow,
)
from speechprompt.speech.manifest import Corpus, Utterance
from speechprompt.speech.speeds import AnswerCopies
from speechprompt.spoken_lm import SpokenLM


class _Point(NamedTuple):
    """What the cells of a line are measured on; `spoken_lm` None where no method asks one."""

    row: TableRow
    rounds: Sequence[Round]
    spoken_lm: SpokenLM | None
    shot: int | None


@dataclass
class Study:
    """What all rows share. `lms` loads a spoken LM by the name that rows use, onto `device`; `out` holds the cells.

    No cell is begun after `deadline` (`time.monotonic()`); `columns` None takes each row's own. `tuning` shows
    accuracy on validation only, so that options can be chosen without a look at a test. `notices` says what has left
    the page.
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
    device: str = "cpu"
    loaded: dict[str, SpokenLM] = field(default_factory=dict)
    features: FeatureCache = field(default_factory=FeatureCache)
    measured: int = 0
    reused: int = 0
    notices: list[str] = field(default_factory=list)
    _held: tuple[object, Corpus] | None = None
    _points: dict[tuple[str, int | None], _Point] = field(default_factory=dict)

    def lines(self, row: TableRow) -> list[Line]:
        """A row's lines: one for each LM, and for each point of its learning curve."""
        found = []
        self._points.clear()
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
        methods = self.declaration.methods(row, self.columns)
        corpus, spoken_lm = self._encoded(row, source, name, methods)
        rounds = rounds_of(row, corpus, self.seeds, shot)
        if any(u.audio is None for u in corpus.utterances):
            methods = [m for m in methods if m not in ("mfcc n-gram", NGRAM_COPIES)]
        if not self.declaration.options(row, NGRAM_COPIES):
            methods = [m for m in methods if m != NGRAM_COPIES]
        point = self._points[name, shot] = _Point(row, rounds, spoken_lm, shot)
        cells = {m: self._cells(m, point) for m in methods}
        whole = {m: found for m, found in cells.items() if found is not None}
        missing = [m for m in methods if m not in whole]
        facts = facts_of(name, spoken_lm, corpus, row, whole, self.declaration, self.device)
        facts["inputs"] = {m: self._inputs(m, point) for m in whole}
        prompts = whole.get("prompt")
        line = replace(
            line,
            utterances=len(_tested(row, rounds)),
            rounds=len(rounds),
            valid=validated(whole),
            trained_parameters=None if not prompts else max(cell.trained_parameters for cell in prompts),
            facts=facts,
            remark=lacking(missing),
        )
        if self.tuning:
            return replace(without_tests(line), utterances=None, trained_parameters=None)
        line = with_answers(line, {m: right_of(found, rounds) for m, found in whole.items()})
        return scored(line, drawn_groups(_tested(row, rounds)), row.folds is not None)

    def settled(self, row: TableRow, line: Line, earlier: Sequence[Line]) -> Line:
        """A line of the last call of `lines` with what the page holds of it: methods that this call did not measure
        and whose inputs are the same, or the earlier line where this call lacked data, LM or time.
        """
        for one in earlier:
            if (one.spoken_lm, one.shots) != (line.spoken_lm, line.shots):
                continue
            point = self._points.get((line.spoken_lm, line.shots))
            others = [m for m in one.facts.get("cells", {}) if m not in line.facts.get("cells", {})]
            if point is not None and one.facts:
                line = grown(line, one, {m: self._inputs(m, point) for m in others})
                if not self.tuning:
                    line = scored(line, drawn_groups(_tested(row, point.rounds)), row.folds is not None)
            found = kept(line, one)
            if gone := [method for method in others if method not in found.facts.get("cells", {})]:
                of = f"{row.name}, {line.spoken_lm}: {', '.join(gone)}"
                self.notices.append(f"{of} left the page, measured on other inputs than these")
            return found
        return line

    def _inputs(self, method: str, point: _Point) -> str:
        """Hash of all that a method's cells depend on, but for the LM; empty where a row without audio needs it."""
        try:
            parts = [one.inputs for one in self._measures(method, point)]
        except CorpusError:
            return ""
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def _measures(self, method: str, point: _Point) -> list[Measure]:
        """A method on each round; one that draws nothing answers once for all seeds."""
        row, rounds, spoken_lm, shot = point
        takes = method in (*DRAWN, NGRAM_COPIES, NGRAM_TUNED)
        options = self.declaration.options(row, method) if takes else {}
        same = method not in DRAWN and row.folds is None and shot is None
        return [
            Measure(method, one, spoken_lm, options, self.out / "cells", self.device)
            for one in (rounds[:1] if same else rounds)
        ]

    def _lm(self, name: str) -> SpokenLM:
        if name not in self.loaded:
            try:
                self.loaded[name] = self.lms(name)
            except UnknownName as error:
                raise AbsentMaterial(f"spoken LM {name} ({error}); name its folder with --lm") from None
        return self.loaded[name]

    def _encoded(
        self, row: TableRow, source: Path, name: str, methods: Sequence[str]
    ) -> tuple[Corpus, SpokenLM | None]:
        """The row's corpus with units, and with the copies at other speeds that a method trains on or answers over.

        And the LM, None where it is absent and neither the methods nor utterances without units need it. That of the
        line before is kept, since a learning curve asks again.
        """
        identity = (row, name)
        if self._held is None or self._held[0] != identity:
            try:
                spoken_lm = self._lm(name)
            except AbsentMaterial:
                corpus = read_row(row, source)
                if set(methods) & set(NEEDS_LM) or any(u.units is None for u in corpus.utterances):
                    raise
                self._held = identity, corpus
                return corpus, None
            with self.stage(f"{row.name}: encoding") as update:
                found = encode_corpus(
                    read_row(row, source),
                    spoken_lm,
                    listener=lambda done, total: update(done, total, "clips"),
                )
            corpus = found.corpus
            trained = [hearing_options(m, self.declaration.options(row, m)) for m in HEARING if m in methods]
            wanted = [one.options.copying for one in trained]
            taught, heard = (
                sorted({split for one in trained for split in copied_splits(one)[place]}) for place in (0, 1)
            )
            answered = [AnswerCopies(one.answer_copies) for one in trained]
            if any(one.options.speed_copies or one.answer_copies for one in trained):
                with self.stage(f"{row.name}: encoding at other speeds") as update:
                    corpus = with_speed_copies(
                        corpus,
                        spoken_lm,
                        wanted,
                        listener=lambda done, total: update(done, total, "clips"),
                        splits=taught if row.folds is None else None,
                    ).corpus
                    corpus = with_speed_copies(
                        corpus,
                        spoken_lm,
                        answered,
                        listener=lambda done, total: update(done, total, "clips"),
                        splits=heard if row.folds is None else None,
                    ).corpus
            self._held = identity, corpus
        return self._held[1], self.loaded.get(name)

    def _cells(self, method: str, point: _Point) -> list[Cell] | None:
        """A method's cell of each round; None when the time is up before all are there."""
        found = []
        for measure in self._measures(method, point):
            cell = measure.load()
            if cell is not None:
                self.reused += 1
            elif self.deadline is not None and time.monotonic() > self.deadline:
                return None
            else:
                few = "" if point.shot is None else f" {point.shot} shots"
                with self.stage(f"{point.row.name}{few}: {method} {measure.round.name}") as update:
                    cell = measure.run(self.features, update)
                self.measured += 1
            found.append(cell)
        return found


def make_table(study: Study, rows: Sequence[TableRow], write: Path) -> ResultsTable:
    """Measure what is missing of the rows and write `write` (Markdown), its pictures and the same as JSON.

    All are written again after every row, so that a study can be read while it runs. Lines of other rows that
    the JSON already holds stay, so do methods of these rows whose inputs are the same (and whose LM, where this call
    asks one), and a line for which data, LM or time are lacking now. Errors of one row stay
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
        own[row.name] = [study.settled(row, line, earlier.get(row.name, ())) for line in found]
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
        for line in read:
            check_facts(line.facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, WorkError) as error:
        raise WorkError(
            f"{path} is damaged ({error}); delete it, and the same command writes it anew from the cells"
        ) from None
    if shown != _settings(study)["shown"]:
        raise UsageError(f"{path} holds the table of {shown} accuracies; name another page with --write")
    declared = {row.name: row for row in study.declaration.row}
    for line in read:
        if line.name in declared and not line.remark.startswith("failed"):
            found.setdefault(line.name, []).append(dated(line, declared[line.name], study.declaration))
    return found


def _tested(row: TableRow, rounds: Sequence[Round]) -> list[Utterance]:
    """The test utterances that a line's answers are to, in their order."""
    return [u for one in (rounds if row.folds is not None else rounds[:1]) for u in one.rows("test")]
