"""GSLM's unit LM (Lakhotia et al. 2021, fairseq transformer_lm) as a transformers model.

Source `</s> u1..un`, target `u1..un </s>`; embeddings tied with the output and scaled by sqrt(D); sinusoidal
positions that start at padding_id + 1. What a prompt needs beyond this is in `gslm_units.py`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from speechprompt.lms.gslm_modules import add_parts, unit_symbols
from speechprompt.lms.transformer import (
    Decoder,
    SinusoidalPositions,
    cache_mask,
    initialise,
    unit_positions,
)


class GslmConfig(PreTrainedConfig):
    """Sizes of a GSLM; the defaults are the published hubert100 model (151 M parameters).

    `symbols` are the dictionary's entries after the four special ones, in order: entry i is LM id 4+i and
    holds the tokenizer unit that it names. The published HuBERT dictionaries are 0, 1, 2, ...
    """

    model_type = "gslm"
    attribute_map = {"max_position_embeddings": "max_units"}  # noqa: RUF012

    vocab_size: int = 104
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    layer_norm_eps: float = 1e-5
    max_units: int = 4096
    symbols: list[str] | None = None
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = True

    def unit_symbols(self) -> list[str]:
        """The dictionary after the special ids, the identity where none is given."""
        return unit_symbols(self)


class GslmForCausalLM(PreTrainedModel, GenerationMixin):
    """The unit LM: LM ids (B,N) -> logits (B,N,V)."""

    config_class = GslmConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"
    _tied_weights_keys = {"output_projection.weight": "embed_tokens.weight"}  # noqa: RUF012
    _supports_sdpa = True
    embed_tokens: nn.Embedding
    decoder: Decoder
    output_projection: nn.Linear
    positions: SinusoidalPositions
    embed_scale: float

    def __init__(self, config: GslmConfig) -> None:
        super().__init__(config)
        add_parts(self, config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding table (V,D)."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding table."""
        self.embed_tokens = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Linear:
        """The output matrix (V,D), tied with the embeddings."""
        return self.output_projection

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the output matrix."""
        self.output_projection = value  # type: ignore[assignment]

    def embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Rows (B,N,D) that enter the first layer."""
        x: Tensor = self.embed_tokens(input_ids) * self.embed_scale
        return x + self.positions(positions, x)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **unused: Any,
    ) -> CausalLMOutputWithPast:
        """Transformers' causal LM call.

        Shapes: `input_ids` (B,N); `attention_mask` (B, seen+N), 1 = valid; `position_ids` (B,N) count from 0;
        `labels` (B,N) like `input_ids` with -100 ignored, shifted here, so that the loss is nats a unit.
        """
        x = inputs_embeds if inputs_embeds is not None else self.embed_tokens(input_ids)
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = unit_positions(attention_mask, x.shape[1], seen, x.device)
        positions = position_ids + int(self.config.pad_token_id) + 1
        x = x * self.embed_scale + self.positions(positions, x)
        mask = cache_mask(attention_mask, x.shape[1], seen, x.device)
        states = list(self.decoder.states(x, past_key_values, mask))
        hidden = self.decoder.layer_norm(states[-1])
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.output_projection(hidden[:, keep])
        loss = None
        if labels is not None:
            shifted = logits[:, :-1].float().flatten(0, 1)
            loss = functional.cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*states[:-1], hidden) if output_hidden_states else None,
        )


AutoConfig.register("gslm", GslmConfig)
AutoModelForCausalLM.register(GslmConfig, GslmForCausalLM)
