"""A long grouped convolution over time as products of spectra: HuBERT's positional convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


class SpectralConvolution:
    """Clips (T,D) -> (T,D) each: zero padding of half the taps on either side, the last frame of even taps dropped.

    Each clip is cut into blocks of twice the taps that overlap by all taps but one, so that no block hears
    another clip. Direct: 2 * taps * D^2 / groups operations a frame; here about a thirtieth, so one pass over the
    spectrum of the weights (8 * (taps + 1) * D^2 / groups bytes) is what a short clip costs. fp32 always.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int) -> None:
        """`weight` (D,D/groups,taps) and `bias` (D,) as of `torch.nn.Conv1d`."""
        width, inner, self._taps = weight.shape
        self._bias = None if bias is None else bias.detach().float()
        self._groups, self._length = groups, 2 * self._taps
        spectrum = torch.fft.rfft(weight.detach().float(), self._length).conj()
        # (groups, out, in, bins) -> (bins * groups, in, out)
        spectrum = spectrum.view(groups, width // groups, inner, -1).permute(3, 0, 2, 1)
        self._spectrum = spectrum.reshape(-1, inner, width // groups).resolve_conj().contiguous()

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Convolved clips, in fp32."""
        step = self._length - self._taps + 1
        blocks = [self._blocks(clip.float(), step) for clip in clips]
        found = self._correlated(torch.cat(blocks))[:, :step]
        if self._bias is not None:
            found = found + self._bias
        parts = found.split([len(block) for block in blocks])
        return [part.flatten(0, 1)[: len(clip)] for part, clip in zip(parts, clips, strict=True)]

    def _blocks(self, clip: Tensor, step: int) -> Tensor:
        """(T,D) -> overlapping stretches (M,length,D) of the padded clip."""
        before, count = self._taps // 2, -(-len(clip) // step)
        after = (count - 1) * step + self._length - before - len(clip)
        return functional.pad(clip, (0, 0, before, after)).unfold(0, self._length, step).transpose(1, 2)

    def _correlated(self, blocks: Tensor) -> Tensor:
        """Blocks (M,length,D), each correlated with the weight around a circle."""
        count, length, width = blocks.shape
        spectrum = torch.fft.rfft(blocks, dim=1).view(count, -1, self._groups, width // self._groups)
        products = torch.bmm(spectrum.permute(1, 2, 0, 3).flatten(0, 1), self._spectrum)
        products = products.view(-1, self._groups, count, width // self._groups).permute(2, 0, 1, 3)
        return torch.fft.irfft(products.flatten(2), length, dim=1)
