"""The saved prompt: a folder with prompt_config.json, prompt.safetensors, metrics.json and a model card.

Written whole or not at all. Loading checks every claim that the configuration makes against the LM at hand.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from speechprompt.errors import ArtifactError, CorpusError, OutputExists
from speechprompt.filesystem import replace_folder
from speechprompt.prompting.artifact_tensors import (
    HEARD,
    Member,
    domains_of,
    members_from,
    read_tensors,
    take_heard,
    tensors_of,
)
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.domain import Domain
from speechprompt.prompting.kinds import MOST_MEMBERS, Decoding, Method
from speechprompt.prompting.task import Task
from speechprompt.speech.speeds import MOST_ANSWER_COPIES
from speechprompt.spoken_lm import SpokenLM

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS, METRICS, CARD = "prompt_config.json", "prompt.safetensors", "metrics.json", "README.md"

Temperatures = dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
"""Temperature of each slot."""
Streams = Annotated[
    list[str],
    Field(min_length=1, description="heads of the LM that the verbalizer reads, or its last 'state'"),
]


class MemberConfig(BaseModel):
    """One of several prompts that answer together: its seed, what its verbalizer reads, and its own temperatures.

    These count before the mean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    streams: Streams
    temperatures: Temperatures = Field(default_factory=dict)


class PromptConfig(BaseModel):
    """prompt_config.json: everything that using the prompt needs besides its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    task: str
    spoken_lm: str = Field(description="versioned name, tiny@1")
    tokenizer: str
    tokenizer_fingerprint: str | None = Field(None, description="None where the corpus came as units")
    lm_fingerprint: str
    method: Method
    prompt_length: int = Field(ge=0, le=4096)
    shifts_positions: bool
    decoding: Decoding
    slots: dict[str, list[str]] = Field(min_length=1)
    verbalizer: Literal["fixed", "learnable"]
    verbalizer_name: str
    streams: Streams = ["units"]
    temperatures: Temperatures = Field(default_factory=dict)
    threshold: float = Field(0.0, allow_inf_nan=False)
    trained_parameters: int
    recipe: str
    options: dict[str, Any] = Field(description="every training option, resolved")
    seed: int
    versions: dict[str, str]
    corpus: dict[str, Any] = Field(
        description="name, licence, citation, split rule, utterances a split; the fold and the shots drawn, if any"
    )
    members: list[MemberConfig] = Field(
        default_factory=list,
        max_length=MOST_MEMBERS,
        description="the prompts that answer together; none where one answers alone",
    )
    answer_copies: int = Field(
        0,
        ge=0,
        le=MOST_ANSWER_COPIES,
        multiple_of=2,
        description="at how many other speeds a clip is heard too, unless another number is asked for",
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A prompt that answers alone, or hears clips once, is written as before there were others."""
        values: dict[str, Any] = dump(self)
        if not self.members:
            values.pop("members", None)
        if not self.answer_copies:
            values.pop("answer_copies", None)
        return values

    @property
    def calibration(self) -> Calibration:
        """Temperatures and threshold."""
        return Calibration(self.temperatures, self.threshold)


@dataclass(frozen=True)
class Artifact:
    """A trained prompt with its configuration and, where it was evaluated, its numbers.

    `heard` (n,) int64 knows the clips that it trained on or was validated on (heard.py). Where several prompts answer
    together, `entry` is the first of `members` and `others` are the rest.
    """

    config: PromptConfig
    entry: TaskPrompt
    metrics: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    domain: Domain | None = None
    heard: Tensor | None = None
    others: tuple[Member, ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        """All prompts that answer together, or the only one."""
        own = self.config.members[0].temperatures if self.config.members else {}
        return (Member(self.entry, Calibration(own), self.domain), *self.others)

    def copies(self, asked: int | None = None) -> int:
        """At how many other speeds it hears a clip too: so many as are asked for, or as it was trained to."""
        return self.config.answer_copies if asked is None else asked

    @property
    def name(self) -> str:
        """What predictions call this task: the folder's name, or the task's."""
        return self.path.name if self.path is not None else self.config.task

    def save(self, folder: str | Path, force: bool = False) -> Path:
        """Write the folder atomically. OutputExists unless `force`; a replaced folder stays until the new is whole."""
        from safetensors import SafetensorError

        target = Path(folder)
        check_output(target, force)
        scratch: Path | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            self._write(scratch)
            replace_folder(scratch, target)
        except OSError as error:
            raise ArtifactError(f"could not write {target}: {error.strerror or error}") from None
        except SafetensorError as error:  # how a full disk looks to safetensors
            raise ArtifactError(f"could not write {target}: {error}") from None
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
        return target

    def _write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        tensors = {**tensors_of(self.members), **domains_of(self.members)}
        if self.heard is not None and len(self.heard):
            tensors[HEARD] = self.heard.contiguous()
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
        (folder / TENSORS).chmod(0o644)  # safetensors keeps it from other users
        text = self.config.model_dump_json(indent=2, by_alias=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        (folder / METRICS).write_text(json.dumps(self.metrics, indent=2) + "\n", encoding="utf-8")
        (folder / CARD).write_text(model_card(self.config, self.metrics), encoding="utf-8")
        folder.chmod(0o755)

    @classmethod
    def load(cls, folder: str | Path, spoken_lm: SpokenLM) -> Artifact:
        """Read a folder for a spoken LM. ArtifactError when it is damaged or was trained on another."""
        path = Path(folder)
        config = read_config(path)
        check_fits(config, spoken_lm, path)
        try:
            task = Task(config.task, {slot: tuple(labels) for slot, labels in config.slots.items()})
        except CorpusError as error:
            raise ArtifactError(f"{path / CONFIG} is damaged: {error}") from None
        file = path / TENSORS
        tensors = read_tensors(file)
        heard = take_heard(tensors, file)
        first, *others = members_from(config, task, tensors, spoken_lm.lm, file)
        return cls(
            config, first.entry, read_metrics(path), path.resolve(), first.domain, heard, tuple(others)
        )


def check_output(target: Path, force: bool) -> None:
    """OutputExists when `target` is there and may not be replaced; never replaces what is not an artifact."""
    if not target.exists():
        return
    if not force:
        raise OutputExists(target)
    if not target.is_dir() or (any(target.iterdir()) and not (target / CONFIG).is_file()):
        raise ArtifactError(
            f"{target} is not a prompt folder, so it is not replaced; move it away or choose another name"
        )


def read_config(folder: Path) -> PromptConfig:
    """A folder's prompt_config.json. ArtifactError when it is missing, damaged or of another schema."""
    path = folder / CONFIG
    try:
        return PromptConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not a prompt folder: it has no {CONFIG}") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ArtifactError(f"{path} is damaged or from another version: {where}: {first['msg']}") from None


def content_hash(folder: Path) -> str:
    """What tells one trained prompt from another of the same name: sha256 (16 hex digits) of its two files."""
    digest = hashlib.sha256()
    for name in (CONFIG, TENSORS):
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise ArtifactError(f"{folder / name} cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


def check_fits(config: PromptConfig, spoken_lm: SpokenLM, path: Path) -> None:
    """ArtifactError naming both sides when the prompt was trained on another LM or other units."""
    if config.lm_fingerprint != spoken_lm.lm.fingerprint:
        raise ArtifactError(
            f"{path} was trained on {config.spoken_lm} (unit LM {config.lm_fingerprint}), not on "
            f"{spoken_lm.name} (unit LM {spoken_lm.lm.fingerprint}); pass --lm {config.spoken_lm}, or train it again"
        )
    if config.tokenizer != spoken_lm.tokenizer_name:
        raise ArtifactError(
            f"{path} was trained on units of {config.tokenizer}, but {spoken_lm.name} makes units "
            f"with {spoken_lm.tokenizer_name}; pass --lm {config.spoken_lm}, or train it again"
        )


def check_tokenizer(config: PromptConfig, spoken_lm: SpokenLM, path: Path | None) -> None:
    """The same for the tokenizer itself; called before audio is encoded, since units need no tokenizer."""
    known, ours = config.tokenizer_fingerprint, spoken_lm.tokenizer.fingerprint
    if known is not None and known != ours:
        raise ArtifactError(
            f"{path or config.task} was trained on units of {config.tokenizer} ({known}), but this "
            f"{spoken_lm.tokenizer_name} is another one ({ours})"
        )


def save_metrics(artifact: Artifact, metrics: Mapping[str, Any]) -> None:
    """Replace the numbers of a saved artifact: metrics.json and the model card, each whole or not at all."""
    assert artifact.path is not None
    texts = {METRICS: json.dumps(metrics, indent=2) + "\n", CARD: model_card(artifact.config, metrics)}
    for name, text in texts.items():
        unfinished = artifact.path / f".{name}.part"
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(artifact.path / name)
        except OSError as error:
            raise ArtifactError(
                f"could not write {artifact.path / name}: {error.strerror or error}"
            ) from None
        finally:
            unfinished.unlink(missing_ok=True)


def read_metrics(folder: Path) -> Mapping[str, Any]:
    """A folder's metrics.json, empty where there is none. ArtifactError when it is damaged."""
    try:
        found = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{folder / METRICS} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ArtifactError(f"{folder / METRICS} is damaged: it holds no numbers by name")
    return found


def model_card(config: PromptConfig, metrics: Mapping[str, Any]) -> str:
    """README.md of an artifact: what it answers, on what, how well, from which data."""
    prompts = f" in {len(config.members)} prompts that answer together" if config.members else ""
    lines = [
        f"# {config.task}",
        "",
        f"A speech classifier: {config.trained_parameters:,} trained parameters{prompts} on the frozen spoken LM "
        f"`{config.spoken_lm}`.",
        "",
        "| slot | labels |",
        "|---|---|",
        *[f"| {slot} | {', '.join(labels)} |" for slot, labels in config.slots.items()],
        "",
    ]
    corpus = config.corpus
    lines += [f"- Data: {corpus.get('name')}; licence: {corpus.get('licence') or 'not stated'}"]
    if corpus.get("citation"):
        lines += [f"- Citation: {corpus['citation']}"]
    lines += [f"- Splits: {corpus.get('split_rule') or 'as read'}"]
    if isinstance(shots := corpus.get("shots"), Mapping):
        also = ", as many to validate on" if "valid" in shots.get("splits", ()) else ""
        lines += [
            f"- Shots: {shots.get('count')} training utterances a label{also}, seed {shots.get('seed')}"
        ]
    for split, numbers in metrics.items():
        accuracy = _accuracy(numbers.get("accuracy")) if isinstance(numbers, Mapping) else None
        if accuracy is not None:
            lines += [f"- {split}: accuracy {accuracy}{over_copies(numbers.get('copies'))}"]
    if config.answer_copies:
        lines += [f"- Answers: the mean over a clip and {config.answer_copies} copies of it at other speeds"]
    lines += ["", f"Use it: `speechprompt predict FILE --prompt FOLDER --lm {config.spoken_lm}`", ""]
    return "\n".join(lines)


def over_copies(count: object) -> str:
    """` over 4 copies`, behind a number that was measured so; nothing where clips were heard once."""
    return f" over {count} copies" if isinstance(count, int) and count else ""


def _accuracy(value: object) -> str | None:
    """A number or an interval in words; None for anything else, since metrics.json may come from elsewhere."""
    if isinstance(value, Mapping):
        parts = [value.get(part) for part in ("estimate", "low", "high")]
        numbers = [part for part in parts if _is_number(part)]
        return "{:.3f} (95 % interval {:.3f} to {:.3f})".format(*numbers) if len(numbers) == 3 else None
    return f"{value:.3f}" if _is_number(value) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < sys.float_info.max
