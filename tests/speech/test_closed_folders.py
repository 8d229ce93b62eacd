"""Folders that their reader may not list: an error that names them, never labels that are gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from speechprompt.errors import CorpusError
from speechprompt.speech.folders import audio_files
from speechprompt.speech.readers import read_corpus


def clips(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, [0.1] * 160, 16_000)


@pytest.mark.parametrize("closed", ["bed", "bed/deep", "train", "."])
def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, closed: str, close: Callable[[Path], None]
) -> None:
    clips(tmp_path, "bed/deep/a.wav", "bird/a.wav", "cat/a.wav", "train/a.wav")
    close(tmp_path / closed)
    expected = f"the folder {tmp_path / closed} cannot be listed (Permission denied); make it readable"
    with pytest.raises(CorpusError) as error:
        read_corpus(tmp_path)
    assert str(error.value).startswith(expected)


def test_several_folders_that_cannot_be_listed_are_counted(
    tmp_path: Path, close: Callable[[Path], None]
) -> None:
    clips(tmp_path, "bed/a.wav", "bird/a.wav", "cat/a.wav")
    close(tmp_path / "cat")
    close(tmp_path / "bird")
    with pytest.raises(CorpusError, match=r"bird cannot be listed .* \(1 more folders cannot be listed\)$"):
        read_corpus(tmp_path)


def test_a_closed_split_folder_beside_one_with_a_table_is_named(
    tmp_path: Path, close: Callable[[Path], None]
) -> None:
    clips(tmp_path, "train/a.wav", "test/a.wav")
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").write_text("file_name,label\na.wav,x\n")
    close(tmp_path / "test")
    with pytest.raises(CorpusError, match="test cannot be listed"):
        read_corpus(tmp_path)


def test_the_folder_that_a_file_system_keeps_is_no_label(
    tmp_path: Path, close: Callable[[Path], None]
) -> None:
    clips(tmp_path, "bed/a.wav", "bird/a.wav", "lost+found/a.wav")
    close(tmp_path / "lost+found")
    assert read_corpus(tmp_path).slots == {"label": ("bed", "bird")}


def test_audio_files_come_with_the_folders_that_are_missing(
    tmp_path: Path, close: Callable[[Path], None]
) -> None:
    clips(tmp_path, "bed/a.wav", "bird/a.wav")
    close(tmp_path / "bed")
    found, closed = audio_files(tmp_path)
    assert found == [tmp_path / "bird" / "a.wav"]
    assert list(closed) == [tmp_path / "bed"]
