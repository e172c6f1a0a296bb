"""Decoding and resampling of audio: tensorflow-io where its native ops load, else soundfile."""

import functools
import hashlib
import io
import math
import warnings
from collections.abc import Callable

import numpy as np
import scipy.signal
import soundfile
import tensorflow as tf

from keras_multimodel import user_warnings
from keras_multimodel.data.encoding.bad_examples import BadExampleError, require

_HEADER = 44
_FLAC_SUM = slice(26, 42)  # MD5 of the samples, in the block STREAMINFO; zeros if it is unknown
# Taps of the filter in tensorflow-io's resampler (speex, quality 4); its output is late by half.
_RESAMPLER_TAPS = 64


@functools.cache
def native_ops():
    """Returns tensorflow-io's module of ops, or None where they do not load; says so once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorflow_io.python.ops import core_ops
        core_ops.io_audio_resample(tf.zeros((8, 1)), rate_in=8000, rate_out=8000)
    except (ImportError, NotImplementedError, AttributeError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        user_warnings.warn(
            "The native ops of tensorflow-io do not load: audio is decoded by soundfile and "
            f"resampled by scipy instead ({reason})",
        )
        return None
    return core_ops


def read_waveform(raw, sampling_rate: int, check: Callable = tf.identity) -> tf.Tensor:
    """Returns audio as one channel of float32 samples, mostly from -1 to 1.

    Args:
        raw: the bytes of a FLAC or WAV file, or samples at `sampling_rate`, `(samples,)`: floats,
            or integers of which the largest of their type means 1.
        sampling_rate: samples in a second.
        check: what the samples pass before they are resampled, such as `check_sound`.

    Returns:
        float32 `(samples,)` at `sampling_rate`, with at least one sample.

    Raises:
        ValueError: `raw` is no such file, or has another rank or dtype.
    """
    raw = tf.convert_to_tensor(raw)
    is_file = raw.dtype == tf.string
    if raw.shape.rank not in (0 if is_file else 1, None) or raw.dtype.is_bool:
        raise ValueError(
            "`raw` must be the bytes of one audio file or samples of rank 1. "
            f"Received: shape={raw.shape}, dtype={raw.dtype.name}"
        )
    if is_file:
        waveform = _read_file(raw, sampling_rate, check)
    elif raw.dtype.is_integer:
        waveform = check(tf.cast(raw, tf.float32) / (float(raw.dtype.max) + 1.0))
    else:
        waveform = check(tf.cast(raw, tf.float32))
    lacking = tf.maximum(1 - tf.size(waveform), 0)
    return tf.ensure_shape(tf.pad(waveform, [[0, lacking]]), (None,))


def check_sound(waveform: tf.Tensor) -> tf.Tensor:
    """Returns samples if they are finite and not all equal.

    Args:
        waveform: float32 `(samples,)`.

    Returns:
        The same.

    Raises:
        BadExampleError: they are not. In a graph a `tf.errors.InvalidArgumentError`.
    """
    waveform = require(
        waveform,
        tf.reduce_all(tf.math.is_finite(waveform)),
        "not finite",
        lambda: "`raw` must hold finite samples. Received: some that are NaN or infinite",
    )
    return require(
        waveform,
        tf.reduce_any(waveform != waveform[:1]),
        "silent audio",
        lambda: f"`raw` must hold sound. Received: {tf.size(waveform)} equal samples",
    )


def _read_file(content, sampling_rate, check):
    try:
        waveform, rate = _decode(content)
        waveform = check(waveform)
        return tf.cond(
            tf.equal(rate, sampling_rate),
            lambda: waveform,
            lambda: resample(waveform, rate, sampling_rate),
        )
    except (tf.errors.OpError, soundfile.LibsndfileError) as error:
        raise BadExampleError(
            "broken audio",
            "`raw` must be the bytes of a FLAC or WAV file. "
            f"Received: {tf.strings.length(content)} bytes, {error}",
        ) from error


def _decode(content):
    """Returns float32 samples of one channel, and their int64 rate."""
    if native_ops() is None:
        return _decode_soundfile(content)
    (is_flac, flac_rate), (is_wav, wav_rate) = _headers(content)
    return tf.case(
        [
            (is_flac, lambda: (_decode_native("flac", content), flac_rate)),
            (is_wav, lambda: (_decode_native("wav", content), wav_rate)),
        ],
        default=lambda: _decode_soundfile(content),
    )


def _headers(content):
    """Reads whether a file is 16-bit FLAC, or 16-bit WAV, and its rate, as each format says it."""
    head = tf.strings.join([tf.strings.substr(content, 0, _HEADER), "\0" * _HEADER])
    head = tf.io.decode_raw(tf.strings.substr(head, 0, _HEADER), tf.uint8)
    byte = tf.unstack(tf.cast(tf.ensure_shape(head, (_HEADER,)), tf.int64))
    starts_flac = tf.strings.regex_full_match(tf.strings.substr(content, 0, 4), "fLaC")
    flac_rate = (byte[18] * 256 + byte[19]) * 16 + byte[20] // 16
    flac_bits = (byte[20] % 2) * 16 + byte[21] // 16 + 1
    starts_wav = tf.reduce_all(
        [head[index] == code for index, code in [*enumerate(b"RIFF"), *enumerate(b"WAVEfmt ", 8)]]
    )
    is_pcm = (byte[20] + 256 * byte[21]) == 1
    wav_rate = byte[24] + 256 * (byte[25] + 256 * byte[26])
    return (
        (starts_flac & (flac_bits == 16), flac_rate),
        (starts_wav & is_pcm & (byte[34] == 16), wav_rate),
    )


def _decode_native(form, content):
    decode = getattr(native_ops(), f"io_audio_decode_{form}")
    samples = decode(content, shape=tf.constant([-1, -1], tf.int64), dtype=tf.int16)
    if form == "flac":
        samples = _check_flac(samples, content)
    return tf.reduce_mean(tf.cast(samples, tf.float32), axis=1) / 32768.0


def _check_flac(samples, content):
    """Compares samples with the sum that the file has of them: tensorflow-io passes over errors."""

    def is_whole(samples, content):
        content = content if isinstance(content, bytes) else content.item()
        wanted = content[_FLAC_SUM]
        return not any(wanted) or hashlib.md5(samples.astype("<i2").tobytes()).digest() == wanted

    whole = tf.numpy_function(is_whole, [samples, content], tf.bool, stateful=False)
    return require(
        samples,
        tf.ensure_shape(whole, ()),
        "broken audio",
        lambda: "`raw` must be a whole FLAC file. Received: one whose samples have another MD5 sum",
    )


def _decode_soundfile(content):
    def decode(content):
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        return samples.mean(axis=1, dtype="float32"), np.int64(rate)

    if tf.executing_eagerly():
        samples, rate = decode(content.numpy())
        return tf.constant(samples), tf.constant(rate)
    samples, rate = tf.numpy_function(decode, [content], (tf.float32, tf.int64))
    return tf.ensure_shape(samples, (None,)), tf.ensure_shape(rate, ())


def resample(waveform, rate, sampling_rate: int) -> tf.Tensor:
    """Resamples float32 `(samples,)` from one rate to another, without delay."""
    if native_ops() is None:
        return _resample_scipy(waveform, rate, sampling_rate)
    rate = tf.cast(rate, tf.int64)
    target = tf.constant(sampling_rate, tf.int64)
    taps = tf.maximum(_RESAMPLER_TAPS * rate // target, _RESAMPLER_TAPS)
    late = ((taps - 1) // 8 * 8 + 8) // 2  # samples before resampling
    before = tf.math.floormod(-late, rate)  # makes it whole seconds
    padded = tf.pad(waveform, [[before, late + rate // target + 2]])[:, tf.newaxis]
    resampled = native_ops().io_audio_resample(padded, rate_in=rate, rate_out=target)[:, 0]
    start = (late + before) // rate * target
    length = -tf.math.floordiv(-tf.size(waveform, tf.int64) * target, rate)
    return resampled[start : start + length]


def _resample_scipy(waveform, rate, sampling_rate):
    def convert(waveform, rate):
        common = math.gcd(int(rate), sampling_rate)
        converted = scipy.signal.resample_poly(
            waveform, sampling_rate // common, int(rate) // common
        )
        return converted.astype("float32")

    if tf.executing_eagerly():
        return tf.constant(convert(waveform.numpy(), rate.numpy()))
    return tf.ensure_shape(tf.numpy_function(convert, [waveform, rate], tf.float32), (None,))
