"""The HuBERT tokenizer: features of one layer, nearest k-means centre, runs merged (Hsu et al. 2021, GSLM)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import HubertConfig, HubertModel

from speechprompt.checkpoints import reading
from speechprompt.errors import CheckpointError, UsageError
from speechprompt.speech.units import Units, deduplicate
from speechprompt.tokenizers.hubert_encoder import Chunking, HubertEncoder
from speechprompt.tokenizers.hubert_files import CONFIG_FIELDS, build, read_fairseq, read_pretrained
from speechprompt.tokenizers.kmeans import KMeans
from speechprompt.tokenizers.protocol import Precision, Waveform

KIND = "hubert"
SCHEMA = 1
SAMPLE_RATE = 16_000


class HubertTokenizer:
    """Waveform -> units: the nearest centre to the output of one layer of a HuBERT, runs merged.

    The model is cut behind that layer. A clip's features do not depend on its neighbours in a batch beyond the
    last digits of the precision. In bfloat16 those digits move units; distances to centres are fp32 always.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        name: str,
        model: HubertModel,
        centres: Tensor,
        normalize: bool = False,
        chunking: Chunking = "published",
        precision: Precision = "float32",
    ) -> None:
        """`centres` (unit_count, D); `normalize`: clips to zero mean and unit variance (not for HuBERT-base).

        CheckpointError when centres and model differ in width, UsageError for unknown options.
        """
        if chunking not in get_args(Chunking) or precision not in get_args(Precision):
            known = ", ".join((*get_args(Chunking), *get_args(Precision)))
            raise UsageError(f"chunking '{chunking}' or precision '{precision}' is unknown; known: {known}")
        self.name, self.precision = name, precision
        self._kmeans = KMeans(centres.cpu())
        width = model.config.hidden_size
        if self._kmeans.centres.shape[1] != width:
            raise CheckpointError(
                f"{name}: centres of width {self._kmeans.centres.shape[1]} do not belong to a HuBERT of width {width}"
            )
        self.unit_count = len(self._kmeans)
        torch.nn.Module.to(model, getattr(torch, precision))
        self.encoder = HubertEncoder(model, normalize, chunking)
        self.frame_rate = SAMPLE_RATE / self.encoder.hop_samples
        self.fingerprint = self._hash()

    @classmethod
    def from_fairseq(
        cls,
        path: str | Path,
        layer: int,
        centres: str | Path | Tensor,
        name: str | None = None,
        device: torch.device | str = "cpu",
        chunking: Chunking = "published",
        precision: Precision = "float32",
    ) -> HubertTokenizer:
        """From a published HuBERT checkpoint and km.bin. CheckpointError when one is damaged or something else."""
        model, normalize = read_fairseq(path, layer)
        name = name or f"{Path(path).stem}-l{layer}"
        return cls(name, model, _centres(centres), normalize, chunking, precision).to(device)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        layer: int,
        centres: str | Path | Tensor,
        name: str | None = None,
        device: torch.device | str = "cpu",
        normalize: bool | None = None,
        chunking: Chunking = "published",
        precision: Precision = "float32",
    ) -> HubertTokenizer:
        """From a transformers folder or hub id (downloaded at first use) and a k-means file.

        `normalize` None: as the architecture was trained, so not for HuBERT-base, although the hub's feature
        extractor says so. CheckpointError when something is damaged or no HuBERT.
        """
        model = read_pretrained(name_or_folder, layer)
        if normalize is None:
            normalize = model.config.feat_extract_norm == "layer"
        name = name or f"{Path(name_or_folder).name}-l{layer}"
        return cls(name, model, _centres(centres), normalize, chunking, precision).to(device)

    def encode(self, waveform: Waveform) -> Units:
        """Units of samples (S,) at 16 kHz; AudioError when shorter than one frame (25 ms) or not a row of numbers."""
        return self.encode_batch([waveform])[0]

    def encode_batch(self, waveforms: Sequence[Waveform]) -> list[Units]:
        """Units of each clip, the same as of that clip alone."""
        return [
            deduplicate(self._kmeans.assign(clip).cpu().numpy()) for clip in self.encoder.features(waveforms)
        ]

    def features(self, waveforms: Sequence[Waveform]) -> list[Tensor]:
        """What k-means reads of each clip: (T,D), fp32."""
        return self.encoder.features(waveforms)

    def with_centres(self, name: str, centres: Tensor) -> HubertTokenizer:
        """The same encoder with other centres (K,D), under another name."""
        encoder = self.encoder
        return HubertTokenizer(
            name, encoder.model, centres, encoder.normalize, encoder.chunking, self.precision
        ).to(self._kmeans.centres.device)

    def to(self, device: torch.device | str) -> HubertTokenizer:
        """The same tokenizer, moved in place to a device."""
        self.encoder.to(device)
        self._kmeans = self._kmeans.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and model.safetensors (weights up to the layer, centres) into `folder`, creating it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._tensors(), folder / "model.safetensors")
        about = {"name": self.name, **self._config()}
        (folder / "tokenizer.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> HubertTokenizer:
        """Read what `save` wrote; CheckpointError when it is missing, damaged or something else."""
        folder = Path(folder)
        with reading(folder, "a HuBERT tokenizer"):
            about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            if about["kind"] != KIND or about["schema"] != SCHEMA:
                raise ValueError(f"kind {about['kind']}, schema {about['schema']}")
            tensors = load_file(folder / "model.safetensors")
            centres = tensors.pop("centres")
            model = build(HubertConfig(**about["model"]), tensors, str(folder))
            options = (about["normalize"], about["chunking"], about["precision"])
            return cls(about["name"], model, centres, *options).to(device)

    def _config(self) -> dict[str, Any]:
        """All that decides units besides numbers in tensors."""
        model = self.encoder.model.config
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "sample_rate": SAMPLE_RATE,
            "frame_rate": self.frame_rate,
            "unit_count": self.unit_count,
            "layer": model.num_hidden_layers,
            "normalize": self.encoder.normalize,
            "chunking": self.encoder.chunking,
            "precision": self.precision,
            "model": {field: getattr(model, field) for field in CONFIG_FIELDS},
        }

    def _tensors(self) -> dict[str, Tensor]:
        weights = {name: t.cpu().contiguous() for name, t in self.encoder.model.state_dict().items()}
        return {**weights, "centres": self._kmeans.centres.cpu()}

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps(self._config(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _centres(source: str | Path | Tensor) -> Tensor:
    return source if isinstance(source, Tensor) else KMeans.from_file(source).centres
