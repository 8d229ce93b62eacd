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

    Every row passes all layers but the last, which works for the separator only: its query is sent back through the key
    projection and compared with the rows themselves, and so are values. A row looks at the prefix and at itself and
    earlier rows; with `dense` at all rows, which is what kernels compute.
    """
    projections, middle = _earlier_layers(sizes, lengths)
    return [
        *(product.times(sizes.layers - 1) for product in (projections, *middle)),
        *_attention(sizes, lengths, prompt_length, dense),
        *_last_layer(sizes, lengths),
        *_last_attention(sizes, lengths, prompt_length),
        Product(len(lengths), sizes.vocabulary, labels),
    ]


def training_products(
    sizes: DecoderSizes, lengths: Sequence[int], prompt_length: int, labels: int, dense: bool = False
) -> list[Product]:
    """What one step needs: the above, gradients to activations, and to the weights of the verbalizer only.

    Gradients end at the prefixes and at the separator: the first layer's projections carry them for its row only.
    """
    projections, middle = _earlier_layers(sizes, lengths)
    both_sides = [
        *_attention(sizes, lengths, prompt_length, dense),
        *_last_attention(sizes, lengths, prompt_length),
    ]
    return [
        *prediction_products(sizes, lengths, prompt_length, labels, dense),
        *(product.input_gradient().times(sizes.layers - 1) for product in middle),
        projections.input_gradient().times((sizes.layers - 2) * 3 / 4),
        Product(len(lengths), sizes.width, sizes.width, 3),
        projections.input_gradient().times((sizes.layers - 1) / 4),
        *(product.input_gradient() for product in _last_layer(sizes, lengths)),
        *(product.times(2) for product in both_sides),
        Product(len(lengths), sizes.vocabulary, labels, 2),
    ]


def _earlier_layers(sizes: DecoderSizes, lengths: Sequence[int]) -> tuple[Product, tuple[Product, Product]]:
    """Query, key, value and output projections of a layer, and its feed-forward part."""
    rows, width = sum(lengths) + 2 * len(lengths), sizes.width
    forward = (Product(rows, width, sizes.inner), Product(rows, sizes.inner, width))
    return Product(rows, width, width, 4), forward


def _last_layer(sizes: DecoderSizes, lengths: Sequence[int]) -> list[Product]:
    """The last layer's weights and the output matrix, at separators; a bias is a column of its projection."""
    rows, width, head = len(lengths), sizes.width, sizes.width // sizes.heads
    return [
        Product(rows, width, width, 2),
        Product(rows, head, width + 1, batch=sizes.heads),
        Product(rows, width + 1, head, batch=sizes.heads),
        Product(rows, width, sizes.inner),
        Product(rows, sizes.inner, width),
        Product(rows, width, sizes.vocabulary),
    ]


def _attention(sizes: DecoderSizes, lengths: Sequence[int], prompt_length: int, dense: bool) -> list[Product]:
    """Similarities and mixtures before the last layer; shapes of the mean length, counted so that the sum is exact."""
    head, batch = sizes.width // sizes.heads, sizes.heads * len(lengths)
    rows = [length + 2 for length in lengths]
    mean = round(sum(rows) / len(rows))
    seen = prompt_length + mean
    pairs = sum(n * (prompt_length + n) if dense else n * prompt_length + n * (n + 1) // 2 for n in rows)
    share = pairs / (len(rows) * mean * seen) * (sizes.layers - 1)
    return [Product(mean, head, seen, share, batch), Product(mean, seen, head, share, batch)]


def _last_attention(sizes: DecoderSizes, lengths: Sequence[int], prompt_length: int) -> list[Product]:
    """What a separator's heads compare with and mix: the prefix, and rows of the whole width."""
    head, count, heads = sizes.width // sizes.heads, len(lengths), sizes.heads
    mean = round(sum(lengths) / count) + 2
    share = (sum(lengths) + 2 * count) / (count * mean)
    return [
        Product(1, head, prompt_length, batch=heads * count),
        Product(1, prompt_length, head, batch=heads * count),
        Product(heads, sizes.width, mean, share, count),
        Product(heads, mean, sizes.width, share, count),
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
