"""Sound in odd containers and types: as its samples say, or refused with a reason."""

import io
import struct

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from keras_multimodel import data
from keras_multimodel.data.preprocessing import audio_files
from tests.data.encoding import stopping_files

RATE = 8000
TONE = (0.5 * np.sin(np.arange(400) / 5) + 0.01).astype("float32")


def wav(subtype="PCM_16", samples=TONE, rate=RATE, form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def before_data(extra, content):
    start = content.index(b"data")
    content = content[:start] + extra + content[start:]
    return b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:]


def with_size(size, content):
    start = content.index(b"data") + 4
    return content[:start] + struct.pack("<I", size) + content[start + 4 :]


def both_ways(raw, preprocessor=None):
    """Reads eagerly and in a graph, and compares."""
    preprocessor = preprocessor or data.WaveformPreprocessor(RATE)
    eager = preprocessor(raw).numpy()
    mapped = next(iter(tf.data.Dataset.from_tensors(raw).map(preprocessor)))
    np.testing.assert_array_equal(eager, mapped)
    return eager


def assert_refused(raw, match):
    preprocessor = data.WaveformPreprocessor(RATE)
    with pytest.raises(data.BadExampleError, match=match) as caught:
        preprocessor.strict(raw)
    assert caught.value.reason == "broken audio"
    with pytest.raises(tf.errors.OpError):
        next(iter(tf.data.Dataset.from_tensors(raw).map(preprocessor.strict)))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iXML", b"<a>abc>"),
        chunk(b"LIST", b"INFOabc"),
        chunk(b"bext", b"\0" * 603) + chunk(b"junk", b"x"),
        b"iXML" + struct.pack("<I", 7) + b"<a>abc>",  # without the byte that makes it even
    ],
)
def test_chunks_of_odd_size_before_the_sound(subtype, extra):
    plain = wav(subtype)
    np.testing.assert_array_equal(both_ways(before_data(extra, plain)), both_ways(plain))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "DOUBLE", "ALAW"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_streams_that_do_not_know_their_size(subtype, size):
    plain = wav(subtype)
    for content in (plain, plain[:4] + b"\xff" * 4 + plain[8:]):
        np.testing.assert_array_equal(both_ways(with_size(size, content)), both_ways(plain))


def test_a_file_without_sound_is_not_a_stream():
    empty = wav(samples=TONE[:0])
    for content in (empty, empty + chunk(b"LIST", b"INFOabcd")):
        assert both_ways(content).tolist() == [np.float32(1e-6)]
        with pytest.raises(data.BadExampleError, match="must hold sound"):
            data.WaveformPreprocessor(RATE).strict(content)


def test_long_and_big_endian_containers():
    expected = both_ways(wav())
    long = wav(form="RF64")
    assert long[:4] == b"RF64"
    np.testing.assert_array_equal(both_ways(long), expected)
    np.testing.assert_array_equal(both_ways(b"BW64" + long[4:]), expected)
    file = io.BytesIO()
    soundfile.write(file, TONE, RATE, format="WAV", subtype="PCM_16", endian="BIG")
    assert file.getvalue()[:4] == b"RIFX"
    np.testing.assert_array_equal(both_ways(file.getvalue()), expected)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW"])
def test_a_file_that_was_cut_is_bad(form, subtype):
    content = wav(subtype, form=form)
    for kept in (len(content) // 2, len(content) - 2):
        assert_refused(content[:kept], rf"Received: {kept} bytes, \d+ of \d+ bytes of sound")


@pytest.mark.parametrize("rate", [0, 1, 2_000_000, 0xFFFFFFFF])
def test_absurd_rates(rate):
    content = wav()
    assert_refused(content[:24] + struct.pack("<I", rate) + content[28:], "`raw` must")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_that_is_cut_changed_or_of_a_stream(subtype):
    content = wav(subtype, form="FLAC")
    assert_refused(content[: len(content) // 2], "FLAC or WAV file")
    unknown_sum = content[:26] + bytes(16) + content[42:]
    np.testing.assert_array_equal(both_ways(unknown_sum), both_ways(content))
    assert_refused(unknown_sum[: len(content) // 2], "FLAC or WAV file")
    changed = bytearray(content)
    changed[-20] ^= 0xFF
    assert_refused(bytes(changed), "FLAC or WAV file")
    stream = content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:]
    assert_refused(stream, "without its number of samples")


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32"]
)
def test_samples_are_scaled_by_their_type(dtype):
    if dtype.startswith("f"):
        samples, step = TONE.astype(dtype), 1e-3
    else:
        limits = np.iinfo(dtype)
        half = 2.0 ** (limits.bits - 1)
        samples = (TONE * half + (half if limits.min == 0 else 0)).astype(dtype)
        step = max(2.0 / half, 1e-6)
    np.testing.assert_allclose(both_ways(samples), TONE, atol=step)


def test_bytes_and_arrays_of_8_bits_agree():
    unsigned = np.round(TONE * 128 + 128).astype("uint8")
    content = wav("PCM_U8", (unsigned / 128.0 - 1).astype("float32"))
    np.testing.assert_allclose(both_ways(unsigned), both_ways(content), atol=1e-6)
    assert abs(both_ways(unsigned).mean()) < 0.03


@pytest.mark.parametrize("preprocessor", [data.AudioPreprocessor, data.WaveformPreprocessor])
def test_the_longest_file_is_an_argument(preprocessor):
    second = stopping_files.sound(seconds=1.0)
    audio = preprocessor.from_config(preprocessor(max_seconds=1).get_config())
    assert len(audio(second)) in (100, 8000)
    short = preprocessor(max_seconds=0.5)
    with pytest.raises(data.BadExampleError, match="at most 0.5 seconds. Received: 1") as error:
        short(second)
    assert error.value.reason == "too long"
    assert len(short(np.ones(8000, "float32"))) in (100, 8000)  # samples are in memory already
    for value in (0, -1, "1", None, float("nan")):
        with pytest.raises(ValueError, match=f"`max_seconds` must.*max_seconds={value!r}"):
            preprocessor(max_seconds=value)
    with pytest.raises(ValueError, match="at most 1000000.*sampling_rate=1000001"):
        preprocessor(1_000_001)


def test_samples_of_all_channels_count(monkeypatch):
    monkeypatch.setattr(audio_files, "_MOST_SAMPLES", 8000)
    for channels, seconds in ((2, 0.5), (1, 1.0)):
        data.WaveformPreprocessor()(stopping_files.sound(seconds=seconds, channels=channels))
    with pytest.raises(data.BadExampleError, match="8000 samples in all.*4001 in each of 2"):
        data.WaveformPreprocessor()(stopping_files.sound(seconds=4001 / 8000, channels=2))


@pytest.mark.parametrize("cut", [1, 20, 3000])
def test_an_ogg_file_that_was_cut_is_bad(cut):
    content = stopping_files.sound("VORBIS", "OGG")
    assert len(data.WaveformPreprocessor()(content)) == 4000
    with pytest.raises(data.BadExampleError, match="without the end of its last page"):
        data.WaveformPreprocessor()(content[:-cut])
