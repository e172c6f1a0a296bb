import io
import types
import warnings

import numpy as np
import pytest
import scipy.signal
import soundfile
import tensorflow as tf

from keras_multimodel import data, datasets
from keras_multimodel.data.preprocessing import audio, audio_files

NATIVE = audio_files.native_ops()


@pytest.fixture(scope="module")
def flac():
    return next(datasets.load("speech").as_numpy_iterator())["inputs"]


@pytest.fixture(params=["native", "fallback"])
def path(request, monkeypatch):
    if request.param == "native":
        if NATIVE is None:
            pytest.skip("tensorflow-io has no native ops here")
    else:
        force_fallback(monkeypatch)
    return request.param


def force_fallback(monkeypatch):
    monkeypatch.setattr(audio_files, "native_ops", lambda: None)
    monkeypatch.setattr(audio, "native_ops", lambda: None)


def encoded(samples, rate=8000, form="FLAC", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def tone(frequency, rate, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def reference_log_mel(samples, rate, window, stride, fft_length, bins, lowest, highest):
    """Log-mel by the definition: HTK mel scale, triangles on it, periodic Hann window."""
    count = -(-len(samples) // stride)
    samples = np.pad(samples, (0, count * stride + window))
    hann = scipy.signal.get_window("hann", window, fftbins=True)
    frames = np.stack([samples[i * stride :][:window] * hann for i in range(count)])
    magnitudes = np.abs(np.fft.rfft(frames, fft_length))
    mel = 1127.0 * np.log1p(np.fft.rfftfreq(fft_length, 1 / rate) / 700.0)
    edges = np.linspace(*(1127.0 * np.log1p(np.array([lowest, highest]) / 700.0)), bins + 2)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    weights[0] = 0
    decibels = 10 * np.log10(np.maximum((magnitudes @ weights) ** 2, 1e-10))
    return np.maximum(decibels, decibels.max() - 80)


@pytest.mark.parametrize(
    "arguments,framing",
    [
        ({}, (200, 80, 256, 40, 60, 4000)),
        (
            {
                "num_mel_bins": 20,
                "frame_length": 32,
                "frame_step": 20.0,
                "min_frequency": 100,
                "max_frequency": 3000.0,
            },
            (256, 160, 256, 20, 100, 3000),
        ),
    ],
)
def test_log_mel_by_its_definition(path, flac, arguments, framing):
    preprocessor = data.AudioPreprocessor(8000, mean=-30.0, std=10.0, **arguments)
    samples, rate = soundfile.read(io.BytesIO(flac))
    expected = (reference_log_mel(samples, rate, *framing) + 30) / 10
    np.testing.assert_allclose(preprocessor(flac), expected, atol=2e-3)


def test_native_and_fallback_agree_inside_tf_data(monkeypatch):
    if NATIVE is None:
        pytest.skip("tensorflow-io has no native ops here")
    raw = datasets.load("speech", "test").map(lambda example: example["inputs"])
    native = list(raw.map(data.AudioPreprocessor()).as_numpy_iterator())
    force_fallback(monkeypatch)
    dataset = raw.map(data.AudioPreprocessor())
    assert dataset.element_spec == tf.TensorSpec((None, 40), tf.float32)
    for one, other in zip(native, dataset.as_numpy_iterator(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_speech_is_about_standard_normal():
    raw = datasets.load("speech", "test").map(lambda example: example["inputs"])
    values = np.concatenate(list(raw.map(data.AudioPreprocessor()).as_numpy_iterator()))
    assert abs(values.mean()) < 0.3 and 0.7 < values.std() < 1.4 and np.abs(values).max() < 5


def test_no_real_frame_is_all_zeros(path):
    silence = data.AudioPreprocessor()(encoded(np.zeros(800)))
    np.testing.assert_allclose(silence, np.full((10, 40), (-100 + 20) / 20), atol=1e-4)
    samples = data.WaveformPreprocessor()(encoded(np.zeros(800))).numpy()
    assert samples.shape == (800,) and np.all(samples == np.float32(1e-6))


def test_frames(path):
    preprocessor = data.AudioPreprocessor()
    for samples, frames in ((1, 1), (80, 1), (81, 2), (800, 10)):
        assert preprocessor(encoded(np.full(samples, 0.1))).shape == (frames, 40)
    assert preprocessor(np.zeros(0, "float32")).shape == (1, 40)


@pytest.mark.parametrize(
    "form,subtype",
    [
        ("FLAC", "PCM_16"),
        ("FLAC", "PCM_24"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_waveform_of_every_form(path, form, subtype, channels):
    samples = tone(440, 8000)
    both = np.stack([samples, samples / 2][:channels], axis=1)
    raw = encoded(both, 8000, form, subtype)
    expected = np.where(both.mean(axis=1) == 0, 1e-6, both.mean(axis=1))
    preprocessor = data.WaveformPreprocessor()
    np.testing.assert_allclose(preprocessor(raw), expected, atol=4e-5)
    mapped = tf.data.Dataset.from_tensors(raw).map(preprocessor)
    assert mapped.element_spec == tf.TensorSpec((None,), tf.float32)
    np.testing.assert_allclose(next(iter(mapped)), preprocessor(raw), atol=1e-7)


@pytest.mark.parametrize("rate", [6000, 11025, 16000, 44100])
def test_resampling_keeps_the_signal_in_place(path, rate):
    result = data.WaveformPreprocessor(8000)(encoded(tone(440, rate), rate)).numpy()
    expected = tone(440, 8000)
    assert abs(len(result) - len(expected)) <= 1
    inner = slice(100, 3900)  # away from the edges, where filters ring
    np.testing.assert_allclose(result[inner], expected[inner], atol=0.002)


def test_native_and_fallback_resample_alike(monkeypatch, flac):
    if NATIVE is None:
        pytest.skip("tensorflow-io has no native ops here")
    samples, _ = soundfile.read(io.BytesIO(flac))
    raw = encoded(scipy.signal.resample_poly(samples, 2, 1), 16000)
    preprocessor = data.AudioPreprocessor(8000)
    native, direct = preprocessor(raw).numpy(), preprocessor(flac).numpy()
    force_fallback(monkeypatch)
    fallback = preprocessor(raw).numpy()
    assert native.shape == fallback.shape == direct.shape
    # The filters differ near half the sampling rate: compare the bands below.
    assert np.abs(native - fallback)[:, :35].mean() < 0.01
    assert np.abs(native - direct)[:, :35].mean() < 0.01


@pytest.mark.parametrize("dtype,scale", [("float32", 1), ("float64", 1), ("int16", 2**15)])
def test_samples_instead_of_a_file(dtype, scale):
    samples = tone(440, 8000) + 0.01
    result = data.WaveformPreprocessor()((samples * scale).astype(dtype))
    np.testing.assert_allclose(result, samples, atol=4e-5)
    assert result.dtype == tf.float32


@pytest.mark.parametrize("broken", [b"", b"junk", b"fLaC", "cut"])
def test_broken_files(path, flac, broken, capfd):
    raw = flac[:300] if broken == "cut" else broken
    preprocessor = data.AudioPreprocessor()
    with pytest.raises(ValueError, match=f"FLAC or WAV file. Received: {len(raw)} bytes"):
        preprocessor(raw)
    with pytest.raises(tf.errors.OpError):
        next(iter(tf.data.Dataset.from_tensors(raw).map(preprocessor)))


def test_missing_native_ops_are_said_once(monkeypatch):
    def unavailable(*args, **kwargs):
        raise NotImplementedError("unable to open file: libtensorflow_io.so")

    ops = pytest.importorskip("tensorflow_io.python.ops")
    broken = types.SimpleNamespace(io_audio_resample=unavailable)
    monkeypatch.setattr(ops, "core_ops", broken)
    audio_files.native_ops.cache_clear()
    try:
        with pytest.warns(UserWarning, match="decoded by soundfile .* libtensorflow_io"):
            assert audio_files.native_ops() is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert audio_files.native_ops() is None
    finally:
        audio_files.native_ops.cache_clear()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"sampling_rate": 0}, "`sampling_rate` must be a positive integer.*sampling_rate=0"),
        ({"num_mel_bins": 0}, "`num_mel_bins` must be a positive integer.*num_mel_bins=0"),
        ({"num_mel_bins": 200}, "`num_mel_bins` must be small enough.*num_mel_bins=200"),
        ({"frame_length": 0.0}, "`frame_length` must be at least one.*frame_length=0.0"),
        ({"frame_step": -1}, "`frame_step` must be at least one.*frame_step=-1"),
        ({"min_frequency": 5000}, "must ascend.*min_frequency=5000, max_frequency=None"),
        ({"max_frequency": 5000}, "must ascend.*min_frequency=60.0, max_frequency=5000"),
        ({"std": 0}, "`std` must be positive. Received: std=0"),
        ({"frame_length": 1e9}, r"table of 16777216 weights.*frame_length=1000000000.0"),
        ({"num_mel_bins": 10**8}, r"table of 16777216 weights.*num_mel_bins=100000000"),
        ({"mean": -100}, "`mean` must be above -100, silence. Received: mean=-100"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.AudioPreprocessor(**arguments)


def test_errors():
    with pytest.raises(ValueError, match="`sampling_rate` must be .*sampling_rate=8000.5"):
        data.WaveformPreprocessor(8000.5)
    with pytest.raises(ValueError, match=r"samples of rank 1. Received: shape=\(1, 2\), dtype=f"):
        data.AudioPreprocessor()(np.zeros((1, 2), "float32"))
    with pytest.raises(ValueError, match=r"samples of rank 1. Received: shape=\(2,\), dtype=stri"):
        data.AudioPreprocessor()([b"a", b"b"])
    with pytest.raises(ValueError, match=r"samples of rank 1. Received: shape=\(2,\), dtype=bool"):
        data.AudioPreprocessor()([True, False])
