"""`pretrain`: a spoken LM from audio without labels, or from units, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from cli.material import QUICK, Run
from speechprompt.pretraining.optimisation import _Loop
from speechprompt.speech.manifest import Corpus, Utterance, write_manifest
from speechprompt.speech.unit_store import UnitStore
from speechprompt.spoken_lm import SpokenLM, load_tokenizer
from speechprompt.testing import toy_corpus

ENCODER = {"mels": 20, "width": 16, "heads": 2, "inner": 32, "kernel": 3, "layers": 2}
SMALL = ("--layers", 1, "--width", 16, "--heads", 2, "--inner", 32, "--batch-units", 64, "--no-bf16")
LM = ("--tokenizer", "hubert-base-l6-km50", "--held-out", "0.2", "--quiet", *SMALL)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A tokenizer's configuration file, with tables."""
    text = "clusters = 5\nkept_layers = 1\nunit_count = 7\n[prediction]\nsteps = 4\nbatch_frames = 128\nbf16 = false\n"
    text += "[prediction.encoder]\n" + "".join(f"{name} = {value}\n" for name, value in ENCODER.items())
    path = tmp_path / "tokenizer.toml"
    path.write_text(text)
    return path


@pytest.fixture
def hubert_units(tmp_path: Path) -> Path:
    """Toy units under the name of a published tokenizer; a row of each kind must not train."""
    rows: list[dict[str, Any]] = [{"manifest": 1, "name": "toy", "tokenizer": "hubert-base-l6-km50"}]
    for u in toy_corpus(60).utterances:
        assert u.units is not None
        rows.append({"id": u.id, "split": u.split, "units": u.units.ids.tolist(), "official_split": "train"})
    rows[1]["official_split"] = "test"
    path = tmp_path / "units.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_clips_to_a_spoken_lm_that_trains(run: Run, clips: Path, config: Path, tmp_path: Path) -> None:
    made = run(
        "pretrain",
        "tokenizer",
        clips,
        "--config",
        config,
        "--out",
        tmp_path / "heard",
        "--unit-count",
        6,
        "--json",
    )
    assert (made.code, made.document["unit_count"], made.document["name"]) == (0, 6, "heard")
    assert not (tmp_path / "heard.run").exists()
    assert "tokenizer 4/4 loss" in made.err
    record = json.loads((tmp_path / "heard" / "pretraining.json").read_text())
    assert record["clips"] == {clips.name: made.document["clips"]}
    assert record["options"]["prediction"]["encoder"]["width"] == 16
    more = ("pretrain", "kmeans", clips, "--tokenizer", tmp_path / "heard", "--units", 9, "--quiet", "--json")
    again = run(*more, "--out", tmp_path / "finer").document
    assert (again["unit_count"], again["fingerprint"] != made.document["fingerprint"]) == (9, True)
    lm = (
        "pretrain",
        "lm",
        clips,
        "--tokenizer",
        tmp_path / "finer",
        "--held-out",
        "0.3",
        "--steps",
        4,
        *SMALL,
    )
    trained = run(*lm, "--out", tmp_path / "lm", "--quiet", "--json").document
    assert 0 < trained["bits_per_unit"] < 8
    spoken = SpokenLM.load(tmp_path / "lm")
    assert (spoken.name, spoken.tokenizer.unit_count, spoken.lm.unit_count) == ("lm@1", 9, 9)
    assert spoken.tokenizer.fingerprint == again["fingerprint"]
    ran = run("train", clips, "--lm", tmp_path / "lm", "--out", tmp_path / "prompt", "--quiet", *QUICK)
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("command", ["tokenizer", "kmeans"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_a_save_that_fails_costs_neither_the_old_tokenizer_nor_the_new(
    run: Run, clips: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    command: str, error: BaseException,
) -> None:  # fmt: skip
    out = tmp_path / "heard"
    first = ("pretrain", "tokenizer", clips, "--config", config, "--out", out, "--quiet", "--json")
    before = run(*first).document["fingerprint"]
    refit = ("pretrain", "kmeans", clips, "--tokenizer", out, "--units", 9, "--out", out, "--quiet", "--json")
    again = (*first, "--unit-count", 5) if command == "tokenizer" else refit

    def cut_off(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("speechprompt.tokenizers.mel_hubert.save_file", cut_off)
        assert run(*again, "--force").code != 0
        assert load_tokenizer(out).fingerprint == before
        assert run(*first, "--out", tmp_path / "fresh").code != 0
    names = {"heard", "heard.run", "fresh.run", config.name, clips.name}
    assert {path.name for path in tmp_path.iterdir()} <= names
    assert run(*first, "--out", tmp_path / "fresh").document["fingerprint"]
    made = run(*again, "--force").document
    assert made["unit_count"] == (5 if command == "tokenizer" else 9)
    assert load_tokenizer(out).fingerprint == made["fingerprint"] != before
    assert (out / "pretraining.json").exists() == (command == "tokenizer")


def test_only_rows_that_every_split_field_trains_teach(run: Run, hubert_units: Path, tmp_path: Path) -> None:
    out = tmp_path / "lm"
    ran = run("pretrain", "lm", hubert_units, "--out", out, "--steps", 2, "--json", *LM)
    assert ran.code == 0
    material = ran.document["material"]
    rows = [json.loads(line) for line in hubert_units.read_text().splitlines()[1:]]
    training = {tuple(r["units"]) for r in rows if r["split"] == "train" and r["official_split"] == "train"}
    others = {tuple(r["units"]) for r in rows if r["split"] != "train" or r["official_split"] != "train"}
    assert material["rows"] + material["held_out_rows"] == len(training - others)
    assert material["left_out"] == len(training & others)
    record = json.loads((out / "pretraining.json").read_text())
    assert record["bits_per_unit"] == ran.document["bits_per_unit"]
    assert f"{record['bits_per_unit']:.3f} bits a unit" in (out / "README.md").read_text()
    whole = run(
        "pretrain",
        "lm",
        hubert_units,
        "--untested",
        "toy",
        "--out",
        tmp_path / "w",
        "--steps",
        2,
        "--json",
        *LM,
    )
    counts = whole.document["material"]
    assert counts["rows"] + counts["held_out_rows"] == len(training | others)
    none = run("pretrain", "lm", hubert_units, "--exclude", hubert_units, "--out", tmp_path / "none", *LM)
    assert "nothing to learn from" in none.error
    gone = run("pretrain", "lm", hubert_units, "--without", "tyo", "--out", tmp_path / "none", *LM)
    assert "did you mean toy" in gone.error
    misspelt = ("--split-fields", "split,oficial_split", "--out", tmp_path / "none", *LM)
    assert "did you mean official_split" in run("pretrain", "lm", hubert_units, *misspelt).error


def test_recordings_that_a_test_also_has_teach_nothing(run: Run, clips: Path, tmp_path: Path) -> None:
    recorded = sorted(clips.rglob("*.wav"))
    rows = [Utterance(f"{i}", "train", {"pitch": "any"}, audio=path) for i, path in enumerate(recorded)]
    rows += [replace(u, id=f"{u.id} again", split="test") for u in rows[::3]]
    manifest = write_manifest(Corpus("tones", tuple(rows), {"pitch": ("any",)}), tmp_path / "tones.jsonl")
    ran = run(
        "pretrain", "lm", manifest, "--tokenizer", "tiny", "--held-out", "0.2", "--out", tmp_path / "lm",
        "--steps", 2, "--quiet", "--json", *SMALL,
    )  # fmt: skip
    material = ran.document["material"]
    assert material["left_out"] >= len(rows[::3]) // 2
    assert material["rows"] + material["held_out_rows"] <= len(recorded) - material["left_out"]


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(
    run: Run, hubert_units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("pretrain", "lm", hubert_units, "--steps", 9, "--save-every", 4, "--name", "same", *LM)
    assert run(*command, "--out", tmp_path / "whole").code == 0
    step = _Loop.step

    def stopped(self: _Loop) -> None:
        if self.done == 6:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "step", stopped)
        ran = run(*command, "--out", tmp_path / "parts")
    assert (ran.code, "goes on from" in ran.err, (tmp_path / "parts").exists()) == (130, True, False)
    assert len(list((tmp_path / "parts.run").iterdir())) == 3
    seen = []
    monkeypatch.setattr(_Loop, "step", lambda self: (seen.append(self.done), step(self)))
    assert run(*command, "--out", tmp_path / "parts").code == 0
    assert seen == [6, 7, 8]
    assert not (tmp_path / "parts.run").exists()
    whole, parts = (load_file(tmp_path / name / "lm" / "model.safetensors") for name in ("whole", "parts"))
    assert {name: x.tobytes() for name, x in whole.items()} == {
        name: x.tobytes() for name, x in parts.items()
    }


def test_a_unit_store_teaches_too(run: Run, clips: Path, tmp_path: Path) -> None:
    from speechprompt.encoding import encode_corpus
    from speechprompt.speech.readers import read_corpus

    tiny = SpokenLM.load("tiny")
    store = UnitStore(tmp_path / "units", tiny.tokenizer.fingerprint, "float32")
    encode_corpus(read_corpus(clips), tiny, store)
    flags = ("--tokenizer", tiny.folder, "--held-out", "0.3", "--steps", 2, "--json", *SMALL)
    ran = run("pretrain", "lm", store.folder, "--out", tmp_path / "lm", *flags)
    assert (ran.code, "knows no splits" in ran.err) == (0, True)
    assert ran.document["material"]["rows"] + ran.document["material"]["held_out_rows"] > 10
    assert ran.document["unit_count"] == tiny.tokenizer.unit_count


def test_rows_of_units_teach_where_all_audio_beside_them_is_gone(
    run: Run, clips: Path, tmp_path: Path
) -> None:
    tiny = SpokenLM.load("tiny")
    source = tmp_path / "units.jsonl"
    assert run("encode", clips, "--out", source, "--quiet").code == 0
    header, *rows = source.read_text().splitlines()
    header = json.dumps(json.loads(header) | {"tokenizer": None})
    rows.append(json.dumps({"id": "gone", "audio": "gone.wav", "split": "train", "labels": {"label": "low"}}))
    source.write_text("\n".join([header, *rows]) + "\n")
    flags = ("--tokenizer", tiny.folder, "--held-out", "0.3", "--steps", 2, "--json", *SMALL)
    ran = run("pretrain", "lm", source, "--out", tmp_path / "lm", *flags)
    assert (ran.code, "'gone' was left out" in ran.err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("lm", "UNITS", "--tokenizer", "hubert-base-l6-km100"), 1, "not of hubert-base-l6-km100"),
        (("lm", "UNITS", "--tokenizer", "hubert-base-l6-km51"), 2, "did you mean hubert-base-l6-km50"),
        (("lm", "UNITS", "--tokenizer", "hubert-base-l6-km50", "--steps", "many"), 2, "'steps'"),
        (
            ("lm", "UNITS", "--tokenizer", "hubert-base-l6-km50", "--width", "30", "--heads", "4"),
            2,
            "4 heads",
        ),
        (("lm", "UNITS", "--tokenizer", "hubert-base-l6-km50", "--stpes", "3"), 2, "did you mean --steps"),
        (("tokenizer", "UNITS"), 1, "nothing to hear"),
        (("tokenizer", "UNITS", "--prediction-steps", "x"), 2, "'prediction_steps'"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, hubert_units: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    chosen = [hubert_units if argument == "UNITS" else argument for argument in arguments]
    ran = run("pretrain", *chosen, "--out", tmp_path / "out", "--quiet")
    assert (ran.code, message in ran.error) == (code, True), ran.err
    assert not (tmp_path / "out").exists()


def test_prosody_is_learnt_and_no_encoder_is_stored_twice(run: Run, clips: Path, tmp_path: Path) -> None:
    flags = ("--streams", "durations,f0", "--f0-mean", "absolute", "--held-out", "0.3", "--steps", 2, *SMALL)
    out = tmp_path / "prosodic"
    made = run("pretrain", "lm", clips, "--tokenizer", "tiny", "--out", out, "--json", *flags)
    assert (made.code, "tiny-content is read" in made.err) == (0, True), made.err
    assert {"bits_per_unit", "bits_per_duration", "bits_per_f0"} <= set(made.document)
    assert not (out / "tokenizer").exists()
    spoken = SpokenLM.load(out)
    assert (spoken.tokenizer.name, spoken.tokenizer.unit_count) == ("tiny-content+f0-absolute", 500)
    assert spoken.tokenizer.fingerprint == made.document["tokenizer_fingerprint"]
    assert spoken.lm.unit_count == 500
    ran = run("train", clips, "--lm", out, "--out", tmp_path / "prompt", "--quiet", *QUICK)
    assert (ran.code, ran.err) == (0, "")
    about = json.loads((out / "spoken_lm.json").read_text())
    (out / "spoken_lm.json").write_text(json.dumps({**about, "tokenizer_fingerprint": "of tiny@9"}))
    other = run("train", clips, "--lm", out, "--out", tmp_path / "again", "--quiet", *QUICK)
    assert "of tiny@9" in other.error
    assert spoken.tokenizer.fingerprint in other.error


def test_a_tokenizer_folder_lends_its_content_and_travels_along(
    run: Run, clips: Path, tmp_path: Path
) -> None:
    tiny = SpokenLM.load("tiny")
    assert tiny.folder is not None
    command = ("pretrain", "lm", clips, "--tokenizer", tiny.folder / "tokenizer", "--quiet", "--json", *SMALL)
    flags = ("--held-out", "0.3", "--steps", 2)
    made = run(*command, "--out", tmp_path / "both", "--streams", "f0,durations", *flags)
    assert made.code == 0
    spoken = SpokenLM.load(tmp_path / "both")
    assert spoken.tokenizer.fingerprint == load_tokenizer("tiny-content+f0").fingerprint
    assert spoken.tokenizer.fingerprint == made.document["tokenizer_fingerprint"]
    one = run(*command, "--out", tmp_path / "one", "--streams", "durations", *flags)
    assert "bits_per_f0" not in one.document
    assert SpokenLM.load(tmp_path / "one").tokenizer.name == "tiny-content"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--streams", "duration"), "did you mean durations"),
        (("--f0-bins", "8"), "--streams durations,f0"),
        (("--streams", "durations", "--f0-mean", "absolute"), "--f0-mean"),
        (("--streams", "f0", "--f0-mean", "absolut"), "did you mean absolute"),
        (("--streams", "durations,f0", "--f0-bins", "1"), "'f0_bins'"),
        (("--streams", "durations", "--prosody-weight", "-1"), "'prosody_weight'"),
    ],
)
def test_prosody_that_cannot_be_is_one_line(
    run: Run, hubert_units: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    ran = run("pretrain", "lm", hubert_units, *LM, *flags, "--out", tmp_path / "out")
    assert (ran.code, message in ran.error) == (2, True), ran.err
    bare = run("pretrain", "lm", hubert_units, *LM, "--streams", "durations", "--out", tmp_path / "out")
    assert (bare.code, "durations" in bare.error) == (1, True)
