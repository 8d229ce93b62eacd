"""Every command on a prosodic spoken LM: a small random pGSLM, units with durations and F0, from audio to a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli.material import QUICK, Run
from hard_audio import SHORTER_THAN_A_FRAME, hard_clips
from lms.toy_pgslm import toy_pgslm, write_checkpoint
from speechprompt import Corpus, Predictor, SpokenLM
from speechprompt import spoken_lm as spoken_lm_module
from speechprompt.downloads import PUBLISHED as FILES
from speechprompt.spoken_lm_folder import write_folder
from speechprompt.testing import ToyTokenizer


@pytest.fixture(params=["discrete", "continuous"])
def prosodic(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a random pGSLM whose tokenizer is the toy's with our tracker behind it."""
    folder = write_folder(
        tmp_path / request.param, toy_pgslm(request.param), "prosodic", "tokenizer", "CC0-1.0"
    )
    (folder / "tokenizer").mkdir()
    about = {"schema": 1, "kind": "prosody", "units": "toy", "tracker": "f0", "mean": "utterance"}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(about))
    real = spoken_lm_module.load_tokenizer
    monkeypatch.setattr(
        spoken_lm_module,
        "load_tokenizer",
        lambda name, device="cpu": ToyTokenizer() if name == "toy" else real(name, device),
    )
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Buzzes of 0.4 s at 8 kHz, in a folder for each of two pitches; one is silent throughout."""
    folder = tmp_path_factory.mktemp("voices")
    random = np.random.default_rng(0)
    for label, base in (("high", 230.0), ("low", 110.0)):
        (folder / label).mkdir()
        for number in range(10):
            f0 = base * random.uniform(0.9, 1.1) * np.geomspace(0.95, 1.05, 3200)
            phase = 2 * np.pi * np.cumsum(f0) / 8000
            sound = sum(np.cos(k * phase) / k for k in range(1, 8)) * np.repeat(
                random.uniform(0.05, 0.3, 16), 200
            )
            silent = (label, number) == ("low", 3)
            soundfile.write(folder / label / f"{label}_{number}.wav", 0 * sound if silent else sound, 8000)
    return folder


def test_every_command_runs_on_a_prosodic_lm(run: Run, prosodic: Path, voices: Path, tmp_path: Path) -> None:
    shown = run("lms", "show", prosodic, "--json").document
    assert (shown["name"], shown["state"]) == ("prosodic@1", "folder")
    manifest = tmp_path / "units.jsonl"
    assert run("encode", voices, "--lm", prosodic, "--out", manifest, "--quiet").code == 0
    rows = Corpus.read(manifest).utterances
    assert all(row.units is not None and row.units.f0 is not None for row in rows)
    assert any((row.units.f0 != 0).any() for row in rows)
    out = tmp_path / "pitch"
    for source, streams in ((voices, "units"), (manifest, "all")):
        flags = ("--lm", prosodic, "--out", out, "--force", "--streams", streams, "--quiet")
        ran = run("train", source, *flags, *QUICK)
        assert (ran.code, ran.err) == (0, "")
        assert json.loads((out / "prompt_config.json").read_text())["tokenizer"] == "tokenizer"
        ran = run("evaluate", out, manifest, "--lm", prosodic, "--json", "--quiet")
        assert (ran.code, ran.err) == (0, "")
    clip = sorted((voices / "high").iterdir())[0]
    answer = run("predict", clip, "--prompt", out, "--lm", prosodic, "--json", "--quiet").document
    library = Predictor(SpokenLM.load(prosodic), [out]).predict(clip)[0]
    assert answer["slots"]["label"]["score"] == pytest.approx(library.slots["label"].score, rel=1e-5)
    assert run("show", out, "--json").document["streams"] == ["units", "duration", "f0"]
    if prosodic.name == "continuous":  # the rest sees no difference between the two kinds
        return
    report = tmp_path / "report.html"
    for command in (
        ("report", out, voices, "--out", report, "--lm", prosodic),
        ("baseline", manifest, "--lm", prosodic),
        ("compare", manifest, "--lm", prosodic, "--methods", "prompt,n-gram", "--steps", 4),
    ):
        ran = run(*command, "--quiet")
        assert ran.code == 0, (command, ran.err)
    assert report.stat().st_size > 10_000


def test_any_audio_has_an_answer_or_one_error(run: Run, prosodic: Path, voices: Path, tmp_path: Path) -> None:
    """Whispers, creak, children, clipping, silence: from a file to scores that add up to 1, through every stream."""
    out, clips = tmp_path / "pitch", hard_clips(8000)
    tracked_to(prosodic, "f0-600" if prosodic.name == "discrete" else "f0")
    assert (
        run("train", voices, "--lm", prosodic, "--out", out, "--streams", "all", "--quiet", *QUICK).code == 0
    )
    files = {name: tmp_path / f"{name.replace(' ', '_')}.wav" for name in clips}
    for name, clip in clips.items():
        soundfile.write(files[name], clip, 8000, subtype="FLOAT")
    short = [files.pop(name) for name in SHORTER_THAN_A_FRAME]
    predictor = Predictor(SpokenLM.load(prosodic), [out])
    for name, file in files.items():
        scores = predictor.predict(file)[0].slots["label"].scores
        assert all(np.isfinite(list(scores.values()))), name
        assert sum(scores.values()) == pytest.approx(1.0, abs=1e-4), name
    for file in short:
        assert "error: " in run("predict", file, "--prompt", out, "--lm", prosodic, "--quiet").error


def tracked_to(folder: Path, tracker: str) -> None:
    """Name the tracker of a prosodic LM's tokenizer."""
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tracker": tracker}))


def test_the_range_of_f0_is_recorded_and_another_refused(
    run: Run, prosodic: Path, voices: Path, tmp_path: Path
) -> None:
    out, fingerprints = tmp_path / "pitch", []
    for tracker in ("f0", "f0-600"):
        tracked_to(prosodic, tracker)
        tokenizer = SpokenLM.load(prosodic).tokenizer
        assert tokenizer.name == f"toy+{tracker}"
        assert run("train", voices, "--lm", prosodic, "--out", out, "--force", "--quiet", *QUICK).code == 0
        fingerprints.append(json.loads((out / "prompt_config.json").read_text())["tokenizer_fingerprint"])
        assert fingerprints[-1] == tokenizer.fingerprint
    tracked_to(prosodic, "f0")
    clip = sorted((voices / "high").iterdir())[0]
    assert fingerprints[1] in run("predict", clip, "--prompt", out, "--lm", prosodic, "--quiet").error
    for wrong in ("f0-900", "f0-", "f0-wide", "f0-99999"):
        tracked_to(prosodic, wrong)
        refused = run("encode", voices, "--lm", prosodic, "--out", tmp_path / "x", "--quiet").error
        assert "pitch tracker" in refused


def test_a_pgslm_checkpoint_is_converted(run: Run, tmp_path: Path) -> None:
    checkpoint, edges = tmp_path / "pgslm.pt", tmp_path / "bins.npy"
    model = toy_pgslm()
    write_checkpoint(model, checkpoint)
    flags = ("--out", tmp_path / "lm", "--tokenizer", "toy+yaapt", "--quiet")
    assert "--f0-bins" in run("lms", "convert", checkpoint, *flags).error
    np.save(edges, np.array(model.config.f0_edges))
    document = run("lms", "convert", checkpoint, "--f0-bins", edges, *flags, "--json").document
    assert (document["kind"], document["unit_count"]) == ("pgslm", model.config.unit_count)
    assert SpokenLM.load(tmp_path / "lm").lm.fingerprint == document["fingerprint"]


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_the_published_ones_have_names(run: Run, kind: str) -> None:
    listed = {row["name"]: row for row in run("lms", "list", "--json").document}
    found = listed[f"pgslm-{kind}@1"]
    assert found["tokenizer"] == "hubert-base-l6-km100+yaapt"
    names = [file["name"] for file in found["files"]]
    assert names[:3] == ["hubert-base-ls960", "hubert-base-l6-km100", f"pgslm-{kind}-prosody"]
    assert ("pgslm-f0-bins" in names) == (kind == "discrete")
    assert all(FILES[name].url.startswith("https://dl.fbaipublicfiles.com/") for name in names)
    refused = run("lms", "fetch", f"pgslm-{kind}", "--quiet")
    assert refused.code == 1
    assert "forbids the network" in refused.error


@pytest.mark.parametrize(
    ("about", "wrong"),
    [
        ({"units": "toy", "tracker": "ears"}, "pitch tracker"),
        ({"units": 3}, "whose units"),
        ({"units": "."}, "itself"),
        ({"units": "toy", "mean": {"ana": "deep"}}, "whose units"),
    ],
)
def test_a_wrong_prosody_folder_is_one_error(
    run: Run, prosodic: Path, voices: Path, tmp_path: Path, about: dict[str, object], wrong: str
) -> None:
    (prosodic / "tokenizer" / "tokenizer.json").write_text(json.dumps({"kind": "prosody", **about}))
    assert wrong in run("encode", voices, "--lm", prosodic, "--out", tmp_path / "x", "--quiet").error
