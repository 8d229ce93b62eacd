"""Lessons: a task taught from a few clips, each in a process of its own so that answers keep their pace.

A lesson waits, runs, and ends as done, failed or cancelled; its clips are deleted when it ends. One runs at a
time, and one whose artifact is being kept is past cancelling. The process that teaches is
`speechprompt.server.teacher`; it is nice to the server, can be stopped at any moment and takes nothing down when
it falls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from speechprompt.errors import OutputExists, Overloaded, SpeechPromptError, TrainingError, UnknownName

log = logging.getLogger(__name__)

State = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT_LESSONS = 50
"""Ended lessons that can still be asked about."""
TEACHER = (sys.executable, "-m", "speechprompt.server.teacher")
ARTIFACT, PLAN = "artifact", "plan.json"
OUR_FAULT = "the server failed while teaching; its log has the reason"


@dataclass(frozen=True, slots=True)
class TeachingLimits:
    """What a lesson may ask for; a label's clips, all clips, labels, seconds a clip, and minutes of work."""

    fewest_clips: int = 3
    most_clips: int = 400
    most_labels: int = 20
    most_seconds: float = 30.0
    most_waiting: int = 4
    minutes: float = 15.0


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """One clip of a lesson: its label, what the person calls it, and its bytes."""

    label: str
    name: str
    content: bytes


@dataclass(slots=True)
class Lesson:
    """One task being taught; `folder` holds its clips while it has not ended."""

    id: str
    name: str
    folder: Path
    labels: Mapping[str, int]
    replace: bool = False
    state: State = "waiting"
    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    problem: str | None = None
    held_out: Mapping[str, Any] | None = None
    training_since: float | None = None
    work: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        """True when nothing more will change."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds of training left at the pace so far; None when there is no pace yet."""
        if self.training_since is None or self.step < 5 or self.ended:
            return None
        return (time.monotonic() - self.training_since) / self.step * (self.steps - self.step)


class Lessons:
    """All lessons of a server. Lives on one event loop; call `close` before it ends.

    `plan` is what the teacher needs to know of the spoken LM; `keep(folder, name, replace)` validates the artifact in
    a folder and begins to serve it under a name (it runs on a thread and may raise SpeechPromptError). `teacher` is
    the command that takes a lesson's folder.
    """

    def __init__(
        self,
        plan: Mapping[str, Any],
        keep: Callable[[Path, str, bool], Mapping[str, Any]],
        limits: TeachingLimits | None = None,
        teacher: Sequence[str] = TEACHER,
    ) -> None:
        self.plan, self.keep, self.limits = dict(plan), keep, limits or TeachingLimits()
        self.teacher = teacher
        self.lessons: dict[str, Lesson] = {}
        self._one_at_a_time = asyncio.Semaphore(1)

    def check_room(self) -> None:
        """Overloaded when as many lessons wait as may."""
        waiting = sum(lesson.state == "waiting" for lesson in self.lessons.values())
        if waiting >= self.limits.most_waiting:
            raise Overloaded(f"{waiting} lessons are waiting; try again when one has ended", 30)

    def begin(self, name: str, clips: Sequence[LabelledClip], replace: bool = False) -> Lesson:
        """Queue a lesson. Overloaded as `check_room`; side effect: a scratch folder with the clips.

        OutputExists where a lesson of this name has not ended, or a task has it when this one ends, unless `replace`.
        """
        self.check_room()
        if not replace and any(one.name == name and not one.ended for one in self.lessons.values()):
            raise OutputExists(f"a lesson for task '{name}'", OutputExists.SEND_REPLACE)
        folder = Path(tempfile.mkdtemp(prefix="speechprompt-lesson-"))
        try:
            self._write(folder, name, clips)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        counts = dict.fromkeys((clip.label for clip in clips), 0)
        for clip in clips:
            counts[clip.label] += 1
        lesson = Lesson(uuid.uuid4().hex, name, folder, counts, replace)
        self._forget_old()
        self.lessons[lesson.id] = lesson
        lesson.work = asyncio.create_task(self._run(lesson))
        return lesson

    def _write(self, folder: Path, name: str, clips: Sequence[LabelledClip]) -> None:
        """A lesson's clips, and the plan that names them."""
        plan = {**self.plan, "name": name, "seconds": self.limits.most_seconds, "clips": []}
        for i, clip in enumerate(clips):
            path = folder / f"{i:04d}"
            path.write_bytes(clip.content)
            plan["clips"].append({"path": str(path), "label": clip.label, "name": clip.name})
        (folder / PLAN).write_text(json.dumps(plan), encoding="utf-8")

    def lesson(self, identity: str) -> Lesson:
        """A lesson by id. UnknownName when there is none."""
        if identity not in self.lessons:
            raise UnknownName("lesson", identity, ())
        return self.lessons[identity]

    async def cancel(self, identity: str) -> Lesson:
        """Stop a lesson and keep nothing of it; one that is being kept or has ended goes its way."""
        lesson = self.lesson(identity)
        if lesson.work is not None and not lesson.ended:
            lesson.work.cancel()
            await asyncio.wait([lesson.work])
        return lesson

    async def close(self) -> None:
        """Cancel whatever has not ended."""
        for identity in list(self.lessons):
            await self.cancel(identity)

    def _forget_old(self) -> None:
        ended = [identity for identity, lesson in self.lessons.items() if lesson.ended]
        for identity in ended[: max(0, len(ended) - KEPT_LESSONS + 1)]:
            del self.lessons[identity]

    async def _run(self, lesson: Lesson) -> None:
        """A lesson from waiting to its end; never raises but CancelledError's own."""
        try:
            async with self._one_at_a_time:
                lesson.state, lesson.stage = "running", "loading"
                async with asyncio.timeout(60 * self.limits.minutes):
                    await self._teach(lesson)
                lesson.held_out = await self._keep(lesson)
            lesson.state = lesson.stage = "done"
        except asyncio.CancelledError:
            lesson.state = "cancelled"
        except TimeoutError:
            _fail(lesson, f"teaching took over {self.limits.minutes:g} minutes; send fewer or shorter clips")
        except SpeechPromptError as error:
            _fail(lesson, str(error))
        except Exception:
            log.exception("lesson %s failed", lesson.id)
            _fail(lesson, OUR_FAULT)
        finally:
            shutil.rmtree(lesson.folder, ignore_errors=True)

    async def _keep(self, lesson: Lesson) -> Mapping[str, Any]:
        """Keep a lesson's artifact, on a thread that cannot be stopped: cancelling waits for it and is forgotten."""
        lesson.stage = "checking"
        loop = asyncio.get_running_loop()
        kept = loop.run_in_executor(None, self.keep, lesson.folder / ARTIFACT, lesson.name, lesson.replace)
        while not kept.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([kept])
        return kept.result()

    async def _teach(self, lesson: Lesson) -> None:
        """Run the teacher on a lesson's folder and follow what it says. TrainingError when it fails."""
        process = await asyncio.create_subprocess_exec(
            *self.teacher, str(lesson.folder),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read())
        try:
            async for line in process.stdout:
                _hear(lesson, json.loads(line))
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            said = (await complaints).decode(errors="replace")
        if code != 0 and lesson.problem is None:
            log.error("lesson %s: the teacher ended with %s: %s", lesson.id, code, said[-4000:])
        if code != 0:
            raise TrainingError(lesson.problem or OUR_FAULT)


def _hear(lesson: Lesson, event: Mapping[str, Any]) -> None:
    """Take one line of the teacher's."""
    for name in ("stage", "step", "steps", "loss", "problem"):
        if name in event:
            setattr(lesson, name, event[name])
    if lesson.stage == "training" and lesson.training_since is None:
        lesson.training_since = time.monotonic()


def _fail(lesson: Lesson, problem: str) -> None:
    lesson.state, lesson.problem = "failed", problem
