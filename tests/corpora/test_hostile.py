"""Folders that are wrong, half there or damaged: one line that says which file and what to do."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import corpus_trees as trees
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpora import read

from speechprompt.corpora import check, corpus_names, prepare
from speechprompt.corpora.headers import read_header
from speechprompt.corpora.mustard import read_fold_indices
from speechprompt.corpora.tables import read_table
from speechprompt.errors import (
    AudioError,
    CorpusError,
    OutputExists,
    SpeechPromptError,
    UnknownName,
    UsageError,
)


def refused(error: type[SpeechPromptError], *said: str):
    """One line that holds every part of `said`."""
    pattern = "".join(f"(?=.*{part})" for part in said)
    return pytest.raises(error, match=rf"\A{pattern}[^\n]+\Z")


@pytest.mark.parametrize("name", corpus_names())
def test_a_folder_that_is_another_corpus(tmp_path, name) -> None:
    (tmp_path / "holiday photos").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with refused(CorpusError, "does not look like", "holiday photos", "pass the folder"):
        prepare(name, tmp_path, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()
    with refused(CorpusError, "no folder at"):
        prepare(name, tmp_path / "absent", tmp_path / "m.jsonl")
    with refused(CorpusError, "is a file; unpack it"):
        prepare(name, tmp_path / "notes.txt", tmp_path / "m.jsonl")


def test_names_that_do_not_exist(tmp_path) -> None:
    trees.fsdd(tmp_path)
    out = tmp_path / "m.jsonl"
    with refused(UnknownName, "did you mean fsdd"):
        prepare("fsd", tmp_path, out)
    with refused(UnknownName, "task of fsdd", "digit"):
        prepare("fsdd:digits", tmp_path, out)
    with refused(UnknownName, "split rule of fsdd", "speaker-disjoint"):
        prepare("fsdd", tmp_path, out, split_rule="speaker_disjoint")
    with refused(UnknownName, "variant of ravdess"):
        prepare("ravdess", tmp_path, out, variant="7")
    with refused(UsageError, "takes no split list"):
        prepare("fsdd", tmp_path, out, split_list=tmp_path / "list.csv")


def test_split_lists_that_do_not_fit(tmp_path) -> None:
    trees.arabic(tmp_path / "root")
    (tmp_path / "list.csv").write_text("path,label,split\nB_Word3.wav,B,holdout\n")
    name, out = "arabic-speech-commands", tmp_path / "m.jsonl"
    with refused(CorpusError, "list.csv holds the split 'holdout'"):
        prepare(name, tmp_path / "root", out, split_list=tmp_path / "list.csv")
    with refused(UsageError, "no split list at"):
        prepare(name, tmp_path / "root", out, split_list=tmp_path / "absent.csv")
    with refused(UsageError, "'seeded' reads no split list"):
        prepare(name, tmp_path / "root", out, split_list=tmp_path / "list.csv", split_rule="seeded")


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path) -> None:
    trees.fsdd(tmp_path / "root")
    out = tmp_path / "out/m.jsonl"
    prepare("fsdd", tmp_path / "root", out)
    before = out.read_bytes()
    with refused(OutputExists, "--force"):
        prepare("fsdd", tmp_path / "root", out)
    (tmp_path / "root/free-spoken-digit-dataset-master/recordings/0_theo_0.wav").write_bytes(b"not audio")
    with refused(CorpusError, "0_theo_0.wav", "--skip-unreadable"):
        prepare("fsdd", tmp_path / "root", out, check=True, force=True)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_unreadable_files_are_counted_when_they_may_be_skipped(tmp_path) -> None:
    trees.fsdd(tmp_path / "root")
    recordings = tmp_path / "root/free-spoken-digit-dataset-master/recordings"
    (recordings / "0_theo_0.wav").write_bytes(b"")
    whole = (recordings / "1_theo_0.wav").read_bytes()
    (recordings / "1_theo_0.wav").write_bytes(whole[:-20])
    prepared = prepare("fsdd", tmp_path / "root", tmp_path / "m.jsonl", skip_unreadable=True)
    header, rows = read(tmp_path / "m.jsonl")
    assert header["skipped"] == prepared.skipped == 2
    assert len(rows) == 118
    assert header["skipped_files"] == ["recordings/0_theo_0.wav", "recordings/1_theo_0.wav"]
    assert not check("fsdd", tmp_path / "root").complete


MISSING = [
    ("fluent-speech-commands", trees.fluent, "*/data/valid_data.csv", "valid_data.csv"),
    ("fluent-speech-commands", trees.fluent, "*/wavs/speakers/*/1-a.wav", "1-a.wav is listed but not there"),
    ("asvspoof2019-la", trees.asvspoof, "LA/*protocols/*dev.trl.txt", "dev.trl.txt"),
    ("asvspoof2019-la", trees.asvspoof, "LA/*eval/flac/LA_E_1.flac", "LA_E_1.flac is listed but not there"),
    ("iemocap", trees.iemocap, "*/Session3/sentences/wav/*/*_F000.wav", "Session3.*F000.wav is listed"),
    ("lithuanian-speech-commands", trees.lithuanian, "dev_full.csv", "dev_full.csv is missing"),
    (
        "lithuanian-speech-commands",
        trees.lithuanian,
        "dataset/du/01_nohash_0.wav",
        "in the split list but not",
    ),
    ("mustard", trees.mustard, "*/*/1_3.mp4", "1_3.mp4 is listed"),
    ("mustard-plus-plus", trees.mustard_plus_plus, "final*/1_3_u.wav", "1_3_u"),
    ("voxceleb1:gender", trees.voxceleb1, "vox1_meta.csv", "vox1_meta.csv"),
    ("crema-d:gender", trees.crema_d, "VideoDemographics.csv", "VideoDemographics.csv"),
    ("audiomnist:gender", trees.audiomnist, "data/*_meta.txt", "audioMNIST_meta.txt"),
    ("vctk:accent", trees.vctk, "*/speaker-info.txt", "speaker-info.txt"),
    ("common-voice", trees.common_voice, "*/en/dev.tsv", "dev.tsv is missing"),
    ("common-voice", trees.common_voice, "*/en/clips/*dev1.mp3", "dev1.mp3 is listed but not there"),
    ("speech-commands-freesound-vad", trees.vad, "manifest/*speech_testing*", "balanced_speech_testing"),
    ("esc-50", trees.esc_50, "*/audio/3-1000-A-0.wav", "3-1000-A-0.wav is listed"),
]


@pytest.mark.parametrize(
    ("name", "build", "gone", "said"), MISSING, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISSING)]
)
def test_a_missing_file_is_named(tmp_path, name, build, gone, said) -> None:
    build(tmp_path / "root")
    for path in list((tmp_path / "root").glob(gone)):
        path.unlink()
    with refused(CorpusError, said):
        prepare(name, tmp_path / "root", tmp_path / "m.jsonl")


def test_a_missing_test_archive_or_noise_folder_is_named(tmp_path) -> None:
    name, out = "google-speech-commands-v1", tmp_path / "m.jsonl"
    trees.google_speech_commands(tmp_path / "root")
    (tmp_path / "root/speech_commands_test_set_v0.01").rename(tmp_path / "away")
    with refused(CorpusError, "speech_commands_test_set_v0.01", "--split-rule speaker-hash"):
        prepare(name, tmp_path / "root", out, split_rule="paper")
    prepared = prepare(name, tmp_path / "root", out)
    assert prepared.split_rule == "speaker-hash"
    assert "no speech_commands_test_set_v0.01" in prepared.notices[0]
    assert read(out)[0]["split_rule"].startswith("speaker-hash")
    (tmp_path / "root/speech_commands_v0.01/_background_noise_").rename(tmp_path / "noise")
    with refused(CorpusError, "_background_noise_"):
        prepare(name, tmp_path / "root", out, force=True)


@pytest.mark.parametrize(
    ("name", "build", "table", "clips"),
    [
        ("mustard", trees.mustard, "sarcasm_data.json", "mmsd_raw_data"),
        ("mustard-plus-plus", trees.mustard_plus_plus, "mustard++_text.csv", "final_utterance_videos"),
    ],
)
def test_clips_may_lie_beside_the_clone_of_the_annotations(tmp_path, name, build, table, clips) -> None:
    build(tmp_path / "whole")
    before = read(prepare(name, tmp_path / "whole", tmp_path / "before.jsonl").manifest)[1]
    clone = tmp_path / "both" / "repository"
    clone.mkdir(parents=True)
    (tmp_path / "whole" / clips).rename(tmp_path / "both" / clips)
    for path in list((tmp_path / "whole").iterdir()):
        path.rename(clone / path.name)
    assert (clone / table).is_file()
    rows = read(prepare(name, tmp_path / "both", tmp_path / "after.jsonl").manifest)[1]
    assert [{**row, "audio": ""} for row in rows] == [{**row, "audio": ""} for row in before]
    assert all((tmp_path / row["audio"]).is_file() and ".." not in row["audio"] for row in rows)


def test_a_rule_that_was_named_needs_its_list(tmp_path) -> None:
    trees.voxceleb1(tmp_path / "root")
    (tmp_path / "root/iden_split.txt").unlink()
    assert prepare("voxceleb1", tmp_path / "root", tmp_path / "m.jsonl").split_rule == "seeded"
    with refused(CorpusError, "iden_split.txt"):
        prepare("voxceleb1", tmp_path / "root", tmp_path / "n.jsonl", split_rule="paper")


def test_metadata_is_asked_for_where_its_slot_is(tmp_path) -> None:
    trees.voxceleb1(tmp_path / "root")
    (tmp_path / "root/vox1_meta.csv").unlink()
    told = "without vox1_meta.csv the slot 'gender' is left out"
    assert told in prepare("voxceleb1", tmp_path / "root", tmp_path / "a.jsonl").notices
    assert told not in prepare("voxceleb1:speaker", tmp_path / "root", tmp_path / "b.jsonl").notices
    assert list(read(tmp_path / "a.jsonl")[0]["slots"]) == ["speaker"]


def test_contradicting_rows_and_wrong_columns_are_refused(tmp_path) -> None:
    trees.fluent(tmp_path / "root")
    table = next((tmp_path / "root").rglob("train_data.csv"))
    content = table.read_text(encoding="utf-8-sig")
    table.write_text(content + content.splitlines()[-1].replace("bring", "activate"), encoding="utf-8")
    with refused(CorpusError, "2-a.wav is listed twice"):
        prepare("fluent-speech-commands", tmp_path / "root", tmp_path / "m.jsonl")
    table.write_text(content.replace("speakerId", "who"), encoding="utf-8")
    with refused(CorpusError, "no column 'speakerId'"):
        prepare("fluent-speech-commands", tmp_path / "root", tmp_path / "m.jsonl")


def test_metadata_that_was_cut_off_is_refused(tmp_path) -> None:
    trees.fluent(tmp_path / "fluent")
    table = next((tmp_path / "fluent").rglob("test_data.csv"))
    table.write_text(table.read_text(encoding="utf-8-sig") + "9,wavs/spea")
    with refused(CorpusError, "test_data.csv:6 is cut off"):
        prepare("fluent-speech-commands", tmp_path / "fluent", tmp_path / "m.jsonl")
    trees.mustard(tmp_path / "mustard")
    content = (tmp_path / "mustard/sarcasm_data.json").read_text()
    for damaged in (content[:-40], "[]", '{"1_0": {"show": "BBT"}}', '{"1_0": 3}'):
        (tmp_path / "mustard/sarcasm_data.json").write_text(damaged)
        with refused(CorpusError, "sarcasm_data.json"):
            prepare("mustard", tmp_path / "mustard", tmp_path / "m.jsonl")


def test_one_part_of_a_corpus_stands_for_the_whole(tmp_path) -> None:
    trees.iemocap(tmp_path)
    trees.asvspoof(tmp_path)
    trees.voxceleb1(tmp_path / "vox")
    for name, part, rows in (
        ("iemocap", "IEMOCAP_full_release/Session2", 25),
        ("asvspoof2019-la", "LA/ASVspoof2019_LA_dev", 9),
        ("voxceleb1", "vox/dev", 15),
    ):
        assert prepare(name, tmp_path / part, tmp_path / f"{name}.jsonl").rows == rows


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LA.zip.part", "LA.zip.part is an unfinished download; finish it"),
        ("Audio_Speech_Actors_01-24.ZIP.crdownload", "is an unfinished download"),
        ("speech_commands_v0.01.tar.gz", "speech_commands_v0.01.tar.gz is packed; unpack it"),
        ("vox1_dev_wav_partaa", "vox1_dev_wav_partaa is packed"),
    ],
)
def test_a_download_that_is_not_done_or_not_unpacked_is_named(tmp_path, name, said) -> None:
    (tmp_path / name).write_bytes(b"PK")
    (tmp_path / "README.txt").write_text("x")
    with refused(CorpusError, said):
        prepare("voxceleb1", tmp_path, tmp_path / "m.jsonl")


def test_packed_archives_are_named(tmp_path) -> None:
    trunk = tmp_path / "downloads/de/Trunk/Audio/Main/16kHz_16bit"
    trunk.mkdir(parents=True)
    (trunk / "a-20080318-kdl.tgz").write_bytes(b"x")
    with refused(CorpusError, "are packed", "tgz"):
        prepare("voxforge", tmp_path, tmp_path / "m.jsonl")


class Exploding:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_the_pickle_of_folds_runs_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split_indices.p").write_bytes(pickle.dumps([(Exploding(), Exploding())], protocol=2))
    with refused(CorpusError, "split_indices.p"):
        read_fold_indices(tmp_path / "split_indices.p")
    assert not (tmp_path / "boom").exists()


def test_a_pickle_of_python_2_is_read(tmp_path) -> None:
    """The authors' file: arrays whose bytes are a Python 2 string (opcode T)."""

    def array(*numbers: int) -> bytes:
        raw = struct.pack(f"<{len(numbers)}q", *numbers)
        kind = (
            b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        shape = b"K" + bytes([len(numbers)]) + b"\x85"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return made + b"(K\x01" + shape + kind + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"

    pickled = b"\x80\x02](" + array(1, 300) + array(0, 200) + b"\x86e."
    (tmp_path / "split_indices.p").write_bytes(pickled)
    assert read_fold_indices(tmp_path / "split_indices.p") == [([1, 300], [0, 200])]


@pytest.mark.parametrize("protocol", range(6))
def test_folds_of_every_pickle_protocol(tmp_path, protocol) -> None:
    folds = [(np.arange(3, 7), np.arange(3)), [[0, 300], [1]]]
    (tmp_path / "split_indices.p").write_bytes(pickle.dumps(folds, protocol))
    assert read_fold_indices(tmp_path / "split_indices.p") == [([3, 4, 5, 6], [0, 1, 2]), ([0, 300], [1])]


@pytest.mark.parametrize(
    "fold", [([1.5], [0]), (np.ones(2), np.ones(2)), ([1], []), ([-1], [0]), ("ab", "c"), (None, 1)]
)
def test_folds_without_row_numbers_are_refused(tmp_path, fold) -> None:
    (tmp_path / "split_indices.p").write_bytes(pickle.dumps([fold], protocol=2))
    with refused(CorpusError, "split_indices.p", "fetch it again"):
        read_fold_indices(tmp_path / "split_indices.p")


@pytest.mark.parametrize("content", [b"", b"]", b"<html>", b"\x80\x02]q\x00h\x00a.", b"\x80\x02K\x01."])
def test_a_file_that_holds_no_folds_is_refused(tmp_path, content) -> None:
    (tmp_path / "split_indices.p").write_bytes(content)
    with refused(CorpusError, "split_indices.p", "fetch it again"):
        read_fold_indices(tmp_path / "split_indices.p")


def test_a_far_memo_index_in_the_pickle_of_folds_costs_nothing(tmp_path) -> None:
    """CPython's own unpickler makes a table as long as the index: 610 MB."""
    (tmp_path / "split_indices.p").write_bytes(b"\x80\x02]r" + struct.pack("<I", 40_000_000) + b".")
    program = f"""if True:
        import resource
        from pathlib import Path
        from speechprompt.checkpoints import read_checkpoint
        from speechprompt.corpora.mustard import read_fold_indices
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 200 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(read_fold_indices(Path({str(tmp_path / "split_indices.p")!r})))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=80), start=st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"fLaC", b"ID3"]))
def test_any_bytes_give_a_header_or_an_audio_error(tmp_path_factory, content, start) -> None:
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    path.write_bytes(start + content)
    with contextlib.suppress(AudioError):
        assert read_header(path).container


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_corpus_error(tmp_path_factory, content) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_bytes(content)
    with contextlib.suppress(CorpusError):
        assert all(isinstance(row, dict) for row in read_table(path))


def test_headers_tell_durations(tmp_path) -> None:
    trees.wav(tmp_path / "a.wav", 1.5)
    assert read_header(tmp_path / "a.wav").seconds == pytest.approx(1.5)
    info = (
        struct.pack(">HH", 4096, 4096) + bytes(6) + ((16_000 << 44) | (15 << 36) | 24_000).to_bytes(8, "big")
    )
    (tmp_path / "a.flac").write_bytes(b"fLaC\x80\0\0\x22" + info + bytes(16))
    assert read_header(tmp_path / "a.flac") == ("flac", 1.5, 16_000)


def test_file_names_that_are_no_utf_8_survive(tmp_path) -> None:
    trees.accentdb(tmp_path / "root")
    odd = os.fsencode(next((tmp_path / "root").rglob("speaker_01"))) + b"/caf\xe9.wav"
    try:
        Path(os.fsdecode(odd)).write_bytes(b"RIFF")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    prepare("accentdb", tmp_path / "root", tmp_path / "m.jsonl")
    lines = (tmp_path / "m.jsonl").read_bytes().decode("utf-8").splitlines()
    audios = [json.loads(line)["audio"] for line in lines[1:]]
    assert os.fsdecode(b"caf\xe9.wav") in {audio.rpartition("/")[2] for audio in audios}
    assert all((tmp_path / audio).exists() for audio in audios)
