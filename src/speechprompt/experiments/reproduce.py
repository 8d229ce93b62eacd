"""The paper's table again: every row whose corpus is at hand, beside what is published and an n-gram baseline.

Finished runs stay under the output folder, named by a hash of what they depend on: the same command goes on
where a stopped one was, and a longer one trains only what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from speechprompt.corpora.registry import list_corpora
from speechprompt.errors import SpeechPromptError, UnknownName, UsageError
from speechprompt.evaluation.reports import (
    BaselineScore,
    Report,
    ReportTable,
    StudyRow,
    TaskSection,
    write_report,
)
from speechprompt.evaluation.summary import interval_groups
from speechprompt.experiments.answers import SavedAnswers, accuracy_over_seeds, error_rate_over_seeds
from speechprompt.experiments.demo import Stage
from speechprompt.experiments.event_log import EventLog
from speechprompt.experiments.paper_table import COLUMNS, PAPER_ROWS, PaperRow, paper_row
from speechprompt.experiments.roots import CorpusRoot
from speechprompt.experiments.row_run import AbsentCorpus, RowRun, open_row
from speechprompt.experiments.sections import EVENTS
from speechprompt.experiments.tables import (
    interval_cell,
    json_text,
    markdown_table,
    share_cell,
    write_whole,
)
from speechprompt.metrics import Interval, paired_difference_interval
from speechprompt.prompting.finishing import finish, versions
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.prompting.training import remove_checkpoint, train_runs
from speechprompt.spoken_lm import SpokenLM

MARKDOWN, JSON, PAGE = "table.md", "table.json", "report.html"
DRAWN = "GSLM+"
"""The paper's column that the plot shows: the default recipe's verbalizer is learnable too."""
HEADINGS = (
    *("row", "labels", "metric"),
    *(f"paper {column}" for column in COLUMNS),
    *("ours % [95 %]", "n-gram % [95 %]", "ours minus n-gram, points [95 %]", "n", "remark"),
)

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row of the table. `ours` is the mean over seeds, `difference` (accuracy only) ours minus the n-gram's.

    `state` absent: the corpus is not here; failed: `remark` is the error.
    """

    name: str
    state: Literal["done", "absent", "failed"]
    remark: str = ""
    utterances: int | None = None
    labels: tuple[int, ...] = ()
    ours: Interval | None = None
    ngram: Interval | None = None
    difference: Interval | None = None
    prompts: tuple[str, ...] = ()
    section: TaskSection | None = None

    @property
    def paper(self) -> PaperRow | None:
        """What is published for it."""
        return paper_row(self.name)

    def cells(self) -> tuple[str, ...]:
        """The row under `HEADINGS`."""
        paper = self.paper
        labels = self.labels or (() if paper is None else paper.labels)
        return (
            self.name,
            " × ".join(f"{count:,}" for count in labels),
            "accuracy" if paper is None else paper.metric,
            *("" if paper is None else share_cell(paper.column(column)) for column in COLUMNS),
            interval_cell(self.ours),
            interval_cell(self.ngram),
            interval_cell(self.difference, signed=True),
            "" if self.utterances is None else f"{self.utterances:,}",
            self.remark,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and words."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("section", "paper")}
        for name in ("ours", "ngram", "difference"):
            plain[name] = None if plain[name] is None else asdict(plain[name])
        paper = self.paper
        published = None if paper is None else dict(zip(COLUMNS, paper.published, strict=True))
        return {**plain, "metric": "accuracy" if paper is None else paper.metric, "paper": published}


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The table, and the file of its report."""

    rows: tuple[RowResult, ...]
    settings: Mapping[str, Any]
    report: Path

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {
            **self.settings,
            "rows": [row.to_json() for row in self.rows],
            "report": str(self.report),
        }

    def cells(self) -> list[tuple[str, ...]]:
        """A row a task, under `HEADINGS`."""
        return [row.cells() for row in self.rows]


def row_names(wanted: Sequence[str]) -> list[str]:
    """The rows to reproduce, the paper's seventeen where none is named. UnknownName suggests the nearest."""
    known = {name for about in list_corpora() for name in about.rows_offered}
    for name in wanted:
        if name not in known:
            raise UnknownName("row", name, sorted(known))
    return list(dict.fromkeys(wanted)) or [row.name for row in PAPER_ROWS]


@dataclass(frozen=True)
class Study:
    """What all rows of a reproduction share; `changes` are training options other than the recipe's."""

    spoken_lm: SpokenLM
    roots: Mapping[str, CorpusRoot]
    out: Path
    stage: Stage
    notice: Notice
    recipe: str = "default"
    seeds: int = 1
    joint: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)

    def variants(self, name: str) -> list[TrainingOptions]:
        """The options of each seed; recipe `paper` takes the reference's batch size for the row."""
        paper = paper_row(name)
        changes = dict(self.changes)
        if self.recipe == "paper" and paper is not None:
            changes = {"batch_size": paper.batch_size, **changes}
        first = TrainingOptions.of_recipe(self.recipe, changes)
        if first.ensemble > 1:
            raise UsageError(
                "the paper's prompts answer alone, one a seed; take the recipe default or paper, without 'ensemble'"
            )
        return [first.model_copy(update={"seed": first.seed + i}) for i in range(self.seeds)]

    def results(self, names: Sequence[str]) -> Iterable[RowResult]:
        """Train and score some rows; what goes wrong in one stays in its result."""
        results, rows = {}, []
        for name in names:
            try:
                with self.stage(f"reading {name}") as update:
                    rows.append(
                        open_row(name, self.roots, self.spoken_lm, self.out, self.variants(name), update)
                    )
            except SpeechPromptError as error:
                state: Any = "absent" if isinstance(error, AbsentCorpus) else "failed"
                results[name] = RowResult(name, state, " ".join(str(error).split()))
        for row in rows:
            for notice in row.notices:
                self.notice(f"{row.name}: {notice}")
        pending = [(row, options) for row in rows for options in row.pending()]
        for group in [pending] if self.joint and pending else [[one] for one in pending]:
            try:
                self._train(group)
            except SpeechPromptError as error:
                for row, _ in group:
                    results[row.name] = RowResult(row.name, "failed", " ".join(str(error).split()))
        for row in rows:
            if row.name not in results:
                results[row.name] = self._result(row)
        return [results[name] for name in names]

    def _train(self, group: Sequence[tuple[RowRun, TrainingOptions]]) -> None:
        """Train rows and seeds in one run of the bank and save each prompt; resumable until then."""
        runs = [row.start(options, self.spoken_lm) for row, options in group]
        folders = [row.run_folder(options) for row, options in group]
        key = hashlib.sha256(" ".join(str(folder.name) for folder in folders).encode()).hexdigest()[:12]
        title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs at once"
        steps = max(run.options.steps for run in runs)
        log = EventLog(self.out / "runs" / f"events-{key}.jsonl")
        checkpoint = self.out / "runs" / f"checkpoint-{key}.pt"
        with self.stage(f"training {title}") as update:

            def listen(event: Mapping[str, Any]) -> None:
                log.add(event)
                if "step" in event:
                    update(event["step"], steps, "")

            train_runs(self.spoken_lm.lm, runs, listen, checkpoint)
        seconds = {"training_seconds": log.seconds()} if len(runs) == 1 else {}
        for (row, _), run, folder in zip(group, runs, folders, strict=True):
            artifact = finish(run, self.spoken_lm, row.corpus)
            replace(artifact, metrics={**artifact.metrics, **seconds}).save(folder)
        log.finish({run.name: folder / EVENTS for run, folder in zip(runs, folders, strict=True)})
        remove_checkpoint(checkpoint)

    def _result(self, row: RowRun) -> RowResult:
        try:
            with self.stage(f"scoring {row.name}") as update:
                update(0, None, "beside the n-gram baseline")
                return _scored(row, row.answers(self.spoken_lm), row.ngram(), self.out)
        except SpeechPromptError as error:
            return RowResult(row.name, "failed", " ".join(str(error).split()))


def reproduce(names: Sequence[str], study: Study) -> Reproduction:
    """Every named row (`row_names`), with table and report under the study's folder.

    UsageError and UnknownName for wrong options. Side effects: files under `study.out`, which replace those of
    an earlier call; the unit store.
    """
    rows = row_names(names)
    study.variants(rows[0])  # a wrong recipe or option is told before any work
    groups = [rows] if study.joint else [[row] for row in rows]
    results = tuple(result for group in groups for result in study.results(group))
    settings = {
        "spoken_lm": study.spoken_lm.name,
        "recipe": study.recipe,
        "seeds": study.seeds,
        "joint": study.joint,
        "changes": dict(study.changes),
        "versions": versions(),
    }
    sections = tuple(result.section for result in results if result.section is not None)
    found = Reproduction(results, settings, study.out / PAGE)
    origins = {name: str(value) for name, value in settings.items() if name not in ("versions", "changes")}
    subtitle = f"{len(sections)} of {len(rows)} rows, beside what the paper reports."
    report = Report("The paper's table", sections, {**origins, **versions()}, subtitle, _table(found))
    write_report(report, found.report, force=True)
    write_whole(study.out / MARKDOWN, markdown_table(HEADINGS, found.cells()) + "\n")
    write_whole(study.out / JSON, json_text(found.to_json()))
    return found


def _table(found: Reproduction) -> ReportTable:
    plotted = tuple(
        StudyRow(row.name, row.ours, row.ngram, None if row.paper is None else row.paper.column(DRAWN))
        for row in found.rows
        if row.ours is not None and (row.paper is None or row.paper.metric == "accuracy")
    )
    seeds = found.settings["seeds"]
    note = (
        "All numbers in percent; a lower equal error rate (EER) is better. Ours is "
        f"{'one seed' if seeds == 1 else f'the mean over {seeds} seeds'}, with a 95 % interval over "
        f"{'' if seeds == 1 else 'seeds and '}speakers where they are known, else utterances. The paper gives no "
        "intervals; its numbers are on HuBERT units and a GSLM of 151 M parameters."
    )
    key = f"Dot with 95 % interval: ours, in grey the n-gram baseline. Tick: the paper's {DRAWN}."
    cells = [row.cells() for row in found.rows]
    return ReportTable(
        HEADINGS[:-1],
        tuple(row[:-1] for row in cells),
        tuple(row[-1] for row in cells),
        note,
        plotted,
        key,
    )


def _scored(row: RowRun, answers: Sequence[SavedAnswers], ngram: SavedAnswers, out: Path) -> RowResult:
    test = row.corpus.split("test")
    groups = interval_groups([u.speaker for u in test])
    accuracy, baseline = accuracy_over_seeds(answers, groups), accuracy_over_seeds([ngram], groups)
    difference = paired_difference_interval([one.right for one in answers], ngram.right, groups)
    score = BaselineScore(
        "n-gram", baseline, ngram.macro_f1, difference, ngram.trained_parameters, ngram.seconds
    )
    numbers = row.section()
    section = replace(
        numbers,
        name=row.name,
        evaluation=replace(numbers.evaluation, accuracy=accuracy),
        baselines=(score,),
        notices=(*numbers.notices, *_remarks(row.paper, len(answers))),
    )
    ours, theirs, paired = accuracy, baseline, None
    if row.positive is None:
        paired = difference
    else:
        truth = row.is_positive()
        ours, theirs = (error_rate_over_seeds(one, truth, groups) for one in (answers, [ngram]))
    return RowResult(
        name=row.name,
        state="done",
        utterances=len(test),
        labels=tuple(len(labels) for labels in row.task.slots.values()),
        ours=ours,
        ngram=theirs,
        difference=paired,
        prompts=tuple(row.run_folder(options).relative_to(out).as_posix() for options in row.variants),
        section=section,
    )


def _remarks(paper: PaperRow | None, seeds: int) -> list[str]:
    """What a section says of the published numbers and of the seeds."""
    remarks = []
    if paper is not None:
        told = (
            f"{name} {share_cell(paper.column(name))}" for name in COLUMNS if paper.column(name) is not None
        )
        note = f" ({paper.note})" if paper.note else ""
        remarks.append(f"Published {paper.metric} in percent: {', '.join(told)}{note}.")
    if seeds > 1:
        remarks.append(f"Accuracy is the mean over {seeds} seeds; all other numbers are of the first.")
    return remarks
