"""All stages in one run on one machine, and what they came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from speechprompt.benchmarking.case import Case, Curve, Figure, Finding, Row
from speechprompt.errors import MissingExtra, UnknownName

if TYPE_CHECKING:
    from speechprompt.benchmarking.clock import Clock
    from speechprompt.benchmarking.material import Settings

STAGES = {
    "decode": "files to samples at their own rate",
    "resample": "files to samples at another rate",
    "hubert": "samples to features of HuBERT-base's sixth layer",
    "k-means": "features to frame ids",
    "deduplicate": "frame ids to units",
    "train": "a training step from units",
    "predict": "labels from units",
    "tasks": "100 tasks on one clip",
    "mixed": "a prompt of its own for every row of a batch",
    "seeds": "8 seeds trained together",
    "attention": "attention alone, in the two forms that it can take",
    "tiny": "the bundled spoken LM, from waveform to label",
    "server": "the same behind `speechprompt serve`, asked over HTTP by one client and by several at once",
    "cold start": "one `speechprompt predict` in a process of its own",
    "memory": "what a training step takes for one utterance",
    "growth": "cost against lengths, batches, tasks, prompts and corpora",
}
"""Every stage by name, in the order in which they run."""

Update = Callable[[int, int | None, str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run measured, and on what; `left_out` says of stages that cannot run here what they need."""

    machine: dict[str, Any]
    findings: Sequence[Finding]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """Throughputs."""
        return [finding for finding in self.findings if isinstance(finding, Row)]

    @property
    def figures(self) -> list[Figure]:
        """Single numbers."""
        return [finding for finding in self.findings if isinstance(finding, Figure)]

    @property
    def curves(self) -> list[Curve]:
        """Costs against sizes."""
        return [finding for finding in self.findings if isinstance(finding, Curve)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "machine": self.machine,
            "left_out": dict(self.left_out),
            "rows": [row.to_json() for row in self.rows],
            "figures": [figure.to_json() for figure in self.figures],
            "curves": [curve.to_json() for curve in self.curves],
        }


def chosen_stages(names: Iterable[str] | None) -> list[str]:
    """Stages by name, in their own order; all of them for None or nothing. UnknownName for one that is not there."""
    wanted = [name.replace("kmeans", "k-means").replace("cold-start", "cold start") for name in names or ()]
    for name in wanted:
        if name not in STAGES:
            raise UnknownName("stage", name, STAGES)
    return [name for name in STAGES if not wanted or name in wanted]


def run_stages(
    names: Sequence[str],
    device: str = "cpu",
    repeats: int = 5,
    quick: bool = False,
    update: Update | None = None,
) -> Report:
    """Measure stages on a device, with as many threads as torch has. `update` is told which stage runs.

    `server` is left out without the extra of that name; MissingExtra when nothing else was asked for. Side effects:
    none that last; processes of their own for `server` and `cold start`.
    """
    from speechprompt.benchmarking.clock import Clock
    from speechprompt.benchmarking.material import Settings

    left_out = {name: lack for name in names if (lack := _lack(name)) is not None}
    names = [name for name in names if name not in left_out]
    if left_out and not names:
        raise next(iter(left_out.values()))
    tell = update or (lambda done, total, text: None)
    settings, clock = Settings(device, repeats, quick), Clock(device, repeats, quick)
    bandwidth = clock.bandwidth()
    findings: list[Finding] = []
    for done, name in enumerate(names):
        tell(done, len(names), name)
        for found in _findings(name, settings, clock, bandwidth):
            findings.append(found)
            tell(done, len(names), found.name)
    tell(len(names), len(names), "")
    lacks = {name: str(lack) for name, lack in left_out.items()}
    return Report(_machine(device, clock.measure, bandwidth, repeats, quick), findings, lacks)


def _lack(name: str) -> MissingExtra | None:
    """What a stage cannot run without and this installation does not have."""
    from speechprompt.benchmarking import server_process

    package = server_process.missing_package() if name == "server" else None
    return None if package is None else MissingExtra(package, "server", "the stage server")


def measured(cases: Iterable[Case | Finding], repeats: int, device: str = "cpu") -> Report:
    """Measure cases that belong to no stage, as a report like a stage's; findings among them are kept as they are."""
    from speechprompt.benchmarking.clock import Clock

    clock = Clock(device, repeats)
    bandwidth = clock.bandwidth()
    findings = [one.measure(clock, bandwidth) if isinstance(one, Case) else one for one in cases]
    return Report(_machine(device, clock.measure, bandwidth, repeats, False), findings)


def _machine(device: str, measure: str, bandwidth: float, repeats: int, quick: bool) -> dict[str, Any]:
    import torch

    from speechprompt.benchmarking import peft_form
    from speechprompt.prompting.finishing import processor

    return {
        "device": processor(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": measure,
        "repeats": repeats,
        "quick": quick,
        "copy_bytes_per_second": bandwidth,
        "peft": peft_form.is_installed(),
    }


def _findings(name: str, settings: Settings, clock: Clock, bandwidth: float) -> Iterator[Finding]:
    """What one stage measures, as it comes; only what the stage needs is imported."""
    for case in _cases(name, settings):
        yield case.measure(clock, bandwidth)
    if name == "predict":
        from speechprompt.benchmarking.lm_stages import agreements

        yield from agreements(settings)
    elif name == "tasks":
        from speechprompt.benchmarking.bank_stages import encodes

        yield from encodes(settings)
    elif name in ("tiny", "cold start"):
        from speechprompt.benchmarking.tiny_stage import cold_start, tiny_findings

        yield from tiny_findings(settings, clock, bandwidth) if name == "tiny" else cold_start(settings)
    elif name == "server":
        from speechprompt.benchmarking.server_stage import server_findings

        yield from server_findings(settings, clock)
    elif name == "memory":
        from speechprompt.benchmarking.memory_stage import memory_findings

        yield from memory_findings(settings)
    elif name == "growth":
        from speechprompt.benchmarking.growth_stage import growth_findings

        yield from growth_findings(settings, clock)


def _cases(name: str, settings: Settings) -> Iterable[Case]:
    """The cases of a stage; none where it measures in its own way."""
    if name in ("train", "predict"):
        from speechprompt.benchmarking import lm_stages as stages

        return {"train": stages.training_cases, "predict": stages.prediction_cases}[name](settings)
    if name in ("tasks", "mixed", "seeds"):
        from speechprompt.benchmarking import bank_stages

        cases = (bank_stages.task_cases, bank_stages.mixed_cases, bank_stages.seed_cases)
        return dict(zip(("tasks", "mixed", "seeds"), cases, strict=True))[name](settings)
    if name == "attention":
        from speechprompt.benchmarking.attention_stage import attention_cases

        return attention_cases(settings)
    from speechprompt.benchmarking import sound_stages

    of_sound = {
        "decode": sound_stages.decoding_cases,
        "resample": sound_stages.resampling_cases,
        "hubert": sound_stages.hubert_cases,
        "k-means": sound_stages.kmeans_cases,
        "deduplicate": sound_stages.deduplication_cases,
    }
    return of_sound[name](settings) if name in of_sound else ()
