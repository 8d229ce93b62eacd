"""Decoding: every hostile file ends in one line, every honest one in the same samples, whatever it is in."""

from __future__ import annotations

import errno
import io
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprompt.errors import AudioError, MissingExtra
from speechprompt.speech.audio import AudioLimits, audio_hash, probe, read_waveform, read_waveform_bytes

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)


def encoded(
    samples: np.ndarray, rate: int = 16_000, container: str = "WAV", subtype: str | None = None
) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=container, subtype=subtype)
    return out.getvalue()


def one_line(error: pytest.ExceptionInfo[AudioError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


NAN = np.where(np.arange(16_000) == 15_000, np.nan, NOISE)
INFINITE = np.where(np.arange(16_000) == 3, np.inf, NOISE)
HOSTILE = {
    "empty.wav": (b"", "empty"),
    "text.wav": (b"this is a shopping list\n" * 40, "not audio"),
    "truncated.wav": (encoded(NOISE)[:9_001], "truncated"),
    "truncated.aiff": (encoded(NOISE, container="AIFF")[:9_001], "truncated"),
    "truncated.flac": (encoded(NOISE, container="FLAC")[:9_001], "truncated"),
    "truncated.ogg": (encoded(NOISE, container="OGG", subtype="VORBIS")[:4_000], "truncated"),
    "truncated.mp3": (encoded(NOISE, container="MP3")[:2_000], "truncated"),
    "header.wav": (encoded(NOISE)[:30], "not audio"),
    "no_samples.wav": (encoded(NOISE[:0]), "no samples"),
    "nan.wav": (encoded(NAN, subtype="FLOAT"), "not numbers"),
    "inf.wav": (encoded(INFINITE, subtype="FLOAT"), "not numbers"),
    "raw.raw": (NOISE.tobytes(), "not audio"),
    "fake.m4a": (b"\x00\x00\x00\x20ftypM4A " + b"\x00" * 400, "truncated or damaged"),
    "fake.webm": (b"\x1aE\xdf\xa3" + b"\x00" * 400, "truncated or damaged"),
    "fake.mp4": (
        b"s=a\nftypjp2 \r\nv=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        b"m=audio 49170 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n",
        "truncated or damaged (Invalid data",  # not a connection that timed out: SDP asks to be listened for
    ),
}


@pytest.mark.parametrize("sample_rate", [16_000, 24_000])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_line_that_names_them(
    name: str, sample_rate: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content, expected = HOSTILE[name]
    if name.startswith("fake"):
        pytest.importorskip("av")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError) as error:
        read_waveform(path, sample_rate)
    assert str(path) in one_line(error)
    assert expected in str(error.value)
    with pytest.raises(AudioError) as error:
        read_waveform_bytes(content, sample_rate, name="upload")
    assert one_line(error).startswith("upload")


def test_missing_folder_and_impossible_paths_are_audio_errors(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "absent.wav", "does not exist"),
        (tmp_path, "folder"),
        ("a\0b.wav", "does not exist"),
        ("/dev/null", "regular file"),
    ):
        with pytest.raises(AudioError, match=expected):
            read_waveform(path, 16_000)
        with pytest.raises(AudioError, match=expected):
            probe(path)


def test_a_file_that_may_not_be_read_is_an_audio_error(tmp_path: Path, close: Callable[[Path], None]) -> None:
    path = tmp_path / "closed.wav"
    soundfile.write(path, NOISE, 16_000)
    close(path)
    with pytest.raises(AudioError, match=r"closed\.wav cannot be read \(Permission denied\); check its perm"):
        probe(path)
    with pytest.raises(AudioError, match=r"closed\.wav cannot be read"):
        read_waveform(path, 16_000)


def test_a_disk_that_fails_while_it_is_read_is_an_audio_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "failing.wav"
    soundfile.write(path, NOISE, 16_000)
    monkeypatch.setattr(Path, "open", lambda self, mode: Failing())
    with pytest.raises(AudioError, match=r"failing\.wav cannot be read \(Input/output error\)"):
        read_waveform(path, 16_000)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_read_or_refused_but_never_crash(data: st.DataObject) -> None:
    container = data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "AIFF"]))
    content = bytearray(encoded(NOISE[:2_000], container=container))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        waveform, _ = read_waveform_bytes(bytes(content), 16_000, limits=AudioLimits(hours=0.1))
    except AudioError:
        return
    assert waveform.dtype == np.float32
    assert np.isfinite(waveform).all()


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16")]
)
def test_exact_containers_give_back_the_samples(container: str, subtype: str) -> None:
    waveform, notices = read_waveform_bytes(encoded(NOISE, 16_000, container, subtype), 16_000)
    assert np.abs(waveform - NOISE).max() < 1 / 32_000
    assert notices == ()


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_lossy_containers_give_back_the_sound(container: str, subtype: str | None) -> None:
    tone = (0.5 * np.sin(np.arange(32_000) * 0.2)).astype(np.float32)
    waveform, _ = read_waveform_bytes(encoded(tone, 16_000, container, subtype), 16_000)
    assert abs(len(waveform) - len(tone)) < 2_000
    power = np.abs(np.fft.rfft(waveform[4_000:28_000]))
    assert power.argmax() == pytest.approx(0.2 / (2 * np.pi) * 24_000, abs=2)


@given(rate=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000]), length=st.integers(4, 5_000))
@settings(max_examples=30, deadline=None)
def test_blockwise_resampling_equals_one_piece(rate: int, length: int) -> None:
    samples = np.resize(NOISE, length)
    content = encoded(samples, rate, subtype="FLOAT")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("speechprompt.speech.decoders.BLOCK_SAMPLES", 777)
        waveform, notices = read_waveform_bytes(content, 16_000)
    assert len(notices) == 1
    expected = soxr.resample(samples, rate, 16_000, quality="VHQ")
    np.testing.assert_allclose(waveform, expected, atol=1e-6)


def test_a_hundredth_of_a_second_is_read() -> None:
    waveform, _ = read_waveform_bytes(encoded(NOISE[:160]), 16_000)
    assert waveform.shape == (160,)


def test_channels_are_averaged_and_the_user_is_told() -> None:
    channels = np.stack([NOISE, -NOISE, NOISE, np.zeros_like(NOISE)], axis=1)
    waveform, notices = read_waveform_bytes(encoded(channels, subtype="FLOAT"), 16_000, name="quad.wav")
    np.testing.assert_allclose(waveform, NOISE / 4, atol=1e-7)
    assert notices == ("quad.wav: 4 channels were mixed to one",)


def test_resampling_notices_say_what_is_lost_or_absent() -> None:
    _, lost = read_waveform_bytes(encoded(NOISE, 44_100), 16_000)
    _, absent = read_waveform_bytes(encoded(NOISE, 8_000), 16_000)
    assert "above 8000 Hz is lost" in lost[0]
    assert "above 4000 Hz there is nothing" in absent[0]


def test_eight_channels_at_192_kHz_are_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "array.wav"
    with soundfile.SoundFile(path, "w", 192_000, 8, subtype="PCM_16") as file:
        for _ in range(20):
            file.write(np.zeros((192_000, 8), np.int16))
    read_waveform(path, 16_000, 0.0, 0.1)
    tracemalloc.start()
    waveform, _ = read_waveform(path, 16_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert waveform.shape == (20 * 16_000,)
    assert peak < 16 << 20  # the file decodes to 123 MB


def test_limits_are_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encoded(NOISE))

    def forbidden(*_: object) -> None:
        raise AssertionError("decoded a file that is over the limit")

    monkeypatch.setattr("speechprompt.speech.decoders._SoundFileDecoder.blocks", forbidden)
    with pytest.raises(AudioError, match=r"over the limit of 0\.36 s"):
        read_waveform(path, 16_000, limits=AudioLimits(hours=0.0001))
    with pytest.raises(AudioError, match="over the limit of 1,000"):
        read_waveform(path, 16_000, limits=AudioLimits(size_bytes=1_000))


def endless_flac() -> bytes:
    """A FLAC stream whose header does not know its length, as pipes write them."""
    content = bytearray(encoded(NOISE, container="FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def test_a_stream_of_unknown_length_is_read_to_its_end_and_no_further_than_the_limit() -> None:
    waveform, _ = read_waveform_bytes(endless_flac(), 16_000)
    np.testing.assert_array_equal(waveform, read_waveform_bytes(encoded(NOISE, container="FLAC"), 16_000)[0])
    with pytest.raises(AudioError, match="over the limit"):
        read_waveform_bytes(endless_flac(), 16_000, limits=AudioLimits(hours=0.5 / 3600))


def test_wav_from_a_pipe_with_placeholder_sizes_is_not_called_truncated() -> None:
    content = bytearray(encoded(NOISE))
    content[4:8] = content[40:44] = b"\xff" * 4
    assert len(read_waveform_bytes(bytes(content), 16_000)[0]) == 16_000


@given(start=st.integers(0, 15_000), length=st.integers(1, 5_000))
@settings(max_examples=30, deadline=None)
def test_a_span_is_the_slice(start: int, length: int) -> None:
    content = encoded(NOISE, container="FLAC")
    whole, _ = read_waveform_bytes(content, 16_000)
    span, _ = read_waveform_bytes(content, 16_000, start / 16_000, min(16_000, start + length) / 16_000)
    np.testing.assert_array_equal(span, whole[start : start + length])


@pytest.mark.parametrize(
    ("start", "end"), [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.5), (1.0, None), (0.0, 1.1), (float("nan"), 0.5)]
)
def test_spans_outside_the_file_are_refused(start: float, end: float | None) -> None:
    with pytest.raises(AudioError, match="span") as error:
        read_waveform_bytes(encoded(NOISE), 16_000, start, end)
    one_line(error)


def test_a_span_may_end_a_rounding_error_after_the_file() -> None:
    assert len(read_waveform_bytes(encoded(NOISE), 16_000, 0.5, 1.01)[0]) == 8_000


def test_probe_tells_the_header(tmp_path: Path) -> None:
    path = tmp_path / "stereo.flac"
    path.write_bytes(encoded(np.stack([NOISE, NOISE], 1), 44_100, "FLAC"))
    header = probe(path)
    assert (header.sample_rate, header.channels, header.format) == (44_100, 2, "FLAC")
    assert header.duration_seconds == pytest.approx(16_000 / 44_100)


def test_equal_sound_has_equal_hash_and_the_rate_counts() -> None:
    samples = (NOISE * 32_767).astype(np.int16)
    wav, _ = read_waveform_bytes(encoded(samples), 16_000)
    flac, _ = read_waveform_bytes(encoded(samples, container="FLAC"), 16_000)
    assert audio_hash(wav, 16_000) == audio_hash(flac, 16_000)
    assert audio_hash(wav, 16_000) != audio_hash(wav, 8_000)
    assert audio_hash(wav[::2], 16_000) == audio_hash(wav[::2].copy(), 16_000)


@pytest.mark.parametrize(
    ("container", "codec", "rate"), [("webm", "libopus", 48_000), ("mp4", "aac", 44_100)]
)
def test_what_browsers_and_phones_record_is_read(
    container: str, codec: str, rate: int, tmp_path: Path
) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / f"recording.{container}"
    tone = (0.3 * np.sin(np.arange(rate) * 2 * np.pi * 440 / rate)).astype(np.float32)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, rate, 960):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 960], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    waveform, _ = read_waveform(path, 16_000)
    assert len(waveform) == pytest.approx(16_000, abs=1_600)
    assert np.abs(np.fft.rfft(waveform[:15_000])).argmax() == pytest.approx(440 * 15_000 / 16_000, abs=2)
    span, _ = read_waveform_bytes(path.read_bytes(), 16_000, 0.25, 0.5)
    np.testing.assert_allclose(span[1_000:3_000], waveform[5_000:7_000], atol=1e-3)


def test_media_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match="media"):
        read_waveform_bytes(HOSTILE["fake.webm"][0], 16_000)


def test_odd_media_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "odd.webm"
    tone = (0.3 * np.sin(np.arange(48_000) / 20)).astype(np.float32)
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "XXcafeXX"
        stream = out.add_stream("libopus", rate=48_000, layout="mono")
        for start in range(0, 48_000, 960):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 960], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    content = path.read_bytes()
    assert b"XXcafeXX" in content
    waveform, _ = read_waveform_bytes(content.replace(b"XXcafeXX", b"XXcaf\xe9XX"), 16_000)
    assert len(waveform) == pytest.approx(16_000, abs=1_600)
    with pytest.raises(AudioError, match="cannot be decoded here"):
        read_waveform_bytes(content.replace(b"A_OPUS", b"A_ZPUS"), 16_000)
