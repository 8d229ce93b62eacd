"""HuBERT's transformer in the forms that are fast: convolutional features -> the output of its last layer.

Clips lie one behind another in one table of frames, without padding: what works on a frame takes the table, and only
the positional convolution and attention look at clips. So no clip hears another, and there is no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import HubertModel
from transformers.activations import ACT2FN

from speechprompt.packed_linear import PackedLinear
from speechprompt.tokenizers.spectral_convolution import SpectralConvolution

_WRITTEN_OUT_FRAMES = 1000  # the fused kernel is slower in bfloat16 on a CPU; over this, scores take memory


class Transformer:
    """Features (T,C) of each clip -> hidden states (T,D), fp32.

    Matrix products are in the model's dtype; norms, residuals and the positional convolution in fp32.
    """

    def __init__(self, model: HubertModel) -> None:
        projection: Any = model.feature_projection
        encoder: Any = model.encoder
        self._input_norm = _Norm(projection.layer_norm) if model.config.feat_proj_layer_norm else None
        self._project = _linear(projection.projection)
        position = encoder.pos_conv_embed
        groups = model.config.num_conv_pos_embedding_groups
        self._position = SpectralConvolution(position.conv.weight, position.conv.bias, groups)
        self._batch_norm = position.batch_norm
        self._position_activation = ACT2FN[model.config.feat_extract_activation]
        self._norm_first = bool(model.config.do_stable_layer_norm)
        self._norm = None if self._norm_first else _Norm(encoder.layer_norm)
        self._layers = [_Layer(layer, model.config.hidden_act, self._norm_first) for layer in encoder.layers]

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips of like length should follow each other: those of one length share their attention."""
        counts = [len(clip) for clip in clips]
        features = torch.cat(list(clips))
        if self._input_norm is not None:
            features = self._input_norm(features.float()).to(features.dtype)
        hidden = self._project(features).float()
        hidden = hidden + self._positions(hidden, counts)
        if self._norm is not None:
            hidden = self._norm(hidden)
        for layer in self._layers:
            hidden = layer(hidden, counts)
        return list(hidden.split(counts))

    def _positions(self, hidden: Tensor, counts: Sequence[int]) -> Tensor:
        if self._batch_norm is not None:
            hidden = self._batch_norm.float()(hidden)
        found: Tensor = self._position_activation(torch.cat(self._position(hidden.split(list(counts)))))
        return found


class _Norm:
    """A layer norm in fp32."""

    def __init__(self, norm: Any) -> None:
        self._weight, self._bias, self._epsilon = norm.weight.float(), norm.bias.float(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self._weight, self._bias, self._epsilon)


class _Layer:
    """Self-attention and feed-forward, each with its residual; the norm before (`norm_first`) or behind."""

    def __init__(self, layer: Any, activation: str, norm_first: bool) -> None:
        attention, forward = layer.attention, layer.feed_forward
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        self._query_key_value = PackedLinear(
            torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        )
        self._heads, self._norm_first = attention.num_heads, norm_first
        self._attention_out = _linear(attention.out_proj)
        fused = activation == "gelu"
        self._inner = PackedLinear(
            forward.intermediate_dense.weight, forward.intermediate_dense.bias, "gelu" if fused else "none"
        )
        self._activation = None if fused else ACT2FN[activation]
        self._outer = _linear(forward.output_dense)
        self._dtype = attention.q_proj.weight.dtype
        self._attention_norm, self._forward_norm = _Norm(layer.layer_norm), _Norm(layer.final_layer_norm)

    def __call__(self, hidden: Tensor, counts: Sequence[int]) -> Tensor:
        """Frames (sum T,D) of clips with so many frames each."""
        if self._norm_first:
            hidden = hidden + self._attended(self._attention_norm(hidden), counts)
            return hidden + self._forward(self._forward_norm(hidden))
        hidden = self._attention_norm(hidden + self._attended(hidden, counts))
        return self._forward_norm(hidden + self._forward(hidden))

    def _attended(self, hidden: Tensor, counts: Sequence[int]) -> Tensor:
        parts = self._query_key_value(hidden.to(self._dtype)).view(len(hidden), 3, self._heads, -1)
        mixed, start = [], 0
        for count, clips in ((count, len(list(same))) for count, same in groupby(counts)):
            rows = parts[start : start + count * clips].view(clips, count, *parts.shape[1:])
            query, key, value = rows.permute(2, 0, 3, 1, 4)  # (clips, heads, count, head width) each
            if query.dtype == torch.bfloat16 and query.device.type == "cpu" and count <= _WRITTEN_OUT_FRAMES:
                attended = torch.stack([_written_out(*clip) for clip in zip(query, key, value, strict=True)])
            else:
                attended = functional.scaled_dot_product_attention(query, key, value)
            mixed.append(attended.transpose(1, 2).reshape(count * clips, -1))
            start += count * clips
        return self._attention_out(torch.cat(mixed)).float()

    def _forward(self, hidden: Tensor) -> Tensor:
        inner = self._inner(hidden.to(self._dtype))
        return self._outer(inner if self._activation is None else self._activation(inner)).float()


def _written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one clip, (heads,T,head width) each, with scores in fp32: rounded ones would move units."""
    scores = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(1, 2)
    return scores.softmax(-1).to(value.dtype) @ value


def _linear(module: Any) -> PackedLinear:
    return PackedLinear(module.weight, module.bias)
