"""Every error that users can meet, as one tree.

SpeechPromptError              anything this package refuses to do; the message says what, where, what next
├── UsageError                 the call is wrong: an unknown name, options that exclude each other   (exit 2)
│   └── UnknownName            a name that does not exist, with the nearest ones
└── WorkError                  the call is right, the material is not                                (exit 1)
    ├── AudioError             a file that cannot be decoded, is empty or not a number
    │   └── AudioTooLong       a file over a limit on bytes, length or decoding time
    ├── CorpusError            a manifest, folder or split that contradicts itself
    ├── UnitsError             units that the tokenizer or LM does not know
    ├── CheckpointError        a model file that is truncated, foreign or unsafe
    ├── DownloadError          a file that could not be fetched or whose hash is wrong
    ├── ArtifactError          a prompt folder that is damaged or was trained on another spoken LM
    ├── TrainingError          training that cannot start or diverged
    ├── OutputExists           a path or name that would be overwritten unasked
    ├── MissingExtra           an optional dependency that is not installed
    └── Refusal                what a server does not do for this caller, or not now
        ├── NotAllowed         no token, another token, another site
        ├── TooLarge           a request over a limit that needs no decoding to see
        ├── Overloaded         more work than the server can answer in time; says when to come back
        ├── HungUp             work whose answer nobody waits for any more
        └── DeadlineExceeded   work that was, or would be, answered too late

One table serves both doors: `exit_code` is what the CLI returns, `http_status` what a server answers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpeechPromptError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1
    http_status = 422


class UsageError(SpeechPromptError):
    """The call is wrong and would be wrong on any material."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that does not exist; the message suggests the nearest known ones."""

    http_status = 404

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        self.nearest = tuple(difflib.get_close_matches(name, self.known, n=3, cutoff=0.5))
        if self.nearest:
            hint = f"did you mean {' or '.join(self.nearest)}?"
        else:
            hint = f"known: {', '.join(self.known[:12])}{', …' if len(self.known) > 12 else ''}"
        super().__init__(f"unknown {kind} '{name}'; {hint}")


class WorkError(SpeechPromptError):
    """The call is right, but the material or the machine does not allow it."""


class AudioError(WorkError):
    """A file that cannot be decoded, is empty, or holds values that are not numbers."""


class AudioTooLong(AudioError):
    """A file over a limit on bytes, length or decoding time."""

    http_status = 413


class CorpusError(WorkError):
    """A manifest, folder or split that contradicts itself."""


class UnitsError(WorkError):
    """Units that a tokenizer or unit LM does not know, or more of them than it can read."""


class CheckpointError(WorkError):
    """A model file that is truncated, foreign or unsafe to read."""


class DownloadError(WorkError):
    """A file that could not be fetched, or whose size or hash is not the published one."""


class ArtifactError(WorkError):
    """A prompt folder that is damaged, or was trained on another spoken LM."""


class TrainingError(WorkError):
    """Training that cannot start, or that diverged."""


class OutputExists(WorkError):
    """A path or name that would be overwritten."""

    http_status = 409
    PASS_FORCE = "choose another path or pass --force to replace it"
    SEND_REPLACE = "choose another name, or send replace=true to replace it"

    def __init__(self, path: object, advice: str = PASS_FORCE) -> None:
        super().__init__(f"{path} already exists; {advice}")


class MissingExtra(WorkError):
    """An optional dependency that is not installed."""

    http_status = 415

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}; in the clone of speechprompt: pip install -e '.[{extra}]'"
        )


class Refusal(WorkError):
    """What a server does not do for this caller, or not now."""


class NotAllowed(Refusal):
    """No token, another token, or a page of another site. `http_status` is 401 where a token would help."""

    def __init__(self, message: str, http_status: int = 401) -> None:
        self.http_status = http_status
        super().__init__(message)


class TooLarge(Refusal):
    """A request over a limit that needs no decoding to see."""

    http_status = 413


class Overloaded(Refusal):
    """More work than the server can answer in time; `retry_after_seconds` says when to come back."""

    http_status = 429

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class HungUp(Refusal):
    """Work whose answer nobody waits for any more; the status is for the log."""

    http_status = 408


class DeadlineExceeded(Refusal):
    """Work that was, or would be, answered after its deadline."""

    http_status = 504
