from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel

from speechprompt.errors import AudioError, CheckpointError, DownloadError, SpeechPromptError, UsageError
from speechprompt.speech.units import expand
from speechprompt.tokenizers import UnitTokenizer, hubert_encoder
from speechprompt.tokenizers.hubert import HubertTokenizer

BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
WIDTH, LAYERS = 32, 2


def tiny_model(kind: dict[str, Any] = BASE, layers: int = LAYERS) -> HubertModel:
    """A random HuBERT with lively norms and biases, whose receptive field and hop are the real one's."""
    config = HubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **kind,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HubertModel(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def centres(count: int = 12, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def tiny_tokenizer(folder: Path, kind: dict[str, Any] = BASE, **options: Any) -> HubertTokenizer:
    model = tiny_model(kind)
    model.save_pretrained(folder)
    return HubertTokenizer.from_pretrained(folder, LAYERS, centres(), **options)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HubertTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("hubert"))


def waveform(samples: int, seed: int = 0) -> np.ndarray:
    """Noise under a slow envelope: what normalises over time must notice what is added to it."""
    random = np.random.default_rng((seed, samples))
    envelope = 0.3 + np.abs(np.sin(np.linspace(0, 7, samples)))
    return (envelope * random.standard_normal(samples)).astype(np.float32)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def plain_features(model: HubertModel, samples: np.ndarray, layer: int) -> torch.Tensor:
    """As transformers computes them, one clip at a time, all layers."""
    return model(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states[layer][0]


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("layer", [1, 2])
def test_features_are_the_hidden_states_of_the_layer(
    kind: dict[str, Any], layer: int, tmp_path: Path
) -> None:
    model = tiny_model(kind, layers=3)
    model.save_pretrained(tmp_path)
    tokenizer = HubertTokenizer.from_pretrained(tmp_path, layer, centres(), normalize=False)
    for samples in (400, 719, 720, 9000):
        clip = waveform(samples)
        [features] = tokenizer.features([clip])
        assert distance(features, plain_features(model, clip, layer)) < 1e-5
    assert len(tokenizer.encoder.model.encoder.layers) == layer
    assert isinstance(tokenizer, UnitTokenizer)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(400, 9000) | st.sampled_from([400, 401, 719, 720]), min_size=1, max_size=7))
def test_a_clip_in_a_batch_is_the_clip_alone(tokenizer: HubertTokenizer, lengths: list[int]) -> None:
    clips = [waveform(length, seed) for seed, length in enumerate(lengths)]
    for clip, units, features in zip(
        clips, tokenizer.encode_batch(clips), tokenizer.features(clips), strict=True
    ):
        alone = tokenizer.encode(clip)
        assert units == alone
        assert distance(features, tokenizer.features([clip])[0]) < 1e-5
        assert expand(units).shape == (tokenizer.encoder.frame_count(len(clip)),)


def test_one_batch_is_padded_or_the_test_above_says_nothing(
    tokenizer: HubertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = tokenizer.encoder.model.encoder.forward
    monkeypatch.setattr(
        tokenizer.encoder.model.encoder,
        "forward",
        lambda hidden, attention_mask: (
            seen.append(attention_mask) or forward(hidden, attention_mask=attention_mask)
        ),
    )
    tokenizer.encode_batch([waveform(8000), waveform(7000), waveform(400)])
    assert [mask is None for mask in seen] == [True, False]


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
def test_blocks_of_convolutions_leave_no_seam(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer(tmp_path, kind)
    clip = waveform(21_000)
    [whole] = tokenizer.features([clip])
    for frames in (1, 7, 64, 65):
        monkeypatch.setattr(hubert_encoder, "_BLOCK_FRAMES", frames)
        assert distance(tokenizer.features([clip])[0], whole) < 1e-5


def test_published_chunks_do_not_hear_each_other(
    tokenizer: HubertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubert_encoder, "CHUNK_SAMPLES", 4000)
    for samples in (4000, 4001, 4399, 4400, 8000, 13_000):
        clip = waveform(samples)
        pieces = [clip[start : start + 4000] for start in range(0, samples, 4000)]
        apart = torch.cat([tokenizer.features([piece])[0] for piece in pieces if len(piece) >= 400])
        assert distance(tokenizer.features([clip])[0], apart) < 1e-5


def test_overlapping_windows_keep_every_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer(tmp_path, chunking="overlap")
    clip = waveform(40_000)
    [whole] = tokenizer.features([clip])
    monkeypatch.setattr(hubert_encoder, "CHUNK_SAMPLES", 8000)
    assert len(tokenizer.features([clip])[0]) == tokenizer.encoder.frame_count(len(clip)) == len(whole)
    monkeypatch.setattr(hubert_encoder, "OVERLAP_FRAMES", 200)  # every window hears everything
    assert distance(tokenizer.features([clip])[0], whole) < 1e-5
    monkeypatch.setattr(hubert_encoder, "OVERLAP_FRAMES", 40)
    wide = (tokenizer.features([clip])[0] - whole).abs().mean()
    monkeypatch.setattr(hubert_encoder, "OVERLAP_FRAMES", 0)
    none = (tokenizer.features([clip])[0] - whole).abs().mean()
    assert wide < none


def test_normalisation_hears_the_whole_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer(tmp_path, LARGE)
    assert tokenizer.encoder.normalize
    clip = waveform(6000)
    scaled = torch.nn.functional.layer_norm(torch.from_numpy(clip), (6000,)).numpy()
    plain = tiny_tokenizer(tmp_path, LARGE, normalize=False)
    assert distance(tokenizer.features([3 * clip + 1])[0], plain.features([scaled])[0]) < 1e-4
    assert tokenizer.fingerprint != plain.fingerprint


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_a_clip_that_is_too_short(tokenizer: HubertTokenizer, samples: int) -> None:
    with pytest.raises(AudioError, match=f"clip 1 has {samples} samples; one frame needs 400"):
        tokenizer.encode_batch([waveform(400), waveform(samples)])


@pytest.mark.parametrize(
    "clip", [np.zeros((2, 800), np.float32), np.full(800, np.nan, np.float32), np.float32(1)]
)
def test_what_is_no_waveform(tokenizer: HubertTokenizer, clip: np.ndarray) -> None:
    with pytest.raises(AudioError, match="not one row of finite samples"):
        tokenizer.encode(clip)


def test_silence_and_nothing(tokenizer: HubertTokenizer) -> None:
    assert tokenizer.encode_batch([]) == []
    assert len(expand(tokenizer.encode(np.zeros(16_000, np.float32)))) == 49


# --- files


def fairseq_checkpoint(model: HubertModel, kind: dict[str, Any], layout: str) -> dict[str, Any]:
    """A model under fairseq's names, written out independently of the reader's table."""
    source = model.state_dict()
    named = {
        "mask_emb": torch.zeros(WIDTH),
        "label_embs_concat": torch.zeros(3, 3),
        "final_proj.weight": torch.zeros(1),
    }
    for name, tensor in source.items():
        part = name.split(".")
        if part[:2] == ["feature_extractor", "conv_layers"]:
            if part[3] == "conv":
                named[f"feature_extractor.conv_layers.{part[2]}.0.{part[4]}"] = tensor
            else:
                middle = "2" if kind is BASE else "2.1"
                named[f"feature_extractor.conv_layers.{part[2]}.{middle}.{part[4]}"] = tensor
        elif part[0] == "feature_projection":
            stem = "layer_norm" if part[1] == "layer_norm" else "post_extract_proj"
            named[f"{stem}.{part[2]}"] = tensor
        elif part[1] == "pos_conv_embed":
            ending = {"original0": "weight_g", "original1": "weight_v", "bias": "bias"}[part[-1]]
            named[f"encoder.pos_conv.0.{ending}"] = tensor
        elif part[1] == "layers":
            inner = {
                "attention": "self_attn",
                "layer_norm": "self_attn_layer_norm",
                "intermediate_dense": "fc1",
                "output_dense": "fc2",
                "final_layer_norm": "final_layer_norm",
            }
            rest = part[4:] if part[3] == "feed_forward" else part[3:]
            named[".".join(["encoder", "layers", part[2], inner[rest[0]], *rest[1:]])] = tensor
        elif part[1] == "layer_norm":
            named[name] = tensor
    options = {"encoder_attention_heads": 4, "layer_norm_first": kind is LARGE, "normalize": kind is LARGE}
    options["conv_feature_layers"] = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
    if layout == "args":
        return {"args": argparse.Namespace(**options), "model": {f"module.{k}": v for k, v in named.items()}}
    if layout == "bare":
        return {"args": None, "model": named}
    return {"cfg": {"model": options, "task": {"normalize": options["normalize"]}}, "model": named}


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("layout", ["cfg", "args"])
def test_a_fairseq_checkpoint(kind: dict[str, Any], layout: str, tmp_path: Path) -> None:
    model = tiny_model(kind, layers=3)
    torch.save(fairseq_checkpoint(model, kind, layout), tmp_path / "hubert.pt")
    model.save_pretrained(tmp_path)
    ours = HubertTokenizer.from_fairseq(tmp_path / "hubert.pt", 2, centres())
    theirs = HubertTokenizer.from_pretrained(tmp_path, 2, centres())
    assert ours.encoder.normalize is (kind is LARGE)
    assert ours.encoder.model.config.num_attention_heads == 4
    assert ours.encode(waveform(9000)) == theirs.encode(waveform(9000))
    assert ours.fingerprint == theirs.fingerprint
    assert (ours.unit_count, ours.frame_rate, ours.sample_rate, ours.name) == (12, 50.0, 16_000, "hubert-l2")


def test_half_precision_weights_are_computed_in_fp32(tmp_path: Path) -> None:
    checkpoint = fairseq_checkpoint(tiny_model(), BASE, "cfg")
    checkpoint["model"] = {name: tensor.half() for name, tensor in checkpoint["model"].items()}
    torch.save(checkpoint, tmp_path / "half.pt")
    tokenizer = HubertTokenizer.from_fairseq(tmp_path / "half.pt", 1, centres())
    assert tokenizer.features([waveform(900)])[0].dtype == torch.float32
    assert tokenizer.encoder.model.dtype == torch.float32


@pytest.mark.parametrize("layer", [-1, 0, 3])
def test_a_layer_that_is_not_there(layer: int, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    torch.save(fairseq_checkpoint(model, BASE, "cfg"), tmp_path / "hubert.pt")
    with pytest.raises(CheckpointError, match=f"layer {layer}"):
        HubertTokenizer.from_fairseq(tmp_path / "hubert.pt", layer, centres())
    with pytest.raises(CheckpointError, match=f"layer {layer}"):
        HubertTokenizer.from_pretrained(tmp_path, layer, centres())


@pytest.mark.parametrize(
    "missing",
    ["encoder.pos_conv.0.weight_g", "post_extract_proj.weight", "encoder.layer_norm.weight"]
    + ["encoder.layers.0.fc1.bias", "feature_extractor.conv_layers.3.0.weight"],
)
def test_a_checkpoint_that_lacks_a_tensor(missing: str, tmp_path: Path) -> None:
    checkpoint = fairseq_checkpoint(tiny_model(), BASE, "cfg")
    del checkpoint["model"][missing]
    torch.save(checkpoint, tmp_path / "hubert.pt")
    with pytest.raises(CheckpointError, match=r"hubert\.pt"):
        HubertTokenizer.from_fairseq(tmp_path / "hubert.pt", 1, centres())


@pytest.mark.parametrize(
    "change",
    [
        {"conv_feature_layers": "__import__('os').abort()"},
        {"conv_feature_layers": "[(16,10,5)] * 99"},
        {"encoder_attention_heads": 5},
        {"encoder_attention_heads": "4"},
    ],
    ids=str,
)
def test_options_that_do_not_fit(change: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = fairseq_checkpoint(tiny_model(), BASE, "cfg")
    checkpoint["cfg"]["model"].update(change)
    torch.save(checkpoint, tmp_path / "hubert.pt")
    try:
        tokenizer = HubertTokenizer.from_fairseq(tmp_path / "hubert.pt", 1, centres())
    except CheckpointError as error:
        assert "hubert.pt" in str(error)  # noqa: PT017
    else:  # unreadable strides fall back to the published ones
        assert tokenizer.encoder.hop_samples == 320


@pytest.mark.parametrize(
    "tree", [{}, [], {"model": {}}, {"model": {"a": torch.ones(2)}}, {"model": 3}], ids=str
)
def test_other_checkpoints(tree: Any, tmp_path: Path) -> None:
    torch.save(tree, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        HubertTokenizer.from_fairseq(tmp_path / "other.pt", 1, centres())


def test_transformers_folders(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    expected = HubertTokenizer.from_pretrained(tmp_path, 2, centres())
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors or pytorch_model\.bin"):
        HubertTokenizer.from_pretrained(tmp_path, 2, centres())
    old = {f"hubert.{name}": tensor for name, tensor in weights.items()}
    for new, ending in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        old[f"hubert.encoder.pos_conv_embed.conv.{ending}"] = old.pop(
            f"hubert.encoder.pos_conv_embed.conv.{new}"
        )
    torch.save({**old, "lm_head.weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert HubertTokenizer.from_pretrained(tmp_path, 2, centres()).fingerprint == expected.fingerprint
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2", "num_hidden_layers": 12}')
    with pytest.raises(CheckpointError, match="wav2vec2"):
        HubertTokenizer.from_pretrained(tmp_path, 2, centres())


def test_a_hub_id_without_a_network() -> None:
    with pytest.raises(DownloadError, match="example/hubert is no folder here"):
        HubertTokenizer.from_pretrained("example/hubert", 6, centres())
    with pytest.raises(DownloadError, match="no folder here"):
        HubertTokenizer.from_pretrained("absent/folder/of/mine", 6, centres())


@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize(
    "options", [{}, {"precision": "bfloat16", "chunking": "overlap"}], ids=["plain", "options"]
)
def test_saved_and_loaded(kind: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "model", kind, name="mine", **options)
    tokenizer.save(tmp_path / "saved")
    loaded = HubertTokenizer.load(tmp_path / "saved")
    clip = waveform(7000)
    assert loaded.encode(clip) == tokenizer.encode(clip)
    assert torch.equal(loaded.features([clip])[0], tokenizer.features([clip])[0])
    assert (loaded.fingerprint, loaded.name) == (tokenizer.fingerprint, "mine")
    assert loaded.precision == options.get("precision", "float32")


def test_the_fingerprint_tells_apart(tmp_path: Path) -> None:
    base = tiny_tokenizer(tmp_path)
    moved = centres()
    moved[0, 0] += 1e-3
    others = [
        HubertTokenizer.from_pretrained(tmp_path, LAYERS, moved),
        HubertTokenizer.from_pretrained(tmp_path, 1, centres()),
        *(
            HubertTokenizer.from_pretrained(tmp_path, LAYERS, centres(), **option)
            for option in ({"normalize": True}, {"chunking": "overlap"}, {"precision": "bfloat16"})
        ),
    ]
    model = tiny_model()
    model.encoder.layers[0].feed_forward.output_dense.bias.data[3] += 1e-3
    model.save_pretrained(tmp_path)
    others.append(HubertTokenizer.from_pretrained(tmp_path, LAYERS, centres()))
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_bfloat16_is_near(tmp_path: Path) -> None:
    exact, short = tiny_tokenizer(tmp_path), tiny_tokenizer(tmp_path, precision="bfloat16")
    clip = waveform(16_000)
    [features] = short.features([clip])
    assert features.dtype == torch.float32
    assert 0 < distance(features, exact.features([clip])[0]) < 0.1


def test_options_and_centres_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="width 31"):
        HubertTokenizer("name", tiny_model(), centres(width=31))
    for option in ({"chunking": "none"}, {"precision": "int8"}):
        with pytest.raises(UsageError, match="known: published, overlap, float32, bfloat16"):
            HubertTokenizer("name", tiny_model(), centres(), **option)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "foreign"])
def test_damaged_folders(name: str, damage: str, tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path / "model").save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "foreign": b"[1, 2]"}[damage])
    with pytest.raises(CheckpointError) as caught:
        HubertTokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field", ["kind", "schema", "layer", "normalize", "chunking", "precision", "model", "name"]
)
@pytest.mark.parametrize("value", [None, "x", -1, [1], {"hidden_size": -3}])
def test_changed_descriptions(field: str, value: Any, tmp_path: Path, tokenizer: HubertTokenizer) -> None:
    """Either refused in one line, or a field that does not matter; never another error."""
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, field: value}))
    try:
        HubertTokenizer.load(tmp_path)
    except SpeechPromptError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert field in ("name", "normalize", "layer")


def test_tensors_of_another_model(tmp_path: Path, tokenizer: HubertTokenizer) -> None:
    tokenizer.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.layer_norm.weight"] = torch.ones(5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        HubertTokenizer.load(tmp_path)


# --- the reference's numbers


@pytest.mark.golden
def test_golden_features_and_units(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = shared / "golden" / "k_hubert_base"
    about = json.loads((case / "info.json").read_text())
    with np.load(case / "golden.npz") as file:
        golden = {name: file[name] for name in file}

    def load(layer: int) -> HubertTokenizer:
        return HubertTokenizer.from_fairseq(case / "hubert_checkpoint.pt", layer, case / "km.bin")

    def close(features: torch.Tensor, name: str) -> None:
        expected = golden[name]
        assert features.shape == expected.shape
        error = np.abs(features.numpy() - expected).max()
        assert error <= max(1e-5 * np.abs(expected).max(), 1e-7), name

    for layer in (1, 2, 3, 4):
        close(load(layer).features([golden["wave"]])[0], f"features/layer{layer}")
    tokenizer = load(about["km_layer"])
    assert tokenizer.encoder.normalize is about["normalize"]
    units = tokenizer.encode(golden["wave"])
    assert np.array_equal(expand(units), golden["km/units_layer2"])
    assert np.array_equal(units.ids, golden["km/units_dedup"])
    close(tokenizer.encoder._convolved(torch.from_numpy(golden["wave"])).T[None], "conv_features")
    frames = len(golden["batch/single_features3_of_second"])
    second = golden["wave"][: 320 * (frames - 1) + 400]
    assert len(load(3).features([golden["wave"], second])[1]) == frames
    monkeypatch.setattr(hubert_encoder, "CHUNK_SAMPLES", 16_000)
    close(tokenizer.features([golden["wave"]])[0], "features/layer2_max_chunk16000")
