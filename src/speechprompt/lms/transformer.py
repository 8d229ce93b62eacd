"""The pre-norm causal transformer that GSLM and pGSLM share (fairseq's transformer_lm).

It knows neither units nor prompts: it maps rows (B,N,D) to hidden states, and reads earlier keys and values
through anything that offers `update(keys, values, layer)`: a transformers cache or a PrefixBatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Memory(Protocol):
    """Earlier keys and values, by layer."""

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values; return all that its queries may look at."""
        ...


class Attention(nn.Module):
    """Multi-head self-attention with biases everywhere."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B,N,D) -> (B,H,N,head_dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, x: Tensor, memory: Memory | None, layer: int, mask: Any) -> Tensor:
        """Attend from `queries` (B,Q,D) to memory and `x` (B,N,D); `mask` None means causal over x alone."""
        q, k, v = self.split(self.q_proj(queries)), self.split(self.k_proj(x)), self.split(self.v_proj(x))
        if memory is not None:
            k, v = memory.update(k, v, layer)
        mixed = attend(q, k, v, mask)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention (B,H,Q,head_dim); `mask` None means causal over equally many keys.

    torch's fused kernel, except in bfloat16 on a CPU, where its backward pass takes three to five times as long
    as attention written out (`speechprompt bench --stages attention`).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return attend_written_out(q, k, v, mask)
    causal = mask is None and q.shape[2] > 1
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def attend_written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same in two matrix products and a softmax."""
    similar = torch.matmul(q, k.transpose(2, 3)) * q.shape[3] ** -0.5
    if mask is None and q.shape[2] > 1:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        similar = similar.masked_fill(~mask, float("-inf"))
    return torch.matmul(similar.softmax(-1), v)


class Layer(nn.Module):
    """Pre-norm attention and ReLU feed-forward."""

    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """Its six linear layers."""
        attention = self.self_attn
        return attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, self.fc1, self.fc2

    def forward(
        self, x: Tensor, memory: Memory | None, layer: int, mask: Any, rows: Tensor | None = None
    ) -> Tensor:
        """(B,N,D) -> (B,N,D), or (B,Q,D) when only the positions `rows` (B,Q) are wanted."""
        normed = self.self_attn_layer_norm(x)
        if rows is not None:
            x, queries = take_rows(x, rows), take_rows(normed, rows)
        else:
            queries = normed
        x = x + self.self_attn(queries, normed, memory, layer, mask)
        hidden = self.fc1(self.final_layer_norm(x))
        # in place under autograd, a view's gradient would be copied whole
        hidden = functional.relu(hidden, inplace=not hidden.requires_grad)
        result: Tensor = x + self.fc2(hidden)
        return result


class Decoder(nn.Module):
    """A stack of layers and the final LayerNorm."""

    def __init__(self, layers: int, width: int, heads: int, inner: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads, inner, eps) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width, eps=eps)

    def states(self, x: Tensor, memory: Memory | None = None, mask: Any = None) -> Iterator[Tensor]:
        """The input of every layer and the last layer's output, before the final norm: L+1 of (B,N,D)."""
        yield x
        for i, layer in enumerate(self.layers):
            x = layer(x, memory, i, mask)
            yield x

    def forward(self, x: Tensor, memory: Memory | None = None, mask: Any = None) -> Tensor:
        """Final hidden states (B,N,D)."""
        for i, layer in enumerate(self.layers):
            x = layer(x, memory, i, mask)
        normed: Tensor = self.layer_norm(x)
        return normed

    def ahead_of_last(self, x: Tensor, memory: Memory | None, mask: Any) -> Tensor:
        """What the last layer gets (B,N,D)."""
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x, memory, i, mask)
        return x

    def last(self, x: Tensor, memory: Memory | None, rows_mask: Any, rows: Tensor) -> Tensor:
        """Final hidden states (B,Q,D) at the positions `rows` (B,Q), from what the last layer gets."""
        last = len(self.layers) - 1
        normed: Tensor = self.layer_norm(self.layers[last](x, memory, last, rows_mask, rows))
        return normed


def unit_means(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean (B,D) in fp32 of the rows 1..length of x (B,N,D), each normed to mean 0 and variance 1; 0 where none is."""
    places = torch.arange(x.shape[1], device=x.device)
    mine = (places > 0) & (places <= lengths[:, None])
    shares = mine / lengths[:, None].clamp(min=1)
    return torch.bmm(shares[:, None], functional.layer_norm(x.float(), x.shape[-1:]))[:, 0]


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Positions `rows` (B,Q) of x (B,N,D): (B,Q,D)."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


class SinusoidalPositions:
    """Sine and cosine positions, [sin | cos], the row of `padding_id` all zero; a table that grows on demand."""

    def __init__(self, width: int, padding_id: int) -> None:
        self.width, self.padding_id = width, padding_id
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __call__(self, positions: Tensor, like: Tensor) -> Tensor:
        """Vectors (..., D) of positions (...), in the dtype and on the device of `like`."""
        key = (like.device, like.dtype)
        size = int(positions.max()) + 1 if positions.numel() else 1
        table = self._tables.get(key)
        if table is None or len(table) < size:
            table = self._tables[key] = self._table(max(1024, 2 * size)).to(*key)
        return table[positions]

    def _table(self, size: int) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
        angles = torch.arange(size, dtype=torch.float32)[:, None] * frequencies
        table = torch.cat([angles.sin(), angles.cos()], 1)
        table[self.padding_id] = 0
        return table


def unit_positions(attention_mask: Tensor | None, width: int, seen: int, device: torch.device) -> Tensor:
    """Position of each of `width` new rows, (1 or B, width): 0 for the first valid one, -1 for padding."""
    if attention_mask is None:
        return torch.arange(seen, seen + width, device=device)[None]
    mask = attention_mask.long()
    return (mask.cumsum(1) * mask - 1)[:, -width:]


def cache_mask(attention_mask: Tensor | None, width: int, seen: int, device: torch.device) -> Tensor | None:
    """Causal and padding rule (1 or B, 1, N, seen+N) bool; None where plain causal attention is the same."""
    padded = attention_mask is not None and not bool(attention_mask.all())
    if not padded and (seen == 0 or width == 1):
        # a single query sees every key, which `is_causal` (off for one query) also gives
        return None
    columns = torch.arange(seen + width, device=device)
    mask = (columns <= torch.arange(seen, seen + width, device=device)[:, None])[None, None]
    if padded:
        assert attention_mask is not None
        mask = mask & attention_mask[:, None, None].bool()
        # a padded query sees itself, or softmax over nothing would be NaN
        mask = mask | (columns == torch.arange(seen, seen + width, device=device)[:, None])
    return mask


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Draw one module's weights as fairseq does: embeddings N(0, 1/D), Xavier projections, identity norms."""
    from transformers import initialization as init

    if isinstance(module, nn.Embedding):
        init.normal_(module.weight, mean=0.0, std=module.embedding_dim**-0.5)
        if module.padding_idx is not None:
            init.zeros_(module.weight[module.padding_idx])
    elif isinstance(module, nn.Linear):
        init.xavier_uniform_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
