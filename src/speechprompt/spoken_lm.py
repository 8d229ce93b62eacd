"""A spoken LM: tokenizer and unit LM under one versioned name, found by name or in a folder.

A folder holds `spoken_lm.json` ({"schema": 1, "name", "version", "license", "tokenizer", "lm"}), the LM's
safetensors, and its tokenizer or that tokenizer's name, with `tokenizer_fingerprint` where a name may come to mean
another one. Parts load when they are first used: encoding needs no LM, and a corpus of units no tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechprompt.errors import CheckpointError, UnknownName, UsageError

if TYPE_CHECKING:
    import torch

    from speechprompt.lms.protocol import UnitLM
    from speechprompt.tokenizers.protocol import UnitTokenizer

DEFAULT = "tiny"
DESCRIPTION = "spoken_lm.json"
BUNDLED = Path(__file__).parent / "bundled"
TRACKERS = tuple(
    f"{tracker}{mean}" for mean in ("", "-absolute") for tracker in ("f0", "f0-600", "f0-800", "yaapt")
)
"""What follows `+` in the name of a tokenizer whose units carry F0: our own tracker, or pGSLM's authors'.

Ours looks for F0 up to 400 Hz, as theirs does, or up to the number in its name. F0 is measured from an utterance's
mean, or with `-absolute` from nothing.
"""
ROUNDED = "+bfloat16"
"""Behind the name of a published tokenizer or spoken LM: HuBERT multiplies in bfloat16, so its units are others."""
HUBERT_UNITS = {
    f"hubert-base-l6-km{count}{ending}": count for ending in ("", ROUNDED) for count in (50, 100, 200)
}
"""Published tokenizers: HuBERT-base, layer 6, k-means of so many centres; each in fp32 and in bfloat16."""

Dtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Published:
    """A spoken LM that others trained: what it is called here and what it is made of.

    `archive` is the unit LM's file in `downloads.PUBLISHED`, `f0_bins` that of a discrete pGSLM's bins.
    """

    name: str
    tokenizer: str
    archive: str
    license: str
    f0_bins: str | None = None

    @property
    def files(self) -> list[str]:
        """Names in `downloads.PUBLISHED` of everything that it needs."""
        centres = self.tokenizer.partition("+")[0]
        return ["hubert-base-ls960", centres, self.archive, *([self.f0_bins] if self.f0_bins else [])]


PUBLISHED = {
    f"gslm-hubert{count}": Published(
        f"gslm-hubert{count}", f"hubert-base-l6-km{count}", f"gslm-hubert{count}", "MIT (fairseq)"
    )
    for count in (50, 100, 200)
} | {
    f"pgslm-{kind}": Published(
        f"pgslm-{kind}",
        "hubert-base-l6-km100+yaapt",
        f"pgslm-{kind}-prosody",
        "MIT (fairseq)",
        "pgslm-f0-bins" if kind == "discrete" else None,
    )
    for kind in ("discrete", "continuous")
}


def published(name: str) -> Published | None:
    """The published spoken LM of this name, `+bfloat16` or not; None where there is none."""
    bare = name.removesuffix(ROUNDED)
    model = PUBLISHED.get(bare)
    if model is None or bare == name:
        return model
    units, plus, tracker = model.tokenizer.partition("+")
    return replace(model, name=name, tokenizer=f"{units}{ROUNDED}{plus}{tracker}")


class SpokenLM:
    """Tokenizer + unit LM. Build one with `SpokenLM.load`, or from parts.

    `name` is versioned (`tiny@1`); `tokenizer_name` is known even while the tokenizer is not loaded.
    """

    def __init__(
        self,
        name: str,
        load_tokenizer: Callable[[], UnitTokenizer],
        load_lm: Callable[[], UnitLM],
        tokenizer_name: str,
        license: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name, self.tokenizer_name, self.license, self.folder = name, tokenizer_name, license, folder
        self._load_tokenizer, self._load_lm = load_tokenizer, load_lm

    @cached_property
    def tokenizer(self) -> UnitTokenizer:
        """Waveform -> units; loaded at first use."""
        return self._load_tokenizer()

    @cached_property
    def lm(self) -> UnitLM:
        """Units -> distributions; loaded at first use."""
        return self._load_lm()

    @property
    def fingerprint(self) -> str:
        """Hash that identifies tokenizer and LM together."""
        both = f"{self.tokenizer.fingerprint} {self.lm.fingerprint}"
        return hashlib.sha256(both.encode()).hexdigest()[:32]

    @classmethod
    def of_parts(cls, name: str, tokenizer: UnitTokenizer, lm: UnitLM) -> SpokenLM:
        """A spoken LM of objects that are already there."""
        return cls(name, lambda: tokenizer, lambda: lm, tokenizer.name)

    @classmethod
    def load(
        cls, name_or_path: str | Path = DEFAULT, device: str = "cpu", dtype: Dtype = "float32"
    ) -> SpokenLM:
        """Find a spoken LM: a bundled or published name (with or without `@version`), or a folder.

        A name wins over a folder of that name; write `./tiny` (or pass a Path) for the folder. A published name with
        `+bfloat16` makes its units in bfloat16: another tokenizer, so its prompts are others too.

        `dtype` is what the unit LM computes in; `auto` takes bfloat16 where `prefers_bfloat16` says that it
        pays. UnknownName for a name that is none of these, CheckpointError for a damaged folder, UsageError
        for a version that is not installed. Downloads a published model at first use.
        """
        name, _, version = str(name_or_path).partition("@")
        if Path(name_or_path).is_dir() and (isinstance(name_or_path, Path) or name not in known_names()):
            return cls._from_folder(Path(name_or_path), device, dtype)
        if (BUNDLED / name / DESCRIPTION).is_file():
            found = cls._from_folder(BUNDLED / name, device, dtype)
            if version and found.name != str(name_or_path):
                raise UsageError(f"{name_or_path} is not in this installation, which has {found.name}")
            return found
        if (model := published(name)) is not None:
            found = cls._published(model, device, dtype)
            if version and found.name != str(name_or_path):
                raise UsageError(f"{name_or_path} is not known; this installation reads {found.name}")
            return found
        raise UnknownName("spoken LM", str(name_or_path), known_names())

    @classmethod
    def _from_folder(cls, folder: Path, device: str, dtype: Dtype) -> SpokenLM:
        about = describe(folder)
        tokenizer = str(about["tokenizer"])
        inside = folder / tokenizer
        return cls(
            f"{about['name']}@{about['version']}",
            lambda: _expected(
                load_tokenizer(inside if inside.is_dir() else tokenizer, device), folder, about
            ),
            lambda: _placed(load_unit_lm(folder / str(about["lm"])), device, dtype),
            str(about.get("tokenizer_name", tokenizer)),
            about.get("license"),
            folder,
        )

    @classmethod
    def _published(cls, model: Published, device: str, dtype: Dtype) -> SpokenLM:
        def lm() -> UnitLM:
            return _placed(_published_lm(model), device, dtype)

        return cls(
            f"{model.name}@1",
            lambda: load_tokenizer(model.tokenizer, device),
            lm,
            model.tokenizer,
            model.license,
        )


def known_names() -> list[str]:
    """Names that `SpokenLM.load` takes, bundled ones first."""
    bundled = sorted(path.parent.name for path in BUNDLED.glob(f"*/{DESCRIPTION}"))
    return [*bundled, *PUBLISHED]


def describe(folder: Path) -> Mapping[str, Any]:
    """A folder's spoken_lm.json, checked. CheckpointError says what is missing."""
    path = folder / DESCRIPTION
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a spoken LM: it has no {DESCRIPTION}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(about, dict) or about.get("schema") != 1:
        raise CheckpointError(f"{path} has a schema that this version does not read (it reads 1)")
    missing = [key for key in ("name", "version", "tokenizer", "lm") if key not in about]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    return about


def _expected(tokenizer: UnitTokenizer, folder: Path, about: Mapping[str, Any]) -> UnitTokenizer:
    """The tokenizer, when it is the one that the folder's LM was trained on. CheckpointError names both."""
    wanted = about.get("tokenizer_fingerprint")
    if wanted not in (None, tokenizer.fingerprint):
        raise CheckpointError(
            f"{folder} reads units of a tokenizer {about['tokenizer']} with fingerprint {wanted}, but this "
            f"installation's has {tokenizer.fingerprint}; pretrain its LM again, or install the version it came with"
        )
    return tokenizer


def tokenizer_names() -> list[str]:
    """Tokenizers that have a name: published ones, and those of bundled spoken LMs, whole and without sound codes.

    A published one has a second name for bfloat16. `+f0` and the other `TRACKERS` behind any of them add F0.
    """
    bundled = sorted(path.parent.parent.name for path in BUNDLED.glob("*/tokenizer/tokenizer.json"))
    return [*HUBERT_UNITS, *(name + ending for name in bundled for ending in ("", "-content"))]


def load_tokenizer(name_or_folder: str | Path, device: str = "cpu") -> UnitTokenizer:
    """A tokenizer from its folder (`tokenizer.json` names its kind) or by one of `tokenizer_names`.

    A name wins over a folder of that name (pass a Path). UnknownName for neither; CheckpointError for a damaged folder.
    """
    if isinstance(name_or_folder, str):
        if name_or_folder in HUBERT_UNITS:
            return _hubert(name_or_folder, device)
        if name_or_folder in tokenizer_names():
            return _bundled(name_or_folder, device)
        bare, plus, tracker = name_or_folder.rpartition("+")
        if plus and bare in tokenizer_names():
            return with_f0(load_tokenizer(bare, device), tracker, device)
    folder = Path(name_or_folder)
    try:
        about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        kind = about["kind"]
    except FileNotFoundError:
        raise UnknownName("tokenizer", str(name_or_folder), tokenizer_names()) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{folder / 'tokenizer.json'} does not name a tokenizer's kind") from None
    if kind == "mel-hubert":
        from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

        return MelHubertTokenizer.load(folder, device=device)
    if kind == "hubert":
        from speechprompt.tokenizers.hubert import HubertTokenizer

        return HubertTokenizer.load(folder, device=device)
    if kind == "prosody":
        return _prosody(folder, about, device)
    raise UnknownName("tokenizer kind", str(kind), ("mel-hubert", "hubert", "prosody"))


def _bundled(name: str, device: str) -> UnitTokenizer:
    """The tokenizer `NAME` or `NAME-content` of a bundled spoken LM."""
    from speechprompt.tokenizers.mel_hubert import CONTENT

    tokenizer = load_tokenizer(BUNDLED / name.removesuffix(CONTENT) / "tokenizer", device)
    return content_of(tokenizer) if name.endswith(CONTENT) else tokenizer


def content_of(tokenizer: UnitTokenizer) -> UnitTokenizer:
    """The tokenizer without its codes of timbre and prosody, itself where it has none."""
    from speechprompt.tokenizers.mel_hubert import MelHubertTokenizer

    return tokenizer.content() if isinstance(tokenizer, MelHubertTokenizer) else tokenizer


def _prosody(folder: Path, about: Mapping[str, Any], device: str) -> UnitTokenizer:
    """A folder of kind `prosody`: `units` names a published tokenizer or a folder inside, `tracker` who follows F0.

    `tracker` is one of `TRACKERS`; `mean`: "utterance", "absolute", or a table of speakers' mean log-F0.
    """
    units, tracker, mean = about.get("units"), about.get("tracker", "f0"), about.get("mean", "utterance")
    table = isinstance(mean, dict) and all(isinstance(value, int | float) for value in mean.values())
    if not isinstance(units, str) or not (mean in ("utterance", "absolute") or table):
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} does not say whose units carry F0, and from which mean"
        )
    inside = folder / units
    if inside.resolve() == folder.resolve():
        raise CheckpointError(f"{folder / 'tokenizer.json'} names itself as its units")
    return with_f0(load_tokenizer(inside if inside.is_dir() else units, device), str(tracker), device, mean)


def with_f0(tokenizer: UnitTokenizer, tracker: str, device: str, mean: Any = "utterance") -> UnitTokenizer:
    """A tokenizer whose units carry F0 of one of `TRACKERS`, measured from `mean`. UnknownName for a tracker."""
    from speechprompt.tokenizers.prosody import ABSOLUTE, ProsodyTokenizer

    if tracker not in TRACKERS:
        raise UnknownName("pitch tracker", tracker, TRACKERS)
    if tracker.endswith(ABSOLUTE):
        tracker, mean = tracker.removesuffix(ABSOLUTE), "absolute"
    if tracker == "yaapt":
        from speechprompt.tokenizers.yaapt import YaaptTracker

        return ProsodyTokenizer(tokenizer, YaaptTracker(), mean)
    from speechprompt.tokenizers.pitch import BatchPitchTracker

    highest = tracker.partition("-")[2]
    ours = BatchPitchTracker(device, int(highest)) if highest else BatchPitchTracker(device)
    return ProsodyTokenizer(tokenizer, ours, mean)


def _published_lm(model: Published) -> UnitLM:
    from speechprompt.downloads import fetch_published

    archive = fetch_published(model.archive)
    if model.archive.startswith("pgslm"):
        from speechprompt.lms.pgslm_fairseq import load_pgslm
        from speechprompt.lms.pgslm_units import PgslmUnitLM

        return PgslmUnitLM(load_pgslm(archive, fetch_published(model.f0_bins) if model.f0_bins else None))
    from speechprompt.lms.fairseq import load_gslm
    from speechprompt.lms.gslm_units import GslmUnitLM

    return GslmUnitLM(load_gslm(archive))


def _hubert(name: str, device: str) -> UnitTokenizer:
    from speechprompt.downloads import fetch_published
    from speechprompt.tokenizers.hubert import HubertTokenizer

    return HubertTokenizer.from_fairseq(
        fetch_published("hubert-base-ls960"),
        layer=6,
        centres=fetch_published(name.removesuffix(ROUNDED)),
        name=name,
        device=device,
        precision="bfloat16" if name.endswith(ROUNDED) else "float32",
    )


def load_unit_lm(folder: Path) -> UnitLM:
    """A unit LM from a transformers folder: GSLM, pGSLM, or any causal LM over units."""
    from speechprompt.lms.gslm_units import GslmUnitLM

    config = folder / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise CheckpointError(f"{config} is missing or is not a model's configuration") from None
    if kind == "gslm":
        return GslmUnitLM.from_pretrained(folder)
    if kind == "pgslm":
        from speechprompt.lms.pgslm_units import PgslmUnitLM

        return PgslmUnitLM.from_pretrained(folder)
    from speechprompt.lms.huggingface import HuggingFaceUnitLM

    return HuggingFaceUnitLM.from_pretrained(folder)


def _placed(lm: UnitLM, device: str, dtype: Dtype) -> UnitLM:
    import torch

    if dtype == "auto":
        dtype = "bfloat16" if prefers_bfloat16(lm, torch.device(device)) else "float32"
    return lm.to(device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])


def prefers_bfloat16(lm: UnitLM, device: torch.device) -> bool:
    """Whether bfloat16 pays: on a GPU always; on a CPU that multiplies it in hardware, for all but toy LMs."""
    return device.type != "cpu" or (multiplies_bfloat16() and lm.width >= 128)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16."""
    import torch

    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    native = native or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return bool(native)
