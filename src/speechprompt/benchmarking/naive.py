"""The naive form of a prompted GSLM: what our form must equal, and what its speed is measured against.

Prompt rows stand in front of every utterance; in each layer the inputs of the key and value projections of
those rows are overwritten, after the layer norm; every position goes through every layer and the output matrix.
Plain fp32 torch that shares nothing with the package but the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechprompt.lms.gslm import GslmForCausalLM
from speechprompt.prompting.bank import TaskPrompt

SEPARATOR, PADDING = 0, 1


class NaivePromptedGslm(nn.Module):
    """A frozen GSLM with one task prompt, `before_projection` or `input`; only the prompt is trained."""

    def __init__(self, model: GslmForCausalLM, entry: TaskPrompt) -> None:
        super().__init__()
        if entry.prompt.method == "after_projection":
            raise ValueError("the naive form has rows in front of the utterance, not keys and values")
        self.entry = entry
        self.weights = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
        self.layers, self.heads = model.config.num_hidden_layers, model.config.num_attention_heads
        self.eps = model.config.layer_norm_eps

    def forward(self, source_ids: Tensor) -> Tensor:
        """Logits (B,T,O) at every position of `</s> units <s> labels` (B,T), right-padded with 1."""
        prompt = self.entry.prompt
        x = self._embed(source_ids)
        rows, width = len(x), x.shape[2]
        front = prompt.vectors if prompt.method == "input" else x.new_zeros(prompt.length, width)
        x = torch.cat([front.expand(rows, -1, -1), x], 1)
        padding = functional.pad(source_ids == PADDING, (prompt.length, 0), value=False)
        for layer in range(self.layers):
            x = self._layer(x, f"decoder.layers.{layer}", layer, padding)
        x = self._norm(x, "decoder.layer_norm")
        logits = functional.linear(x, self.weights["output_projection.weight"])
        outputs = self.entry.verbalizer.outputs(logits)
        return outputs[:, prompt.length :]

    def _embed(self, ids: Tensor) -> Tensor:
        embeddings = self.weights["embed_tokens.weight"]
        x = torch.where((ids == SEPARATOR)[..., None], self.entry.prompt.separator, embeddings[ids])
        valid = (ids != PADDING).long()
        return x * math.sqrt(x.shape[2]) + _sinusoids(valid.cumsum(1) * valid + PADDING, x.shape[2])

    def _layer(self, x: Tensor, name: str, layer: int, padding: Tensor) -> Tensor:
        queries = self._norm(x, f"{name}.self_attn_layer_norm")
        keys = values = queries
        if self.entry.prompt.method == "before_projection":
            rows, length = len(x), self.entry.prompt.length
            key_rows, value_rows = self.entry.prompt.vectors[:, layer]
            keys = torch.cat([key_rows.expand(rows, -1, -1), queries[:, length:]], 1)
            values = torch.cat([value_rows.expand(rows, -1, -1), queries[:, length:]], 1)
        x = x + self._attend(queries, keys, values, f"{name}.self_attn", padding)
        hidden = self._linear(self._norm(x, f"{name}.final_layer_norm"), f"{name}.fc1").relu()
        return x + self._linear(hidden, f"{name}.fc2")

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, name: str, padding: Tensor) -> Tensor:
        rows, length, width = queries.shape
        shape = (rows, length, self.heads, width // self.heads)
        q = self._linear(queries, f"{name}.q_proj").view(shape) * shape[3] ** -0.5
        k = self._linear(keys, f"{name}.k_proj").view(shape)
        v = self._linear(values, f"{name}.v_proj").view(shape)
        similar = torch.einsum("bqhd,bkhd->bhqk", q, k)
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        hidden = later | padding[:, None, None]
        weights = similar.masked_fill(hidden, float("-inf")).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(rows, length, width)
        return self._linear(mixed, f"{name}.out_proj")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, self.eps)


def _sinusoids(positions: Tensor, width: int) -> Tensor:
    """fairseq's sines then cosines (..., D) of positions (...); nothing at the padding position."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=positions.device) * -(math.log(10000.0) / (half - 1)))
    angles = positions[..., None] * rates
    both = torch.cat([angles.sin(), angles.cos()], -1)
    return both * (positions != PADDING)[..., None]
