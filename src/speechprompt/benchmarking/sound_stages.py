"""From a file to units: decoding, resampling, HuBERT, k-means and deduplication."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprompt.benchmarking.case import BOUND, NAIVE, OURS, Case, Dtype
from speechprompt.benchmarking.clock import Form
from speechprompt.benchmarking.material import Settings, demo_clips
from speechprompt.benchmarking.products import HubertSizes, Product, hubert_products
from speechprompt.speech.audio import read_waveform_bytes
from speechprompt.speech.units import deduplicate

if TYPE_CHECKING:
    from transformers import HubertModel

RATE = 16_000
LAYER = 6
CENTRES = 100


def decoding_cases(settings: Settings) -> Iterator[Case]:
    """Files at the tokenizer's rate, in the formats that corpora come in; naive: soundfile's own reader."""
    seconds = 1.0 if settings.quick else 10.0
    clip = demo_clips(seconds, 1, RATE)[0]
    for form, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        content = audio_file(clip, RATE, form, subtype)
        forms = {
            OURS: Form(lambda content=content: read_waveform_bytes(content, RATE), seconds),  # type: ignore[misc]
            NAIVE: Form(lambda content=content: _plainly_read(content), seconds),  # type: ignore[misc]
        }
        size = len(content) + 4 * len(clip)
        yield Case("decode", f"{form} of {seconds:g} s at 16 kHz", "seconds of audio", forms, bytes=size)


def resampling_cases(settings: Settings) -> Iterator[Case]:
    """Stereo at 44.1 kHz to mono at 16 kHz, decoding included; naive: scipy's polyphase filter over all of it."""
    seconds = 1.0 if settings.quick else 10.0
    clip = demo_clips(seconds, 1, RATE)[0]
    stereo = np.repeat(
        np.interp(np.arange(0, len(clip), RATE / 44_100), np.arange(len(clip)), clip)[:, None], 2, 1
    )
    content = audio_file(stereo.astype(np.float32), 44_100, "WAV", "PCM_16")

    def naive() -> NDArray[np.float32]:
        from scipy.signal import resample_poly

        found: NDArray[np.float32] = resample_poly(_plainly_read(content).mean(1), 160, 441).astype(
            np.float32
        )
        return found

    forms = {OURS: Form(lambda: read_waveform_bytes(content, RATE), seconds), NAIVE: Form(naive, seconds)}
    name = f"WAV of {seconds:g} s, stereo at 44.1 kHz"
    yield Case("resample", name, "seconds of audio", forms, bytes=len(content) + 4 * len(clip))


def audio_file(samples: NDArray[np.float32], rate: int, form: str, subtype: str) -> bytes:
    """Samples (S,) or (S,channels) as a file's bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def _plainly_read(content: bytes) -> NDArray[np.float32]:
    found: NDArray[np.float32] = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    return found


def hubert_cases(settings: Settings) -> Iterator[Case]:
    """Features of HuBERT-base's sixth layer, clips of 1 to 10 s at once; naive: transformers' whole model in fp32, clip
    by clip."""
    from speechprompt.tokenizers.hubert import HubertTokenizer

    lengths = (0.5, 1.0) if settings.quick else (1.0, 2.0, 3.0, 5.0, 10.0)
    clips = [demo_clips(seconds, 1, RATE)[0] for seconds in lengths]
    whole = random_hubert(settings, whole=True)
    naive = Form(lambda: _whole_model(whole, clips), sum(lengths))
    for precision in get_args(Dtype):
        model = random_hubert(settings)
        centres = torch.zeros(CENTRES, model.config.hidden_size)
        tokenizer = HubertTokenizer("bench", model, centres, precision=precision).to(settings.device)
        weights = sum(p.numel() * p.element_size() for p in tokenizer.encoder.model.parameters())
        on_gpu = settings.device.startswith("cuda")
        yield Case(
            "hubert",
            f"{'reduced' if settings.quick else 'base'}, to layer {model.config.num_hidden_layers}, {precision}",
            "seconds of audio",
            {OURS: Form(lambda tokenizer=tokenizer: tokenizer.features(clips), sum(lengths)), NAIVE: naive},  # type: ignore[misc]
            hubert_products(hubert_sizes(model.config), [len(clip) for clip in clips]),
            weights + 4 * sum(map(len, clips)),
            precision,
            {BOUND: 0.5 if on_gpu else 0.6, NAIVE: 3.0},
        )


def random_hubert(settings: Settings, whole: bool = False) -> HubertModel:
    """HuBERT-base with random weights, to layer 6 or whole; `quick`: much smaller."""
    from transformers import HubertConfig, HubertModel

    small: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    layers = (4 if whole else 2) if settings.quick else (12 if whole else LAYER)
    config = HubertConfig(num_hidden_layers=layers, **(small if settings.quick else {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HubertModel(config)
    model.train(False)
    model.requires_grad_(False)
    torch.nn.Module.to(model, settings.device)
    return model


def hubert_sizes(config: object) -> HubertSizes:
    """What the formula needs of a HubertConfig."""
    names = {
        "channels": "conv_dim", "kernels": "conv_kernel", "strides": "conv_stride", "layers": "num_hidden_layers",
        "width": "hidden_size", "heads": "num_attention_heads", "inner": "intermediate_size",
        "position_kernel": "num_conv_pos_embeddings", "position_groups": "num_conv_pos_embedding_groups",
    }  # fmt: skip
    return HubertSizes(**{name: getattr(config, field) for name, field in names.items()})


@torch.no_grad()
def _whole_model(model: torch.nn.Module, clips: Sequence[NDArray[np.float32]]) -> list[Tensor]:
    device = next(model.parameters()).device
    rows = [torch.from_numpy(np.ascontiguousarray(clip))[None].to(device) for clip in clips]
    return [model(row, output_hidden_states=True).hidden_states[-1] for row in rows]


def kmeans_cases(settings: Settings) -> Iterator[Case]:
    """The nearest of 100 centres for ten seconds of frames; naive: every difference, squared and summed, in fp32."""
    from speechprompt.tokenizers.kmeans import KMeans

    width, frames = (32, 50) if settings.quick else (768, 499)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(frames, width, generator=generator).to(settings.device)
    centres = torch.randn(CENTRES, width, generator=generator)
    kmeans = KMeans(centres).to(settings.device)
    there = centres.to(settings.device)
    forms = {
        OURS: Form(lambda: kmeans.assign(features), frames),
        NAIVE: Form(lambda: (features[:, None] - there).square().sum(-1).argmin(-1), frames),
    }
    size = 4.0 * (features.numel() + centres.numel())
    products = [Product(frames, width, CENTRES)]
    yield Case("k-means", f"{CENTRES} centres of width {width}", "frames", forms, products, size)


def deduplication_cases(settings: Settings) -> Iterator[Case]:
    """Ten seconds of frames into units with durations; naive: a Python loop over runs."""
    frames = 100 if settings.quick else 499
    random = np.random.default_rng(0)
    ids = np.repeat(random.integers(0, CENTRES, frames), random.integers(1, 4, frames))[:frames]
    forms = {OURS: Form(lambda: deduplicate(ids), frames), NAIVE: Form(lambda: _runs(ids), frames)}
    yield Case("deduplicate", f"{frames} frames", "frames", forms, bytes=8.0 * frames)


def _runs(ids: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    runs = [(unit, len(list(same))) for unit, same in groupby(ids.tolist())]
    return [unit for unit, _ in runs], [count for _, count in runs]
