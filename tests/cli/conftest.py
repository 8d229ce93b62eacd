"""Material of the command line's tests: a toy spoken LM in a folder, its corpus as a manifest, clips to listen to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.material import QUICK, Ran, Run, write_tone
from speechprompt import spoken_lm as spoken_lm_module
from speechprompt.cli import main
from speechprompt.speech.manifest import write_manifest
from speechprompt.spoken_lm_folder import write_folder
from speechprompt.testing import ToyTokenizer, toy_corpus, toy_lm


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the toy spoken LM."""
    return write_folder(tmp_path_factory.mktemp("lms") / "toy", toy_lm().model, "toy", "toy", "CC0-1.0")


@pytest.fixture(scope="session")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus as a manifest of units."""
    return write_manifest(toy_corpus(60), tmp_path_factory.mktemp("corpora") / "toy.jsonl")


@pytest.fixture
def toy_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the folder of the toy spoken LM find its tokenizer, which has no weights to save."""
    real = spoken_lm_module.load_tokenizer
    monkeypatch.setattr(
        spoken_lm_module,
        "load_tokenizer",
        lambda name, device="cpu": ToyTokenizer() if name == "toy" else real(name, device),
    )


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of label folders: high and low tones, 12 clips each."""
    folder = tmp_path_factory.mktemp("clips")
    for label, hertz in (("high", 1800.0), ("low", 200.0)):
        (folder / label).mkdir()
        for number in range(12):
            write_tone(folder / label / f"{label}_{number}.wav", hertz * (1 + number / 60), number)
    return folder


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for prompts that are trained by the first test that needs them."""
    return tmp_path_factory.mktemp("kept")


def copy_of(kept: Path, tmp_path: Path, run: Run, *command: object) -> Path:
    """A copy of the test's own of the prompt that a command writes, which runs once."""
    if not kept.exists():
        ran = run(*command, "--out", kept, "--quiet", *QUICK)
        assert (ran.code, ran.err) == (0, "")
    return shutil.copytree(kept, tmp_path / kept.name)


@pytest.fixture
def trained(run: Run, toy: Path, units: Path, kept: Path, tmp_path: Path) -> Path:
    """A prompt for the slot `word`."""
    return copy_of(kept / "word", tmp_path, run, "train", units, "--lm", toy, "--slots", "word")


@pytest.fixture
def pitch(run: Run, toy: Path, toy_tokenizer: None, clips: Path, kept: Path, tmp_path: Path) -> Path:
    """A prompt trained from audio, in six steps: it tells the tones apart, or does not."""
    return copy_of(kept / "pitch", tmp_path, run, "train", clips, "--lm", toy)
