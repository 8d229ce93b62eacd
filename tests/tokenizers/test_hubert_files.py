from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_hubert import (
    BASE,
    LARGE,
    LAYERS,
    centres,
    distance,
    fairseq_checkpoint,
    tiny_model,
    tiny_tokenizer,
    waveform,
)

from speechprompt.errors import CheckpointError, DownloadError, SpeechPromptError, UsageError
from speechprompt.tokenizers.hubert import HubertTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HubertTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("hubert"))


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
    [
        "encoder.pos_conv.0.weight_g",
        "post_extract_proj.weight",
        "encoder.layer_norm.weight",
        "encoder.layers.0.fc1.bias",
        "feature_extractor.conv_layers.3.0.weight",
    ],
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
