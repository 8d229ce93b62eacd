"""pGSLM's multi-stream unit LM (Kharitonov et al. 2021, fairseq transformer_ulm) as a transformers model.

Three streams run side by side: units, durations and F0, the last two discrete or continuous. Prosody is shifted
by one: row t reads (u_t, d_{t-1}, f_{t-1}) and predicts (u_{t+1}, d_t, f_t). Unit u is id u; start, padding, end
and unknown follow the units. How utterances become shifted streams is in `pgslm_streams.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.pgslm_config import PgslmConfig
from speechprompt.lms.pgslm_generation import Temperatures, continuations
from speechprompt.lms.transformer import (
    Decoder,
    SinusoidalPositions,
    cache_mask,
    initialise,
    unit_positions,
)
from speechprompt.speech.units import Units


@dataclass
class PgslmOutput(ModelOutput):
    """Logits of each stream, (B,N,V), (B,N,durations) and (B,N,bins); one value a row where continuous."""

    logits: Tensor | None = None
    duration_logits: Tensor | None = None
    f0_logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class PgslmForCausalLM(PreTrainedModel):
    """The unit LM: ids (B,N), durations (B,N) and F0 (B,N), already shifted, -> logits of three streams."""

    config: PgslmConfig
    config_class = PgslmConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: PgslmConfig) -> None:
        super().__init__(config)
        width, sizes = config.hidden_size, config.stream_sizes
        padding = int(config.pad_token_id or 0)
        self.embed_tokens = nn.Embedding(config.vocab_size, width, padding)
        self.duration_input = _stream_input(sizes["duration"], width, 0)
        self.f0_input = _stream_input(sizes["f0"], width, config.f0_bins + 1)
        self.decoder = Decoder(
            config.num_hidden_layers,
            width,
            config.num_attention_heads,
            config.intermediate_size,
            config.layer_norm_eps,
        )
        self.output_projection = nn.Linear(width, sum(sizes.values()), bias=False)
        self.positions = SinusoidalPositions(width, padding)
        self.embed_scale = math.sqrt(width)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of unit embeddings (V,D)."""
        return self.embed_tokens

    def prosody(self, durations: Tensor, f0: Tensor) -> Tensor:
        """What shifted durations and F0 (B,N) add to the rows, (B,N,D).

        A stream that the LM does not read is zeroed first: 0 frames, and bin 0 or the mean pitch.
        """
        durations = durations if self.config.reads_duration else torch.zeros_like(durations)
        f0 = f0 if self.config.reads_f0 else torch.zeros_like(f0)
        vectors: Tensor = self._vectors(self.duration_input, durations) + self._vectors(self.f0_input, f0)
        return vectors

    def _vectors(self, layer: nn.Module, values: Tensor) -> Tensor:
        if isinstance(layer, nn.Embedding):
            return layer(values)
        return layer(values[..., None].to(self.embed_tokens.weight.dtype))

    def streams_of(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits of each stream from hidden states (..., D)."""
        sizes = self.config.stream_sizes
        logits = self.output_projection(hidden).split(list(sizes.values()), -1)
        return dict(zip(sizes, logits, strict=True))

    def forward(
        self,
        input_ids: Tensor,
        durations: Tensor,
        f0: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **unused: Any,
    ) -> PgslmOutput:
        """Logits of the next unit and of this unit's duration and F0.

        Shapes: `input_ids` (B,N); `durations` (B,N) int64 or float frames; `f0` (B,N) bins or values, both as
        `pgslm_streams.Streams` holds them; `attention_mask` (B, seen+N), 1 = valid.
        """
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        x = self.embed_tokens(input_ids) * self.embed_scale + self.prosody(durations, f0)
        positions = unit_positions(attention_mask, x.shape[1], seen, x.device)
        x = x + self.positions(positions + int(self.config.pad_token_id) + 1, x)
        mask = cache_mask(attention_mask, x.shape[1], seen, x.device)
        states = list(self.decoder.states(x, past_key_values, mask))
        hidden = self.decoder.layer_norm(states[-1])
        streams = self.streams_of(hidden)
        return PgslmOutput(
            logits=streams["units"],
            duration_logits=streams["duration"],
            f0_logits=streams["f0"],
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*states[:-1], hidden) if output_hidden_states else None,
        )

    def generate(
        self,
        batch: UnitBatch,
        max_new_units: int = 100,
        temperatures: Temperatures = Temperatures(),  # noqa: B008
        generator: torch.Generator | None = None,
    ) -> list[Units]:
        """Continue utterances (empty ones start anew): the new units of each row with durations and F0.

        Greedy by default; see `Temperatures`. A row ends with the end symbol or after `max_new_units`. Only
        values that an utterance can hold are chosen: no special ids, at least one frame. UnitsError when a
        stream is missing. Draws from `generator`, on the CPU.
        """
        return continuations(self, batch, max_new_units, temperatures, generator)


def _stream_input(size: int, width: int, padding: int) -> nn.Module:
    return nn.Linear(1, width) if size == 1 else nn.Embedding(size, width, padding)


AutoConfig.register("pgslm", PgslmConfig)
AutoModelForCausalLM.register(PgslmConfig, PgslmForCausalLM)
