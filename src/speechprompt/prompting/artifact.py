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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speechprompt.errors import ArtifactError, CorpusError, OutputExists
from speechprompt.filesystem import replace_folder
from speechprompt.lms.protocol import UnitLM
from speechprompt.prompting.bank import TaskPrompt
from speechprompt.prompting.calibration import Calibration
from speechprompt.prompting.domain import Domain
from speechprompt.prompting.kinds import Decoding, Method
from speechprompt.prompting.prompt import Prompt
from speechprompt.prompting.readings import sizes_of
from speechprompt.prompting.task import Task
from speechprompt.prompting.verbalizers import FixedVerbalizer, LearnableVerbalizer, Verbalizer
from speechprompt.spoken_lm import SpokenLM

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS, METRICS, CARD = "prompt_config.json", "prompt.safetensors", "metrics.json", "README.md"
DOMAIN = "domain."
"""What the names of a domain's tensors begin with; artifacts of 0.1.0 have none."""
HEARD = "heard"
"""The tensor of hashes of the clips that a prompt has heard; prompts from before it was kept have none."""
LARGEST_TENSOR_FILE = 256 * 2**20


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
    streams: list[str] = Field(
        ["units"], min_length=1, description="heads of the LM that the verbalizer reads, or its last 'state'"
    )
    temperatures: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    threshold: float = Field(0.0, allow_inf_nan=False)
    trained_parameters: int
    recipe: str
    options: dict[str, Any] = Field(description="every training option, resolved")
    seed: int
    versions: dict[str, str]
    corpus: dict[str, Any] = Field(
        description="name, licence, citation, split rule, utterances a split; the fold and the shots drawn, if any"
    )

    @property
    def calibration(self) -> Calibration:
        """Temperatures and threshold."""
        return Calibration(self.temperatures, self.threshold)


@dataclass(frozen=True)
class Artifact:
    """A trained prompt with its configuration and, where it was evaluated, its numbers.

    `heard` (n,) int64 knows the clips that it trained on or was validated on (heard.py).
    """

    config: PromptConfig
    entry: TaskPrompt
    metrics: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    domain: Domain | None = None
    heard: Tensor | None = None

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

        tensors = {name: x.detach().cpu().clone() for name, x in self.entry.state_dict().items()}
        if self.domain is not None:
            tensors |= {DOMAIN + name: x.contiguous() for name, x in self.domain.tensors().items()}
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
        tensors = _tensors(path)
        domain = _domain(tensors, spoken_lm.lm, path / TENSORS)
        heard = _heard(tensors, path / TENSORS)
        entry = _entry(config, tensors, spoken_lm.lm, path)
        return cls(config, entry, read_metrics(path), path.resolve(), domain, heard)


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


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / TENSORS
    try:
        if path.stat().st_size > LARGEST_TENSOR_FILE:
            raise ArtifactError(f"{path} is over {LARGEST_TENSOR_FILE >> 20} MiB, too large for a prompt")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} is missing or damaged: {error}") from None


def _domain(tensors: dict[str, Any], lm: UnitLM, path: Path) -> Domain | None:
    """Take a domain's tensors out of the file's; None where there are none."""
    found = {name.removeprefix(DOMAIN): tensors.pop(name) for name in [*tensors] if name.startswith(DOMAIN)}
    if not found:
        return None
    try:
        return Domain.of_tensors({name: x.to(lm.device) for name, x in found.items()}, lm.width)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{path} does not match its configuration: {error}") from None


def _heard(tensors: dict[str, Any], path: Path) -> Tensor | None:
    """Take the hashes of heard clips out of the file's tensors; None where there are none."""
    import torch

    found: Tensor | None = tensors.pop(HEARD, None)
    if found is not None and (found.dtype != torch.int64 or found.ndim != 1):
        raise ArtifactError(f"{path} does not match its configuration: '{HEARD}' holds no hashes")
    return found


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


def _entry(config: PromptConfig, tensors: Mapping[str, Any], lm: UnitLM, path: Path) -> TaskPrompt:
    """Rebuild the task prompt; every tensor must be there, fit, and be finite."""
    import torch

    try:
        task = Task(config.task, {slot: tuple(labels) for slot, labels in config.slots.items()})
    except CorpusError as error:
        raise ArtifactError(f"{path / CONFIG} is damaged: {error}") from None
    shape = Prompt.shape(config.method, config.prompt_length, lm)
    try:
        if tensors["prompt.vectors"].shape != shape:
            raise ValueError(f"its prompt is {tuple(tensors['prompt.vectors'].shape)}, not {shape}")
        prompt = Prompt(config.method, torch.empty(shape), torch.empty(lm.width))
        verbalizer = _empty_verbalizer(config, tensors, lm)
        entry = TaskPrompt(task, prompt, verbalizer, config.decoding, config.shifts_positions)
        entry.load_state_dict(dict(tensors), strict=True)
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path / TENSORS} does not match its configuration: {reason}") from None
    _check_values(entry, tensors, lm, path / TENSORS)
    return entry.to(lm.device)


def _check_values(entry: TaskPrompt, tensors: Mapping[str, Any], lm: UnitLM, path: Path) -> None:
    """ArtifactError for values that are not numbers, and for ids that point at nothing."""
    import torch

    weight = getattr(entry.verbalizer, "weight", None)
    outputs = lm.vocabulary_size if weight is None else len(weight)
    for name, tensor in entry.state_dict().items():
        if tensors[name].is_floating_point() != tensor.is_floating_point():
            raise ArtifactError(f"{path}: '{name}' holds {tensors[name].dtype}, not {tensor.dtype}")
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise ArtifactError(f"{path}: '{name}' holds values that are not numbers")
            continue
        limit = outputs if ".columns_" in name else lm.vocabulary_size
        if int(tensor.min()) < 0 or int(tensor.max()) >= limit:
            raise ArtifactError(f"{path}: '{name}' points outside the {limit} outputs")


def _empty_verbalizer(config: PromptConfig, tensors: Mapping[str, Any], lm: UnitLM) -> Verbalizer:
    import torch

    if config.verbalizer == "fixed":
        return FixedVerbalizer({slot: [0] * len(labels) for slot, labels in config.slots.items()}, lm)
    blank = {slot: torch.zeros(len(labels), dtype=torch.int64) for slot, labels in config.slots.items()}
    weight = torch.empty(tensors["verbalizer.weight"].shape[0], sum(sizes_of(lm, config.streams)))
    verbalizer = LearnableVerbalizer(weight, blank, {slot: ids.clone() for slot, ids in blank.items()})
    verbalizer.streams = tuple(config.streams)
    return verbalizer


def model_card(config: PromptConfig, metrics: Mapping[str, Any]) -> str:
    """README.md of an artifact: what it answers, on what, how well, from which data."""
    lines = [
        f"# {config.task}",
        "",
        f"A speech classifier: {config.trained_parameters:,} trained parameters on the frozen spoken LM "
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
        lines += [f"- Shots: {shots.get('count')} training utterances a label, seed {shots.get('seed')}"]
    for split, numbers in metrics.items():
        accuracy = _accuracy(numbers.get("accuracy")) if isinstance(numbers, Mapping) else None
        if accuracy is not None:
            lines += [f"- {split}: accuracy {accuracy}"]
    lines += ["", f"Use it: `speechprompt predict FILE --prompt FOLDER --lm {config.spoken_lm}`", ""]
    return "\n".join(lines)


def _accuracy(value: object) -> str | None:
    """A number or an interval in words; None for anything else, since metrics.json may come from elsewhere."""
    if isinstance(value, Mapping):
        parts = [value.get(part) for part in ("estimate", "low", "high")]
        numbers = [part for part in parts if _is_number(part)]
        return "{:.3f} (95 % interval {:.3f} to {:.3f})".format(*numbers) if len(numbers) == 3 else None
    return f"{value:.3f}" if _is_number(value) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < sys.float_info.max
