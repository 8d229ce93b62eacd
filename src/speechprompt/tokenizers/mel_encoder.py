"""Log-mel frames and a small transformer over them: what the `tiny` tokenizer hears and how it thinks.

Every operation looks at one frame, or at the frames of its own clip under a mask, so a clip's hidden states
do not depend on the padding around it. Knows neither units nor training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

SAMPLE_RATE = 16_000
FRAME_RATE = 50.0
FRAME_SAMPLES = 320  # from one frame to the next
WINDOW_SAMPLES = 560  # what one frame sees: two 25 ms windows, 10 ms apart
_STEP, _WINDOW, _FFT = 160, 400, 512
_FLOOR = 1e-5  # 50 dB under the clip's mean power
_SILENCE = 1e-8  # mean power under which a clip counts as digital silence
# not cuDNN's: it plans anew, for hundreds of milliseconds, at every shape of a batch
_GPU_ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, slots=True)
class MelEncoderConfig:
    """Sizes of an encoder: `inner` is the feed-forward width, `kernel` the odd width of the convolutions."""

    mels: int = 80
    width: int = 160
    heads: int = 5
    inner: int = 640
    kernel: int = 15
    layers: int = 3


def frame_count(samples: int) -> int:
    """How many whole frames fit in `samples` samples."""
    return max(0, (samples - _WINDOW + _STEP) // FRAME_SAMPLES)


class MelFrames(nn.Module):
    """Waveform -> log-mel frames at 50 Hz, relative to the clip's own loudness.

    Two 10 ms steps are stacked into one frame. No weights; the same sound at another gain gives the same
    frames down to 50 dB under its mean.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(mels), persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B,S) and true lengths (B,) -> frames (B,T,2*mels), zero in the padding, and frame counts (B,)."""
        steps = waveforms.unfold(1, _WINDOW, _STEP) * self.window
        power = power_spectrum(steps, _FFT) @ self.filters
        counts = (lengths - _WINDOW + _STEP) // FRAME_SAMPLES
        power = power[:, : int(counts.max()) * 2].unflatten(1, (-1, 2))
        mask = frame_mask(counts, power.shape[1])[..., None, None]
        loudness = (power * mask).sum((1, 2, 3)) / (counts * 2 * power.shape[-1])
        scaled = power / loudness.clamp_min(_SILENCE)[:, None, None, None]
        return (torch.log(scaled + _FLOOR) * mask).flatten(2), counts


def power_spectrum(x: Tensor, length: int) -> Tensor:
    """Squared magnitudes (..., length // 2 + 1) of the transform of x (..., S), zero-padded to `length`."""
    spectrum = torch.fft.rfft(x, length)
    return torch.addcmul(
        spectrum.real.square(), spectrum.imag, spectrum.imag
    )  # abs() takes a root for nothing


def mel_filters(mels: int) -> Tensor:
    """Triangular filters on the mel scale, 20 Hz to 8 kHz, (bins, mels), each summing to one."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = torch.linspace(mel(20), mel(SAMPLE_RATE / 2), mels + 2, dtype=torch.float64)
    edges = 700 * (10 ** (edges / 2595) - 1)
    bins = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / _FFT
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    # the lowest filters are narrower than a bin: widen them to one bin, or they would be empty
    filters = torch.minimum(rising, falling).clamp_min(0)
    nearest = functional.one_hot((bins[:, None] - edges[1:-1]).abs().argmin(0), len(bins)).T
    filters = torch.where(filters.sum(0) > 0, filters, nearest.double())
    return (filters / filters.sum(0)).float()


def frame_mask(counts: Tensor, width: int) -> Tensor:
    """Which of `width` frames are real, (B,T) bool."""
    return torch.arange(width, device=counts.device) < counts[:, None]


class EncoderLayer(nn.Module):
    """Depthwise convolution, self-attention and feed-forward, each pre-norm and residual."""

    def __init__(self, config: MelEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.convolution_norm, self.attention_norm, self.forward_norm = (
            nn.LayerNorm(width) for _ in range(3)
        )
        self.convolution = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.inner = nn.Linear(width, config.inner)
        self.outer = nn.Linear(config.inner, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B,T,D) -> (B,T,D); `mask` (B,T) is true on real frames, the others must not matter."""
        local = (self.convolution_norm(x) * mask[..., None]).transpose(1, 2)
        if local.is_cuda:
            local = local.contiguous()  # else cuDNN takes it, in tf32 and with a new plan for every width
        x = x + functional.gelu(self.convolution(local).transpose(1, 2))
        q, k, v = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = _attended(q, k, v, mask)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        hidden: Tensor = x + self.outer(functional.gelu(self.inner(self.forward_norm(x))))
        return hidden


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention (B,H,T,head width) to the frames that `mask` (B,T) says are real."""
    keys = mask[:, None, None]
    if q.is_cuda:
        with sdpa_kernel(_GPU_ATTENTION):
            return functional.scaled_dot_product_attention(q, k, v, keys)
    if q.dtype == torch.float32:
        return functional.scaled_dot_product_attention(q, k, v, keys)
    # written out: the fused kernel takes five times as long in bf16 on a CPU (146 ms for 64 x 100 frames)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~keys, -torch.inf).softmax(-1).to(v.dtype) @ v


class MelEncoder(nn.Module):
    """Frames -> hidden states. `mean` and `deviation` (2*mels,) are those of the speech it was trained on."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: MelEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(2 * config.mels))
        self.register_buffer("deviation", torch.ones(2 * config.mels))
        self.project = nn.Linear(2 * config.mels, config.width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames (B,T,2*mels) with zero mean and unit deviation per channel."""
        return (frames - self.mean) / self.deviation

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """The last layer's output (B,T,D) for frames (B,T,2*mels) that `mask` (B,T) says are real."""
        return self.states(self.project(self.normalise(frames)), mask)[-1]

    def states(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        """The output of every layer, (B,T,D) each, for projected frames `x` (B,T,D)."""
        states = []
        for layer in self.layers:
            x = layer(x, mask)
            states.append(x)
        return states


def unit_features(state: Tensor) -> Tensor:
    """What k-means reads of a layer's output (..., D): each frame with zero mean and unit deviation, fp32."""
    return functional.layer_norm(state.float(), state.shape[-1:])


def smoothed(states: Tensor, counts: Tensor) -> Tensor:
    """The mean of each frame and its two neighbours; at a clip's ends a frame stands in for the missing one.

    (B,T,D) of clips with `counts` (B,) frames; what lies behind a clip's end does not matter and comes back as
    anything.
    """
    before = torch.cat([states[:, :1], states[:, :-1]], 1)
    after = torch.cat([states[:, 1:], states[:, -1:]], 1)
    ends = torch.arange(states.shape[1], device=states.device) == counts[:, None] - 1
    after = torch.where(ends[..., None], states, after)
    return (before + states + after) / 3
