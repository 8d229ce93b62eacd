"""Any transformers causal LM over units (OPT, GPT-2, Llama, Qwen2, ...) as a unit LM.

A prefix enters through the model's own cache, so nothing here knows an architecture; what does need to know it
(`before_projection`) is refused. Models that project embeddings inside (OPT-350m) are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel

from speechprompt.errors import CheckpointError, UnitsError, UsageError
from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.folders import read_model
from speechprompt.lms.gslm_units import weights_fingerprint
from speechprompt.lms.prefix import PrefixBatch
from speechprompt.lms.transformer import take_rows, unit_means

UNITS = "units.json"
ROTARY = "inv_freq"
"""How the buffers of transformers end that hold rotary frequencies."""


class UnitVocabulary(BaseModel):
    """units.json: which ids of the LM are units, and which stand around them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit_ids: list[int] = Field(min_length=2, description="LM id of each tokenizer unit, in order")
    start_id: int = Field(ge=0, description="in front of every utterance")
    separator_id: int = Field(ge=0, description="placeholder of the separator; no unit")
    end_id: int | None = Field(None, ge=0, description="after the labels; the start by default")
    max_units: int = Field(ge=1, description="most units of an utterance")


class HuggingFaceUnitLM:
    """Rows `<start> u1..un <separator> answers`, positions 0, 1, ... whatever the prefix."""

    embedding_scale = 1.0

    def __init__(
        self,
        model: PreTrainedModel,
        unit_ids: Sequence[int],
        start_id: int,
        separator_id: int,
        max_units: int,
        end_id: int | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.model = model.requires_grad_(False)
        self.model.train(False)
        config: Any = model.config
        self.layers: int = config.num_hidden_layers
        self.width: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.width // self.heads
        self.vocabulary_size = len(self._output_matrix().weight)
        self.start_id, self.separator_id = start_id, separator_id
        self.end_id = start_id if end_id is None else end_id
        self.max_units, self.unit_count = max_units, len(unit_ids)
        self._most_rows = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self._check(list(unit_ids))
        self._ids = torch.tensor(list(unit_ids), dtype=torch.int64)
        self._fingerprint = fingerprint

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> HuggingFaceUnitLM:
        """Load a folder with a causal LM and units.json, computing in fp32. CheckpointError when it is damaged."""
        path = Path(folder) / UNITS
        try:
            units = UnitVocabulary.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror}); it must say which ids of the LM are units"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            raise CheckpointError(f"{path} is damaged: {where}: {first['msg']}") from None
        model = read_model(AutoModelForCausalLM, folder, "a causal LM")
        try:
            return cls(model, **units.model_dump())
        except UsageError as error:
            raise CheckpointError(f"{folder}: {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model and units.json, so that `from_pretrained` gives the same LM."""
        units = UnitVocabulary(
            unit_ids=self._ids.tolist(),
            start_id=self.start_id,
            separator_id=self.separator_id,
            end_id=self.end_id,
            max_units=self.max_units,
        )
        self.model.save_pretrained(folder)
        (Path(folder) / UNITS).write_text(units.model_dump_json() + "\n", encoding="utf-8")

    def _check(self, unit_ids: list[int]) -> None:
        """UsageError when the ids contradict each other or the model, or it needs what is not offered here."""
        specials = {self.start_id, self.separator_id, self.end_id}
        if len(set(unit_ids)) != len(unit_ids) or specials & set(unit_ids):
            raise UsageError("two units share an LM id, or one has the id of the start, separator or end")
        if not all(0 <= i < self.vocabulary_size for i in [*unit_ids, *specials]):
            raise UsageError(f"an id lies outside the LM's vocabulary of {self.vocabulary_size}")
        if self._embeddings().shape[1] != self.width:
            raise UsageError("the LM projects its embeddings to another width, which is not supported")
        if self.max_units + 2 > self._most_rows:
            raise UsageError(
                f"max_units {self.max_units} is over the LM's {self._most_rows} positions less two"
            )

    @property
    def fingerprint(self) -> str:
        """Hash of architecture, ids and weights; taken once, before any change of dtype."""
        if self._fingerprint is None:
            about = (self.model.config.model_type, self.heads, self.start_id, self.separator_id, self.end_id)
            symbols = [str(part) for part in (*about, *self._ids.tolist())]
            self._fingerprint = weights_fingerprint(self.model.state_dict().items(), symbols)
        return self._fingerprint

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._embeddings().device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are computed in."""
        return self._embeddings().dtype

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> HuggingFaceUnitLM:
        """The same LM, moved in place to a device and a precision; the fingerprint stays.

        Frequencies of rotary positions stay as they are: bfloat16 would turn them half a radian after 1,000 units.
        """
        _ = self.fingerprint
        exact = {name: x for name, x in self.model.named_buffers() if name.endswith(ROTARY)}
        cast(Any, self.model).to(device=device, dtype=dtype)
        for name, frequencies in exact.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, frequencies.to(self.device))
        return self

    def _embeddings(self) -> Tensor:
        return cast(nn.Embedding, self.model.get_input_embeddings()).weight

    def _embedded(self, lm_ids: Tensor) -> Tensor:
        """Input vectors (..., D) as the model makes them, scaled where its embedding does that (Gemma, XGLM)."""
        return cast(Tensor, self.model.get_input_embeddings()(lm_ids))

    def _output_matrix(self) -> nn.Linear:
        return cast(nn.Linear, self.model.get_output_embeddings())

    def lm_ids(self, unit_ids: Tensor) -> Tensor:
        """LM ids of tokenizer units; UnitsError for a unit outside 0..unit_count-1."""
        if unit_ids.numel() and (int(unit_ids.min()) < 0 or int(unit_ids.max()) >= self.unit_count):
            raise UnitsError(
                f"unit {int(unit_ids.max())} is not among the {self.unit_count} units of this LM; "
                "was the corpus encoded with another tokenizer?"
            )
        return self._ids.to(unit_ids.device)[unit_ids]

    def embedding(self, lm_ids: Tensor) -> Tensor:
        """Embeddings (..., D) in fp32."""
        return self._embedded(lm_ids).float()

    def project_prefix(self, keys: Tensor, values: Tensor) -> Tensor:
        """Not for any LM: UsageError that names the method to take."""
        raise UsageError(_needs_gslm(self.model))

    def key_value_inputs(self, batch: UnitBatch) -> Tensor:
        """Not for any LM: UsageError that names the method to take."""
        raise UsageError(_needs_gslm(self.model))

    def input_prefix(self, vectors: Tensor) -> Tensor:
        """Keys and values that rows of input vectors (P,D), at positions 0..P-1, leave in each layer."""
        cache = DynamicCache()
        self._run(vectors[None], torch.arange(len(vectors), device=vectors.device)[None], cache=cache)
        return _contents(cache)[:, :, 0]

    def unit_key_values(self, batch: UnitBatch) -> Tensor:
        """Keys and values of each layer at each unit, (L,2,B,kv_heads,N,head_dim)."""
        cache = DynamicCache()
        self._run(*self._rows(batch, None, None), cache=cache)
        return _contents(cache)[..., 1:, :]

    def unit_states(self, batch: UnitBatch) -> Tensor:
        """Last hidden states (B,N,D) of units without a prompt."""
        states: Tensor = self._run(*self._rows(batch, None, None)).last_hidden_state
        return states[:, 1:]

    def forward(
        self, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor, before: int = 0
    ) -> Tensor:
        """Hidden states (B, before+1+J, D): the rows before the separator, it, and each answer.

        UnitsError when an utterance is longer than `max_units`, or the LM has no positions left for the rest.
        """
        return self._prompted(batch, prefixes, separators, before)[0]

    def forward_with_mean(
        self, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor, before: int = 0
    ) -> tuple[Tensor, Tensor]:
        """`forward`, and the mean (B,D) in fp32 of each utterance's units as the last layer gets them, each normed."""
        hidden, layers = self._prompted(batch, prefixes, separators, before, all_layers=True)
        return hidden, unit_means(layers[-2], batch.lengths)

    def _prompted(
        self,
        batch: UnitBatch,
        prefixes: PrefixBatch | None,
        separators: Tensor,
        before: int,
        all_layers: bool = False,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """What `forward` gives, and where asked the input of every layer and the last hidden states, (B,N,D) each."""
        shifts = None if prefixes is None else prefixes.row_shifts()
        x, positions = self._rows(batch, separators, shifts)
        cache, mask = None, None
        if prefixes is not None and prefixes.length:
            layers = [prefixes.of_layer(layer) for layer in range(self.layers)]
            cache, mask = DynamicCache(layers), _padding_mask(prefixes, x)
        found = self._run(x, positions, cache, mask, all_layers)
        answers = 0 if batch.answers is None else batch.answers.shape[1]
        rows = batch.lengths[:, None] + 1 + torch.arange(-before, 1 + answers, device=self.device)
        return take_rows(found.last_hidden_state, rows), found.hidden_states or ()

    def _rows(
        self, batch: UnitBatch, separators: Tensor | None, shifts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Input vectors (B, 1+N[+1+J], D) and their positions. Rows are right-padded: the causal rule does."""
        rows, width = batch.unit_ids.shape
        if width > self.max_units:
            raise UnitsError(f"an utterance of {width} units is over this LM's limit of {self.max_units}")
        columns = torch.arange(width, device=self.device)
        ids = self.lm_ids(torch.where(columns < batch.lengths[:, None], batch.unit_ids, 0))
        ids = torch.cat([ids.new_full((rows, 1), self.start_id), ids], 1)
        if separators is not None:
            tail = ids.new_full((rows, 1), self.separator_id)
            if batch.answers is not None:
                tail = torch.cat([tail, batch.answers], 1)
            ids = torch.cat([ids, torch.full_like(tail, self.start_id)], 1)
            ids = ids.scatter(
                1, batch.lengths[:, None] + 1 + torch.arange(tail.shape[1], device=self.device), tail
            )
        x = self._embedded(ids)
        if separators is not None:
            placed = ids == self.separator_id
            placed[:, 0] = False  # the start may have the same id
            x = torch.where(placed[..., None], separators[:, None].to(x.dtype), x)
        positions = torch.arange(ids.shape[1], device=self.device).expand(rows, -1)
        if shifts is not None:
            positions = positions + shifts[:, None]
        if positions.numel() and int(positions.max()) >= self._most_rows:
            raise UnitsError(
                f"units, prompt and labels together are over this LM's {self._most_rows} positions"
            )
        return x, positions

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        cache: DynamicCache | None = None,
        mask: Tensor | None = None,
        all_layers: bool = False,
    ) -> Any:
        """The model's outputs for rows x (B,N,D); `cache` holds a prefix, or takes the keys and values."""
        return cast(Any, self.model.base_model)(
            inputs_embeds=x.to(self.dtype),
            position_ids=positions,
            past_key_values=cache,
            attention_mask=mask,
            use_cache=cache is not None,
            output_hidden_states=all_layers,
        )

    def heads_of(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits (..., V) over the LM's vocabulary, in fp32."""
        return {"units": self._output_matrix()(hidden).float()}


def _padding_mask(prefixes: PrefixBatch, x: Tensor) -> Tensor | None:
    """Which prefix positions and rows of x (B,N,D) may be looked at, (B,P+N); None when all of them."""
    visible = prefixes.visible()
    if visible is None:
        return None
    return torch.cat([visible, visible.new_ones(x.shape[:2])], 1).long()


def _contents(cache: DynamicCache) -> Tensor:
    """All keys and values of a cache, (L,2,B,kv_heads,N,head_dim)."""
    return torch.stack([torch.stack([keys, values]) for keys, values, *_ in cache])


def _needs_gslm(model: PreTrainedModel) -> str:
    return (
        f"prompts before the projections need a GSLM, not {type(model).__name__}; "
        "train with --method after_projection"
    )
