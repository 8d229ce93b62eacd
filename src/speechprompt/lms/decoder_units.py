"""What the unit LMs over our own decoder share (GSLM and pGSLM): special rows, positions, prefixes, states."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Self, cast

import torch
from torch import Tensor

from speechprompt.errors import UnitsError
from speechprompt.lms.batch import UnitBatch
from speechprompt.lms.frozen import run_frozen, runs_frozen
from speechprompt.lms.prefix import PrefixBatch, attention_mask, stack_prefixes
from speechprompt.lms.transformer import Attention, Layer, unit_means


class DecoderUnitLM:
    """Rows `start u1..un <separator> answers`, positions pad+1, pad+2, ... whatever the prefix.

    `unit_table` (unit_count,) holds the LM id of each tokenizer unit, `symbols` what the fingerprint covers
    besides the weights. A subclass says what heads there are and what else enters a row (`other_streams`).
    """

    def __init__(
        self, model: Any, unit_table: Tensor, symbols: Iterable[str], fingerprint: str | None = None
    ) -> None:
        self.model = model.requires_grad_(False)
        self.model.train(False)
        config = model.config
        self.layers: int = config.num_hidden_layers
        self.width: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not divide into {self.heads} heads")
        self.kv_heads, self.head_dim = self.heads, self.width // self.heads
        self.vocabulary_size: int = config.vocab_size
        self.max_units: int = config.max_units
        self.start_id = self.end_id = int(config.eos_token_id)
        self.separator_id = int(config.bos_token_id)
        self.embedding_scale: float = model.embed_scale
        self._first_position = int(config.pad_token_id) + 1
        self._ids, self.unit_count = unit_table, len(unit_table)
        self._symbols, self._fingerprint = list(symbols), fingerprint

    @property
    def fingerprint(self) -> str:
        """Hash of dictionary and weights; taken once, before any change of dtype."""
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self.model.state_dict().items(), self._symbols)
        return self._fingerprint

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return cast(Tensor, self.model.embed_tokens.weight).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are computed in."""
        return cast(Tensor, self.model.embed_tokens.weight).dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same LM, moved in place to a device and a precision; the fingerprint stays."""
        _ = self.fingerprint
        self.model.to(device=device, dtype=dtype)
        return self

    def lm_ids(self, unit_ids: Tensor) -> Tensor:
        """Dictionary ids of tokenizer units; UnitsError for a unit outside 0..unit_count-1."""
        if unit_ids.numel() and (int(unit_ids.min()) < 0 or int(unit_ids.max()) >= self.unit_count):
            raise UnitsError(
                f"unit {int(unit_ids.max())} is not among the {self.unit_count} units of this LM; "
                "was the corpus encoded with another tokenizer?"
            )
        return self._ids.to(unit_ids.device)[unit_ids]

    def embedding(self, lm_ids: Tensor) -> Tensor:
        """Unscaled embeddings (..., D) in fp32."""
        return cast(Tensor, self.model.embed_tokens.weight)[lm_ids].float()

    def project_prefix(self, keys: Tensor, values: Tensor) -> Tensor:
        """Raw vectors (L,P,D) through each layer's key and value projections: (L,2,kv_heads,P,head_dim)."""
        projected = []
        for attention, k, v in zip(self._attentions(), keys, values, strict=True):
            rows = (attention.k_proj(k.to(self.dtype)), attention.v_proj(v.to(self.dtype)))
            projected.append(torch.stack([attention.split(row[None])[0] for row in rows]))
        return torch.stack(projected)

    def input_prefix(self, vectors: Tensor) -> Tensor:
        """The keys and values that rows of input vectors (P,D), without scale or position, leave in each layer.

        Under a causal mask those rows see only themselves, so they are the same for every utterance.
        """
        memory = _Recorder()
        for _ in self.model.decoder.states(vectors[None].to(self.dtype), memory):
            pass
        return torch.stack([torch.stack([k[0], v[0]]) for k, v in memory.seen])

    def unit_key_values(self, batch: UnitBatch) -> Tensor:
        """Keys and values of each layer at each unit, (L,2,B,kv_heads,N,head_dim)."""
        memory = _Recorder()
        for _ in self.model.decoder.states(self.embed(batch, None, None), memory):
            pass
        return torch.stack([torch.stack(pair) for pair in memory.seen])[..., 1:, :]

    def _attentions(self) -> Iterator[Attention]:
        for layer in self.model.decoder.layers:
            yield cast(Attention, layer.self_attn)

    def other_streams(self, batch: UnitBatch, width: int) -> Tensor | None:
        """What enters rows (B,width,D) besides units and positions; None for nothing."""
        return None

    def embed(self, batch: UnitBatch, separators: Tensor | None, shifts: Tensor | None) -> Tensor:
        """First-layer input (B, 1+N[+1+J], D)."""
        rows, width = batch.unit_ids.shape
        if width > self.max_units:
            raise UnitsError(f"an utterance of {width} units is over this LM's limit of {self.max_units}")
        columns = torch.arange(width, device=self.device)
        units = torch.where(columns < batch.lengths[:, None], batch.unit_ids, 0)
        ids = self.lm_ids(units)
        ids = torch.cat([ids.new_full((rows, 1), self.start_id), ids], 1)
        if separators is not None:
            ids = self._append_answers(ids, batch)
        x = self.model.embed_tokens(ids)
        if separators is not None:
            placed = (ids == self.separator_id) & (torch.arange(ids.shape[1], device=self.device) > 0)
            x = torch.where(placed[..., None], separators[:, None].to(x.dtype), x)
        positions = torch.arange(ids.shape[1], device=self.device) + self._first_position
        if shifts is not None:
            positions = positions + shifts[:, None]
        x = x * self.model.embed_scale
        others = self.other_streams(batch, ids.shape[1])
        if others is not None:
            x = x + others
        return x + self.model.positions(positions, x)

    def _append_answers(self, ids: Tensor, batch: UnitBatch) -> Tensor:
        tail = ids.new_full((len(ids), 1), self.separator_id)
        if batch.answers is not None and batch.answers.shape[1]:
            tail = torch.cat([tail, batch.answers], 1)
        ids = torch.cat([ids, torch.full_like(tail, self.start_id)], 1)
        places = batch.lengths[:, None] + 1 + torch.arange(tail.shape[1], device=self.device)
        return ids.scatter(1, places, tail)

    def forward(
        self, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor, before: int = 0
    ) -> Tensor:
        """Hidden states (B, before+1+J, D): the rows before the separator, it, and each answer.

        Only these rows leave the last layer. UnitsError when an utterance is longer than `max_units`.
        """
        return self._run(batch, prefixes, separators, before, with_mean=False)[0]

    def forward_with_mean(
        self, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor, before: int = 0
    ) -> tuple[Tensor, Tensor]:
        """`forward`, and the mean (B,D) in fp32 of each utterance's units as the last layer gets them, each normed."""
        hidden, mean = self._run(batch, prefixes, separators, before, with_mean=True)
        return hidden, cast(Tensor, mean)

    def _run(
        self,
        batch: UnitBatch,
        prefixes: PrefixBatch | None,
        separators: Tensor,
        before: int,
        with_mean: bool,
    ) -> tuple[Tensor, Tensor | None]:
        answers = 0 if batch.answers is None else batch.answers.shape[1]
        rows = batch.lengths[:, None] + 1 + torch.arange(-before, 1 + answers, device=self.device)
        decoder = self.model.decoder
        if runs_frozen(decoder):
            return self._run_frozen(batch, prefixes or self._no_prefix(batch), separators, rows, with_mean)
        x = self.embed(batch, separators, None if prefixes is None else prefixes.row_shifts())
        width = x.shape[1]
        mask = attention_mask(torch.arange(width, device=self.device), width, prefixes)
        x = decoder.ahead_of_last(x, prefixes, mask)
        hidden = decoder.last(x, prefixes, attention_mask(rows, width, prefixes), rows)
        return hidden, unit_means(x, batch.lengths) if with_mean else None

    def _no_prefix(self, batch: UnitBatch) -> PrefixBatch:
        """The empty prefix of a bare LM."""
        empty = torch.empty(self.layers, 2, self.heads, 0, self.head_dim, dtype=self.dtype)
        return stack_prefixes([empty], torch.zeros_like(batch.lengths))

    def _run_frozen(
        self, batch: UnitBatch, prefixes: PrefixBatch, separators: Tensor, rows: Tensor, with_mean: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`_run` without gradients for what is frozen (frozen.py)."""
        with torch.no_grad():
            x = self.embed(batch, separators, prefixes.row_shifts())
        answers = 0 if batch.answers is None else batch.answers.shape[1]
        at = batch.lengths + 1
        trained = separators.to(x.dtype) * self.model.embed_scale
        return run_frozen(self.model.decoder, x, at + 1 + answers, prefixes, rows, trained, at, with_mean)

    def states(
        self, batch: UnitBatch, prefixes: PrefixBatch | None, separators: Tensor | None
    ) -> list[Tensor]:
        """Every layer's input, the last layer's output and its final norm: L+2 of (B, 1+N[+1+J], D)."""
        x = self.embed(batch, separators, None if prefixes is None else prefixes.row_shifts())
        mask = attention_mask(torch.arange(x.shape[1], device=self.device), x.shape[1], prefixes)
        states = list(self.model.decoder.states(x, prefixes, mask))
        return [*states, self.model.decoder.layer_norm(states[-1])]

    def unit_states(self, batch: UnitBatch) -> Tensor:
        """Last hidden states (B,N,D) of units without a prompt."""
        return self.model.decoder(self.embed(batch, None, None))[:, 1:]

    def key_value_inputs(self, batch: UnitBatch) -> Tensor:
        """What each layer's key and value projections read at each unit, (L,B,N,D)."""
        layers = cast(list[Layer], self.model.decoder.layers)
        states = self.states(batch, None, None)[: len(layers)]
        normed = [layer.self_attn_layer_norm(x) for layer, x in zip(layers, states, strict=True)]
        return torch.stack(normed)[:, :, 1:]


class _Recorder:
    """A memory that adds nothing and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Note keys and values of a layer."""
        self.seen.append((keys, values))
        return keys, values


def weights_fingerprint(tensors: Iterable[tuple[str, Tensor]], symbols: Iterable[str]) -> str:
    """sha256 (first 32 hex digits) of names, shapes and fp32 values of tensors, and of the dictionary."""
    digest = hashlib.sha256("\n".join(symbols).encode())
    for name, tensor in sorted(tensors):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
