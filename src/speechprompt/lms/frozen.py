"""Forward and backward pass of a frozen decoder by hand: what small LMs spend beside their matrix products.

Weights that are frozen need no gradients, so a layer keeps only what the gradient of its input takes, in buffers that
are used again; utterances lie side by side without padding between groups of like length. The plain form, which this
equals up to rounding, is `Decoder.forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechprompt.lms.packed_layers import PackedRest, packed_decoder, runs_packed
from speechprompt.lms.packing import SCORES_A_PIECE, Group, Packing, Workspace
from speechprompt.lms.prefix import PrefixBatch
from speechprompt.lms.transformer import Attention, Decoder, Layer, unit_means

KEPT_BYTES = 300_000_000
"""Buffers of a larger pass are given back: an LM that fills them does not feel what fresh memory costs."""

KEPT_WIDTH = 256
"""Rows an utterance up to which a layer keeps its attention weights: those of longer ones are computed again, so that
memory grows with the length and not with its square."""

_idle: list[Workspace] = []  # list.pop and append are atomic, so threads may share it


def runs_frozen(decoder: Decoder) -> bool:
    """Whether this form can take the place of `decoder.forward`: two or more plain frozen layers on a CPU."""
    norm = decoder.layer_norm
    if len(decoder.layers) < 2 or norm.weight.device.type != "cpu" or not _is_plain(norm, nn.LayerNorm):
        return False
    return all(_is_frozen(cast(Layer, layer)) for layer in decoder.layers)


def _is_frozen(layer: Layer) -> bool:
    norms = (layer.self_attn_layer_norm, layer.final_layer_norm)
    return all(_is_plain(one, nn.Linear) for one in layer.linears) and all(
        _is_plain(one, nn.LayerNorm) for one in norms
    )


def _is_plain(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a module is of just this kind, with a weight and a bias that are frozen."""
    return type(module) is kind and not (module.weight.requires_grad or module.bias.requires_grad)


def run_frozen(
    decoder: Decoder,
    x: Tensor,
    lengths: Tensor,
    prefixes: PrefixBatch,
    rows: Tensor,
    trained: Tensor,
    trained_rows: Tensor,
    with_mean: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Final hidden states (B,Q,D) at `rows` (B,Q) of x (B,W,D), of which utterance i takes `lengths[i]` rows.

    `trained` (B,D) is what x holds already at `trained_rows` (B,): gradients reach it and the prefixes, but not x.
    The units lie between the first row and the trained one; `with_mean` asks for their mean (`unit_means`) too.
    """
    layers = [cast(Layer, layer) for layer in decoder.layers]
    packing = Packing.of(lengths, prefixes, layers[0].self_attn.heads, x.dtype)
    states = packing.pack(x.detach())
    trains = torch.is_grad_enabled() and (trained.requires_grad or prefixes.stacked.requires_grad)
    rest: PackedRest | None = None
    if not trains and runs_packed(decoder):
        space, packed = _borrow(), packed_decoder(decoder)
        for i, layer in enumerate(packed.layers):
            states = layer(states, i, packing, prefixes, space)
        _give_back(space)
        rest = packed.last_rest
    else:
        work = _Work(layers[:-1], packing, prefixes, packing.starts + trained_rows)
        run: Callable[..., Tensor] = _Layers.apply
        states = run(states, trained, prefixes.stacked, work)
    hidden: Tensor = decoder.layer_norm(last_layer(layers[-1], states, packing, prefixes, rows, rest))
    return hidden, _packed_means(states, packing, trained_rows - 1) if with_mean else None


def _packed_means(states: Tensor, packing: Packing, lengths: Tensor) -> Tensor:
    """`unit_means` (B,D) of packed rows (T,D)."""
    means = [unit_means(group.rows_of(states), lengths[group.rows]) for group in packing.groups]
    return torch.cat(means)[packing.order()]


@dataclass(slots=True)
class _Work:
    """What one pass needs besides tensors: layers, packing, and the packed rows (B,) whose gradient is wanted."""

    layers: list[Layer]
    packing: Packing
    prefixes: PrefixBatch
    trained_places: Tensor


class _Layers(torch.autograd.Function):
    """All layers but the last, over packed rows (T,D)."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, trained: Tensor, stacked: Tensor, work: _Work) -> Tensor:
        """Output of the layers (T,D)."""
        space = _borrow()
        keeps = any(ctx.needs_input_grad)
        x, kept = packed, []
        for i, layer in enumerate(work.layers):
            last = i == len(work.layers) - 1
            x, saved = _layer_forward(layer, x, i, work, space, i if keeps else 0, last)
            kept.append(saved)
        if keeps:
            ctx.kept, ctx.space, ctx.work, ctx.shape = kept, space, work, stacked.shape
        else:
            _give_back(space)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `trained` (B,D) and of the prefixes."""
        work, space, dx = ctx.work, ctx.space, gradients[0].contiguous()
        if space is None:
            raise RuntimeError("a frozen decoder goes backward once a forward pass")
        ctx.space = None
        by_prefix = dx.new_zeros(ctx.shape, dtype=torch.float32)
        for i in range(len(work.layers) - 1, -1, -1):
            dx = _layer_backward(work.layers[i], ctx.kept[i], dx, by_prefix[i], work, space, first=i == 0)
        _give_back(space)
        return None, dx, by_prefix.to(work.prefixes.stacked.dtype), None


def _borrow() -> Workspace:
    try:
        return _idle.pop()
    except IndexError:
        return Workspace()


def forget_buffers() -> None:
    """Free the buffers that wait for the next pass, so that what it takes can be measured."""
    _idle.clear()


def _give_back(space: Workspace) -> None:
    if space.size_bytes <= KEPT_BYTES:
        _idle.append(space)


@dataclass(slots=True)
class _Kept:
    """What a layer's backward pass reads: its input, the middle of its residual stream, norms, attention, ReLU."""

    x: Tensor
    norm: tuple[Tensor, Tensor]
    middle: Tensor
    middle_norm: tuple[Tensor, Tensor]
    hidden: Tensor
    attention: list[_KeptAttention]


_KeptAttention = tuple[Tensor, Tensor, Tensor, Tensor | None]


def _layer_forward(
    layer: Layer, x: Tensor, index: int, work: _Work, space: Workspace, slot: int, fresh: bool
) -> tuple[Tensor, _Kept]:
    """One layer over packed x (T,D); its output in new memory where `fresh`."""
    normed, *norm = _normed(layer.self_attn_layer_norm, x)
    mixed, attention = _attend(layer.self_attn, normed, index, work, space, slot)
    middle = torch.add(x, layer.self_attn.out_proj.bias, out=space.take("middle", slot, x.shape, x.dtype))
    middle.addmm_(mixed, layer.self_attn.out_proj.weight.t())
    normed, *middle_norm = _normed(layer.final_layer_norm, middle)
    hidden = _linear(layer.fc1, normed, space, "hidden", slot).relu_()
    # two inputs of a layer are alive at once, also where nothing is kept
    out = torch.empty_like(x) if fresh else space.take("x", index if slot else index % 2, x.shape, x.dtype)
    out = torch.add(middle, layer.fc2.bias, out=out).addmm_(hidden, layer.fc2.weight.t())
    return out, _Kept(x, (norm[0], norm[1]), middle, (middle_norm[0], middle_norm[1]), hidden, attention)


def _layer_backward(
    layer: Layer, kept: _Kept, dx: Tensor, by_prefix: Tensor, work: _Work, space: Workspace, first: bool
) -> Tensor:
    """Gradient of a layer's input (T,D), of the trained rows (B,D) only in the `first`; prefixes' are added."""
    attention = layer.self_attn
    hidden = torch.mm(dx, layer.fc2.weight, out=space.take("dhidden", 0, kept.hidden.shape, dx.dtype))
    torch.ops.aten.threshold_backward.grad_input(hidden, kept.hidden, 0, grad_input=hidden)
    normed = torch.mm(hidden, layer.fc1.weight, out=space.take("dnormed", 0, dx.shape, dx.dtype))
    middle = _norm_backward(layer.final_layer_norm, normed, kept.middle, kept.middle_norm).add_(dx)
    mixed = torch.mm(middle, attention.out_proj.weight, out=space.take("dmixed", 0, dx.shape, dx.dtype))
    dq, dk, dv = _attend_backward(attention.heads, kept.attention, mixed, by_prefix, work, space)
    x, (mean, rstd) = kept.x, kept.norm
    if first:
        places = work.trained_places
        dq, dk, dv, middle, x, mean, rstd = (t[places] for t in (dq, dk, dv, middle, x, mean, rstd))
    normed = torch.mm(dq, attention.q_proj.weight, out=space.take("dnormed", 0, dq.shape, dq.dtype))
    normed.addmm_(dk, attention.k_proj.weight).addmm_(dv, attention.v_proj.weight)
    return _norm_backward(layer.self_attn_layer_norm, normed, x, (mean, rstd)).add_(middle)


def _attend(
    attention: Attention, normed: Tensor, index: int, work: _Work, space: Workspace, slot: int
) -> tuple[Tensor, list[_KeptAttention]]:
    """What attention mixes of packed rows (T,D), and queries, keys, values and weights, if kept, of each group."""
    heads, length = attention.heads, work.prefixes.length
    q, k, v = (
        _linear(linear, normed, space, name, 0)
        for name, linear in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj))
    )
    mixed = space.take("mixed", 0, normed.shape, normed.dtype)
    kept: list[_KeptAttention] = []
    for g, group in enumerate(work.packing.groups):
        b, n, m, d = group.count, group.width, group.keys, normed.shape[1] // heads

        def take(name: str, rows: int, width: int, g: int = g, b: int = b) -> Tensor:
            return space.take(f"{name}{g}", slot, (b, heads, rows, width), normed.dtype)

        queries, keys, values = take("q", n, d), take("k", m, d), take("v", m, d)
        queries.copy_(group.of(q, heads))
        for kind, (whole, own) in enumerate(((keys, k), (values, v))):
            whole[:, :, :length] = work.prefixes.of_rows(index, kind, group.rows)
            whole[:, :, length : length + n] = group.of(own, heads)
            whole[:, :, length + n :] = 0
        queries, keys, values = (t.flatten(0, 1) for t in (queries, keys, values))
        out = space.take("out", 0, queries.shape, q.dtype)
        weights = take("w", n, m).flatten(0, 1) if n <= KEPT_WIDTH else None
        for piece, mask in _pieces(group, heads):
            weighed = _passing(space, "weights", queries[piece], m) if weights is None else weights
            _weigh(weighed, queries[piece], keys[piece], mask)
            torch.bmm(weighed, values[piece], out=out[piece])
        group.of(mixed, heads).copy_(out.view(b, heads, n, d))
        kept.append((queries, keys, values, weights))
    return mixed, kept


def _pieces(group: Group, heads: int) -> Iterator[tuple[slice, Tensor]]:
    """Which of the b*H pairs of utterance and head are weighed at once, and the mask that they add: all, or a few."""
    if group.width <= KEPT_WIDTH:
        yield slice(None), group.mask
        return
    step = max(1, SCORES_A_PIECE // (group.width * group.keys))
    for utterance in range(group.count):
        mask = group.mask[utterance if len(group.mask) > 1 else 0]
        for head in range(0, heads, step):
            first = utterance * heads
            yield slice(first + head, first + min(head + step, heads)), mask


def _passing(space: Workspace, name: str, queries: Tensor, keys: int) -> Tensor:
    """Room for what is not kept of a piece (pairs, n, keys), the same for all layers, groups and pieces."""
    return space.take(f"passing {name}", 0, (*queries.shape[:2], keys), queries.dtype)


def _weigh(weights: Tensor, queries: Tensor, keys: Tensor, mask: Tensor) -> None:
    """Fill the attention weights (pairs,n,m) of queries (pairs,n,d) for keys (pairs,m,d)."""
    shaped = weights if mask.ndim == 3 or len(mask) == 1 else weights.unflatten(0, (len(mask), -1))
    shaped.copy_(mask if shaped.ndim == mask.ndim else mask[0])
    weights.baddbmm_(queries, keys.transpose(1, 2), alpha=queries.shape[2] ** -0.5)
    torch.softmax(weights, -1, out=weights)


def _attend_backward(
    heads: int,
    kept: list[_KeptAttention],
    gradient: Tensor,
    by_prefix: Tensor,
    work: _Work,
    space: Workspace,
) -> list[Tensor]:
    """Gradients of q, k and v (T,D); those of prefix keys and values are added to `by_prefix` (2,K,H,P,head_dim)."""
    length = work.prefixes.length
    found = [space.take(name, 0, gradient.shape, gradient.dtype) for name in ("dq", "dk", "dv")]
    for group, (queries, keys, values, weights) in zip(work.packing.groups, kept, strict=True):
        b, n, d = group.count, group.width, queries.shape[2]

        def take(name: str, like: Tensor) -> Tensor:
            return space.take(name, 0, like.shape, gradient.dtype)

        out, dq = take("dout", queries), take("dqueries", queries)
        dkeys, dvalues = take("dkeys", keys), take("dvalues", values)
        out.view(b, heads, n, d).copy_(group.of(gradient, heads))
        for piece, mask in _pieces(group, heads):
            weighed = weights
            if weighed is None:
                weighed = _passing(space, "weights", queries[piece], keys.shape[1])
                _weigh(weighed, queries[piece], keys[piece], mask)
            scores = _passing(space, "scores", queries[piece], keys.shape[1])
            torch.bmm(out[piece], values[piece].transpose(1, 2), out=scores)
            torch.ops.aten._softmax_backward_data.out(scores, weighed, -1, scores.dtype, grad_input=scores)
            torch.bmm(scores, keys[piece], out=dq[piece])
            torch.bmm(scores.transpose(1, 2), queries[piece], out=dkeys[piece])
            torch.bmm(weighed.transpose(1, 2), out[piece], out=dvalues[piece])
        group.of(found[0], heads).copy_(dq.view(b, heads, n, d)).mul_(d**-0.5)
        for kind, (own, scale) in enumerate(((dkeys, d**-0.5), (dvalues, 1.0))):
            own = own.view(b, heads, -1, d)
            _add_rows(by_prefix[kind], own[:, :, :length], scale, work.prefixes, group)
            place = group.of(found[1 + kind], heads).copy_(own[:, :, length : length + n])
            if scale != 1:
                place.mul_(scale)
    return found


def _add_rows(total: Tensor, gradient: Tensor, scale: float, prefixes: PrefixBatch, group: Group) -> None:
    """Add an utterance's gradient (b,H,P,head_dim) to that of its prompt, in `total` (K,H,P,head_dim) of fp32."""
    if len(total) == 1:
        total[0].add_(gradient.sum(0, dtype=torch.float32), alpha=scale)
    else:
        total.index_add_(0, prefixes.rows[group.rows], gradient.float(), alpha=scale)


def _linear(linear: nn.Linear, x: Tensor, space: Workspace, name: str, slot: int) -> Tensor:
    """A linear layer of (T,D) into a buffer."""
    out = space.take(name, slot, (len(x), linear.out_features), x.dtype)
    return torch.addmm(linear.bias, x, linear.weight.t(), out=out)


def _normed(norm: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normed rows, their means and inverse deviations."""
    return torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _norm_backward(norm: nn.LayerNorm, gradient: Tensor, x: Tensor, stats: tuple[Tensor, Tensor]) -> Tensor:
    """Gradient of a norm's input."""
    shape, wanted = norm.normalized_shape, [True, False, False]
    found = torch.ops.aten.native_layer_norm_backward(
        gradient, x, shape, stats[0], stats[1], norm.weight, norm.bias, wanted
    )
    return cast(Tensor, found[0])


def last_layer(
    layer: Layer,
    states: Tensor,
    packing: Packing,
    prefixes: PrefixBatch,
    rows: Tensor,
    rest: PackedRest | None,
) -> Tensor:
    """The last layer at `rows` (B,Q) of packed states (T,D): (B,Q,D).

    A query's projection is sent through the key projection's transpose and compared with the normed rows themselves,
    and what it mixes of them goes through the value projection: both cost Q rows an utterance instead of all.
    `rest` takes the place of what the layer does behind its attention.
    """
    attention, (count, wanted) = layer.self_attn, rows.shape
    heads, width = attention.heads, states.shape[1]
    places = (packing.starts[:, None] + rows).flatten()
    normed = layer.self_attn_layer_norm(states)
    q = (
        attention.q_proj(normed[places]).view(count, wanted, heads, -1).transpose(1, 2)
        * (width // heads) ** -0.5
    )
    by_key = attention.k_proj.weight.view(heads, -1, width)
    through = torch.einsum("bhqd,hdw->bhqw", q, by_key).flatten(1, 2)
    offset = torch.einsum("bhqd,hd->bhq", q, attention.k_proj.bias.view(heads, -1)).flatten(1, 2)
    keys, values = prefixes.of_layer(-1)
    in_front = (q @ keys.transpose(2, 3)).flatten(1, 2)
    visible = prefixes.visible()
    if visible is not None:
        in_front = in_front.masked_fill(~visible[:, None], float("-inf"))
    parts: list[tuple[Tensor, Tensor]] = []
    for group in packing.groups:
        own = group.rows_of(normed)
        late = torch.arange(group.width) > rows[group.rows].repeat(1, heads)[..., None]
        scores = (through[group.rows] @ own.transpose(1, 2) + offset[group.rows][..., None]).masked_fill(
            late, float("-inf")
        )
        weights = torch.cat([in_front[group.rows], scores], 2).softmax(-1)
        front, behind = weights.split([prefixes.length, group.width], 2)
        parts.append((front, torch.cat([behind @ own, behind.sum(2, keepdim=True)], 2)))
    back = packing.order()
    front, mixed = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    mixed = mixed.view(count, heads, wanted, -1)
    by_value = torch.cat(
        [attention.v_proj.weight.view(heads, -1, width), attention.v_proj.bias.view(heads, -1, 1)], 2
    )
    out = torch.einsum("bhqw,hdw->bqhd", mixed, by_value).flatten(2)
    out = out + (front.view(count, heads, wanted, -1) @ values).transpose(1, 2).flatten(2)
    if rest is not None:
        return rest(out.flatten(0, 1), states[places]).view(count, wanted, width)
    x = states[places].view(count, wanted, width) + attention.out_proj(out)
    hidden = functional.relu(layer.fc1(layer.final_layer_norm(x)))
    result: Tensor = x + layer.fc2(hidden)
    return result
