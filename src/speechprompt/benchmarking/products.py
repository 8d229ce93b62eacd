"""The matrix products that each model's answer needs, by formula: what the bound counts.

Norms, softmaxes, Fourier transforms and depthwise convolutions are left out, so that the bound errs on the hard side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products (rows, inner) x (inner, columns), `count` times; a fraction of a count is a part of the work."""

    rows: int
    inner: int
    columns: int
    count: float = 1.0
    batch: int = 1

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.rows * self.inner * self.columns * self.batch * self.count

    def times(self, count: float) -> Product:
        """The same product so many times as often."""
        return replace(self, count=self.count * count)

    def input_gradient(self) -> Product:
        """The product that carries a gradient to its left side."""
        return replace(self, inner=self.columns, columns=self.inner)


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """Sizes of a GSLM-shaped unit LM."""

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int


def operations_of(products: Iterable[Product]) -> float:
    """Operations of all products together."""
    return sum(product.operations for product in products)


def prediction_products(
    sizes: DecoderSizes, lengths: Sequence[int], prompt_length: int, labels: int, dense: bool = False
) -> list[Product]:
    """What labels of utterances of so many units need: one row more in front and one behind, the separator.

    Every row passes all layers but the last, which needs everybody's keys and values and only the separator's
    queries and feed-forward. A row looks at the prefix and at itself and earlier rows; with `dense` at all rows, which
    is what kernels compute.
    """
    return [*_frozen(sizes, lengths, labels), *_attention(sizes, lengths, prompt_length, dense),
            _verbalizer(sizes, lengths, labels)]  # fmt: skip


def training_products(
    sizes: DecoderSizes, lengths: Sequence[int], prompt_length: int, labels: int, dense: bool = False
) -> list[Product]:
    """What one step needs: the above, gradients to all activations, and to the weights of the verbalizer only."""
    frozen = _frozen(sizes, lengths, labels)
    attention = _attention(sizes, lengths, prompt_length, dense)
    verbalizer = _verbalizer(sizes, lengths, labels)
    return [
        *frozen,
        *(product.input_gradient() for product in frozen),
        *(product.times(3) for product in attention),  # both sides of both products have gradients
        verbalizer.times(3),
    ]


def _frozen(sizes: DecoderSizes, lengths: Sequence[int], labels: int) -> list[Product]:
    width, inner = sizes.width, sizes.inner
    all_rows, separators = sum(lengths) + 2 * len(lengths), len(lengths)
    before = sizes.layers - 1
    return [
        Product(all_rows, width, width, 4 * before + 2),
        Product(all_rows, width, inner, before),
        Product(all_rows, inner, width, before),
        Product(separators, width, width, 2),
        Product(separators, width, inner),
        Product(separators, inner, width),
        Product(separators, width, sizes.vocabulary),
    ]


def _verbalizer(sizes: DecoderSizes, lengths: Sequence[int], labels: int) -> Product:
    return Product(len(lengths), sizes.vocabulary, labels)


def _attention(sizes: DecoderSizes, lengths: Sequence[int], prompt_length: int, dense: bool) -> list[Product]:
    """Similarities and mixtures; shapes of the mean length, counted so that the sum over utterances is exact."""
    head, batch = sizes.width // sizes.heads, sizes.heads * len(lengths)
    rows = [length + 2 for length in lengths]
    mean = round(sum(rows) / len(rows))
    seen = prompt_length + mean
    pairs = sum(n * (prompt_length + n) if dense else n * prompt_length + n * (n + 1) // 2 for n in rows)
    share = pairs / (len(rows) * mean * seen) * (sizes.layers - 1)
    last = sum(prompt_length + n for n in rows) / (len(rows) * seen)
    return [
        Product(mean, head, seen, share, batch),
        Product(mean, seen, head, share, batch),
        Product(1, head, seen, last, batch),
        Product(1, seen, head, last, batch),
    ]


@dataclass(frozen=True, slots=True)
class HubertSizes:
    """Sizes of a HuBERT: channels, kernels and strides of its convolutions, then the transformer's."""

    channels: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    layers: int
    width: int
    heads: int
    inner: int
    position_kernel: int = 128
    position_groups: int = 16


def hubert_products(sizes: HubertSizes, samples: Sequence[int]) -> list[Product]:
    """What the features of clips of so many samples need; a convolution is a product of its windows and its kernel."""
    found: list[Product] = []
    group = sizes.width // sizes.position_groups
    for length in samples:
        incoming = 1
        for channels, kernel, stride in zip(sizes.channels, sizes.kernels, sizes.strides, strict=True):
            length = (length - kernel) // stride + 1
            found.append(Product(length, incoming * kernel, channels))
            incoming = channels
        found.append(Product(length, incoming, sizes.width))
        # the even kernel gives one frame more than is kept
        found.append(Product(length, group * sizes.position_kernel, group, batch=sizes.position_groups))
        found += _bidirectional(length, sizes.layers, sizes.width, sizes.heads, sizes.inner)
    return found


def mel_encoder_products(
    frames: Sequence[int], mels: int, layers: int, width: int, heads: int, inner: int, centres: int
) -> list[Product]:
    """What a mel encoder and its code book need for clips of so many frames."""
    found: list[Product] = []
    for length in frames:
        found += [Product(length, 2 * mels, width), Product(length, width, centres)]
        found += _bidirectional(length, layers, width, heads, inner)
    return found


def _bidirectional(length: int, layers: int, width: int, heads: int, inner: int) -> list[Product]:
    head = width // heads
    return [
        Product(length, width, width, 4 * layers),
        Product(length, width, inner, layers),
        Product(length, inner, width, layers),
        Product(length, head, length, layers, heads),
        Product(length, length, head, layers, heads),
    ]
