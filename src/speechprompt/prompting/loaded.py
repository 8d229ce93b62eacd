"""Prompts in use: an artifact reduced to what answering needs, and the table of all that a process serves."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechprompt.errors import ArtifactError, UnknownName
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.artifact import Artifact
from speechprompt.prompting.artifact_tensors import Member
from speechprompt.prompting.bank import FoldedPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.speech.speeds import AnswerCopies


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPrompt:
    """A task that can be asked: its name, folded prompt and calibration. Nothing changes it.

    `others` answer together with `prompt`: the mean log-probability of all `members` is the task's.
    """

    name: str
    prompt: FoldedPrompt
    calibration: Calibration
    tokenizer: str
    tokenizer_fingerprint: str | None
    path: Path | None = None
    others: tuple[FoldedPrompt, ...] = ()
    answer_copies: int = 0

    def speeds(self, copies: int | None = None) -> tuple[float, ...]:
        """At which other speeds it hears a clip too: of so many copies, or of as many as it was trained to.

        UsageError for an odd number of copies, or too many.
        """
        return AnswerCopies(self.answer_copies if copies is None else copies).speeds()

    @property
    def members(self) -> tuple[FoldedPrompt, ...]:
        """All prompts that answer together."""
        return (self.prompt, *self.others)

    @classmethod
    def of(cls, artifact: Artifact, lm: UnitLM, name: str | None = None) -> LoadedPrompt:
        """Fold an artifact; its configuration, metrics and trained vectors are not kept."""
        config = artifact.config
        first, *others = (_folded(member, lm) for member in artifact.members)
        return cls(
            name or artifact.name,
            first,
            config.calibration,
            config.tokenizer,
            config.tokenizer_fingerprint,
            artifact.path,
            tuple(others),
            config.answer_copies,
        )


def speeds_of(prompts: Iterable[LoadedPrompt], copies: int | None = None) -> tuple[float, ...]:
    """All the speeds at which prompts hear a clip too, each once, the slowest first. UsageError as theirs."""
    return tuple(sorted({speed for prompt in prompts for speed in prompt.speeds(copies)}))


def _folded(member: Member, lm: UnitLM) -> FoldedPrompt:
    domain = None if member.domain is None else member.domain.to(lm.device)
    temperatures = member.calibration.temperatures
    return dataclasses.replace(member.entry.fold(lm), domain=domain, temperatures=temperatures)


class PromptTable(Mapping[str, LoadedPrompt]):
    """Loaded prompts by name, in the order in which they came.

    Reading takes no lock and sees one moment: `snapshot` is a mapping that later changes leave alone. What was
    looked up before a change still answers afterwards.
    """

    def __init__(self, prompts: Sequence[LoadedPrompt] = ()) -> None:
        self._now: Mapping[str, LoadedPrompt] = {}
        self._lock = threading.Lock()
        for prompt in prompts:
            self.add(prompt)

    def __getitem__(self, name: str) -> LoadedPrompt:
        return self._now[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    @property
    def snapshot(self) -> Mapping[str, LoadedPrompt]:
        """All prompts of this moment."""
        return self._now

    def chosen(self, names: Sequence[str] | None = None) -> list[LoadedPrompt]:
        """Prompts by name, all of them without names. UnknownName, with the nearest ones, for one not there."""
        now = self._now
        for name in names or ():
            if name not in now:
                raise UnknownName("task", name, now)
        return list(now.values()) if names is None else [now[name] for name in names]

    def add(self, prompt: LoadedPrompt, replace: bool = False) -> LoadedPrompt | None:
        """Put a prompt in; the one that it replaced. ArtifactError when the name is taken, unless `replace`."""
        with self._lock:
            old = self._now.get(prompt.name)
            if old is not None and not replace:
                raise ArtifactError(f"two artifacts are called '{prompt.name}'; rename one folder")
            self._now = {**self._now, prompt.name: prompt}
            return old

    def remove(self, name: str) -> LoadedPrompt:
        """Take a prompt out and return it. UnknownName when it is not there."""
        with self._lock:
            if name not in self._now:
                raise UnknownName("task", name, self._now)
            removed = self._now[name]
            self._now = {key: prompt for key, prompt in self._now.items() if key != name}
            return removed
