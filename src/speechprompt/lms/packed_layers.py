"""A frozen decoder's layers where nothing trains, in bfloat16 on a CPU: packed weights, fewer products, no late keys.

It equals `frozen.py`'s pass up to rounding: weights lie as the instructions read them, queries, keys and values come
from one product, ReLU and residuals are applied before rounding, and a block of queries meets only the keys that it may
look at. The packed weights lie beside the plain ones, which training and a change of precision still need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from speechprompt.lms.packing import KEYS_MULTIPLE, SCORES_A_PIECE, Group, Packing, Workspace
from speechprompt.lms.prefix import PrefixBatch
from speechprompt.lms.transformer import Decoder, Layer
from speechprompt.packed_linear import PackedLinear, packs

QUERIES_A_BLOCK = 128
"""Rows that are weighed at once: shorter blocks see fewer late keys, and make more calls."""


class PackedRest:
    """What a layer does behind its attention, packed."""

    def __init__(self, layer: Layer) -> None:
        self._out = PackedLinear(layer.self_attn.out_proj.weight, layer.self_attn.out_proj.bias)
        self._inner = PackedLinear(layer.fc1.weight, layer.fc1.bias, "relu")
        self._outer = PackedLinear(layer.fc2.weight, layer.fc2.bias)
        self._norm = layer.final_layer_norm

    def __call__(self, mixed: Tensor, x: Tensor) -> Tensor:
        """What attention mixed (T,D) and the layer's input (T,D) -> its output (T,D)."""
        middle = self._out.plus(mixed, x)
        return self._outer.plus(self._inner(self._norm(middle)), middle)


class PackedLayer:
    """One layer's weights, packed."""

    def __init__(self, layer: Layer) -> None:
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads = attention.heads
        self.query_key_value = PackedLinear(
            torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        )
        self._norm, self._rest = layer.self_attn_layer_norm, PackedRest(layer)

    def __call__(
        self, x: Tensor, index: int, packing: Packing, prefixes: PrefixBatch, space: Workspace
    ) -> Tensor:
        """Packed rows (T,D) -> (T,D)."""
        rows = self.query_key_value(self._norm(x))
        mixed = space.take("mixed", 0, x.shape, x.dtype)
        for group in packing.groups:
            self._attend(group, rows, mixed, index, prefixes, space)
        return self._rest(mixed, x)

    def _attend(
        self, group: Group, rows: Tensor, mixed: Tensor, index: int, prefixes: PrefixBatch, space: Workspace
    ) -> None:
        """Write what attention mixes of `rows` (T,3D) of a group into its part of `mixed` (T,D)."""
        heads, length, width = self.heads, prefixes.length, group.width
        d = mixed.shape[1] // heads
        parts = [group.of(part, heads) for part in rows.chunk(3, 1)]
        queries, keys, values = (
            space.take(name, 0, (group.count, heads, count, d), rows.dtype)
            for name, count in (("q", width), ("k", group.keys), ("v", group.keys))
        )
        queries.copy_(parts[0])
        for kind, (whole, own) in enumerate(((keys, parts[1]), (values, parts[2]))):
            whole[:, :, :length] = prefixes.of_rows(index, kind, group.rows)
            whole[:, :, length : length + width] = own
            whole[:, :, length + width :] = 0
        queries, keys, values = (t.flatten(0, 1) for t in (queries, keys, values))
        out = space.take("out", 0, queries.shape, rows.dtype)
        for utterances, asked, seen in _blocks(group, heads, length):
            pairs = slice(utterances.start * heads, utterances.stop * heads)
            size = (utterances.stop - utterances.start, heads, asked.stop - asked.start, seen)
            scores = space.take("scores", 0, size, rows.dtype)
            mask = group.mask if len(group.mask) == 1 else group.mask[utterances]
            scores.copy_(mask[:, :, asked, :seen])
            scores = scores.flatten(0, 1)
            scores.baddbmm_(queries[pairs, asked], keys[pairs, :seen].transpose(1, 2), alpha=d**-0.5)
            torch.softmax(scores, -1, out=scores)
            out[pairs, asked] = torch.bmm(scores, values[pairs, :seen])
        group.of(mixed, heads).copy_(out.view(group.count, heads, width, d))


def _blocks(group: Group, heads: int, length: int) -> Iterator[tuple[slice, slice, int]]:
    """Utterances and rows that are weighed at once, and how many keys the last of those rows may look at."""
    for first in range(0, group.width, QUERIES_A_BLOCK):
        last = min(first + QUERIES_A_BLOCK, group.width)
        seen = min(group.keys, -(-(length + last) // KEYS_MULTIPLE) * KEYS_MULTIPLE)
        step = max(1, SCORES_A_PIECE // (heads * (last - first) * seen))
        for utterance in range(0, group.count, step):
            yield slice(utterance, min(utterance + step, group.count)), slice(first, last), seen


class PackedDecoder:
    """A decoder's layers: all but the last, and what the last does behind its attention."""

    def __init__(self, decoder: Decoder) -> None:
        *layers, last = (cast(Layer, layer) for layer in decoder.layers)
        self.layers, self.last_rest = [PackedLayer(layer) for layer in layers], PackedRest(last)


_packed: WeakKeyDictionary[Decoder, tuple[list[object], PackedDecoder]] = WeakKeyDictionary()


def packed_decoder(decoder: Decoder) -> PackedDecoder:
    """The packed layers; packed when they are first asked for, and again when weights have changed."""
    state: list[object] = [
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for layer in decoder.layers
        for linear in cast(Layer, layer).linears
        for weight in (linear.weight, linear.bias)
    ]
    found = _packed.get(decoder)
    if found is None or found[0] != state:
        found = _packed[decoder] = (state, PackedDecoder(decoder))
    return found[1]


def runs_packed(decoder: Decoder) -> bool:
    """Whether this form can take the place of the plain layers."""
    return packs(cast(Layer, decoder.layers[0]).fc1.weight)
