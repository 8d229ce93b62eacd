"""The formulas of the bound against a counter of what torch really multiplies."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from speechprompt.benchmarking.material import equal_utterances, fresh_entry, random_lm
from speechprompt.benchmarking.products import (
    DecoderSizes,
    hubert_products,
    mel_encoder_products,
    operations_of,
    prediction_products,
    training_products,
)
from speechprompt.benchmarking.sound_stages import hubert_sizes
from speechprompt.lms.batch import collate
from speechprompt.prompting.bank import Bank
from speechprompt.prompting.losses import label_losses
from speechprompt.prompting.predictor import window_scores
from speechprompt.prompting.recipes import TrainingOptions
from speechprompt.tokenizers.mel_encoder import MelEncoder, MelEncoderConfig

SIZES = DecoderSizes(3, 32, 4, 96, 24)
LENGTH, ROWS, PROMPT, LABELS = (
    27,
    5,
    3,
    7,
)  # prefix and rows fill a whole vector of 32 keys: nothing is padded
# in bfloat16 attention is written out on a CPU, and the counter does not know the fused kernel
LM = random_lm(SIZES, "cpu", torch.bfloat16)


def added_product(_: object, left: list[int], right: list[int], **others: object) -> int:
    """Operations of a product that is added to something, from shapes."""
    return 2 * prod(left) * right[-1]


def packed_product(left: list[int], *others: object, **_: object) -> int:
    """Operations of a product with a packed weight, which stands behind what is added where something is."""
    weight = others[1] if isinstance(others[3], str) else others[0]
    return 2 * prod(left) * weight[0]  # type: ignore[index]


def counted(work: object) -> float:
    # the counter knows these two, but not in place; and nothing of packed weights
    unknown = dict.fromkeys((torch.ops.aten.addmm_, torch.ops.aten.baddbmm_), added_product)
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        unknown[torch.ops.mkldnn._linear_pointwise] = packed_product
    with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        work()  # type: ignore[operator]
    return float(counter.get_total_flops())


def test_prediction() -> None:
    units = equal_utterances(LENGTH, ROWS, LM.unit_count)
    prompt = fresh_entry(LM, units, LABELS, TrainingOptions(prompt_length=PROMPT)).fold(LM)
    formula = operations_of(prediction_products(SIZES, [LENGTH] * ROWS, PROMPT, LABELS, dense=True))
    assert counted(lambda: window_scores(LM, [(prompt, row) for row in units])) == formula


def test_training() -> None:
    units = equal_utterances(LENGTH, ROWS, LM.unit_count)
    entry = fresh_entry(LM, units, LABELS, TrainingOptions(prompt_length=PROMPT))
    batch, targets = collate(units), torch.arange(ROWS)[:, None]

    def step() -> None:
        rows = torch.zeros_like(batch.lengths)
        label_losses(LM, Bank([entry]), batch, rows, [targets])[0].loss.backward()

    formula = operations_of(training_products(SIZES, [LENGTH] * ROWS, PROMPT, LABELS, dense=True))
    assert counted(step) == formula


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 9))
def test_attention_counts_every_pair_once(lengths: list[int], prompt_length: int) -> None:
    def operations(layers: int) -> float:
        sizes = replace(SIZES, layers=layers)
        return operations_of(prediction_products(sizes, lengths, prompt_length, LABELS))

    rows = sum(lengths) + 2 * len(lengths)
    weights = 4 * SIZES.width**2 + 2 * SIZES.width * SIZES.inner
    pairs = sum(prompt_length + place + 1 for length in lengths for place in range(length + 2))
    assert operations(4) - operations(3) == pytest.approx(2 * rows * weights + 4 * SIZES.width * pairs)


def test_hubert() -> None:
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=48, conv_dim=(8, 16, 8),
        conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2), num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = HubertModel(config).train(False)
    samples = 4_000
    with torch.no_grad():
        found = counted(lambda: model(torch.zeros(1, samples)))
    formula = operations_of(hubert_products(hubert_sizes(config), [samples]))
    # the model multiplies one frame of the position convolution that it then drops
    assert found == pytest.approx(formula, rel=2e-3)
    assert found >= formula


def test_mel_encoder() -> None:
    config = MelEncoderConfig(mels=10, width=16, heads=2, inner=24, kernel=5, layers=2)
    encoder, frames, centres = MelEncoder(config), 30, 12
    # the counter knows attention that is written out only
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        found = counted(lambda: encoder(torch.zeros(1, frames, 20), torch.ones(1, frames, dtype=torch.bool)))
    depthwise = 2 * config.kernel * config.width * frames * config.layers
    code_book = 2 * frames * config.width * centres
    formula = operations_of(mel_encoder_products([frames], 10, 2, 16, 2, 24, centres))
    assert found - depthwise == formula - code_book
