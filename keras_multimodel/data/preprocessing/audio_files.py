"""Sound of any form as one channel of float32 samples: decoding, checks, resampling.

soundfile decodes all files. tensorflow-io's parser of WAV loses the sound behind a chunk of odd
size and does not notice a cut file, and its decoder of FLAC takes five to seven times as long.
"""

import functools
import hashlib
import io
import math
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.signal
import soundfile
import tensorflow as tf

from keras_multimodel import user_warnings
from keras_multimodel.data.encoding.bad_examples import BadExampleError, require
from keras_multimodel.data.preprocessing.preprocessor import in_python

_FLAC_SUM = slice(26, 42)  # MD5 of the samples, in the block STREAMINFO; zeros if it is unknown
# Byte order of the numbers in a file of chunks, by its first four bytes.
_RIFF = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
# Sizes that a writer leaves in a header which it cannot go back to: ffmpeg all ones, arecord 2^31,
# sox 2^31 less a block. No sound of this size would fit beside them in a file of chunks.
_STREAMED = 0x7FFFF000
_RATES = (100, 1_000_000)
MAX_RATE = _RATES[1]
MAX_SECONDS = 600.0
_MOST_SAMPLES = 1 << 26  # of all channels: ten minutes of a CD and some
_UNKNOWN = 1 << 40  # what libsndfile says of a FLAC file that does not say how many it has
_MOST_CHUNKS = 10_000
# Taps of the filter in tensorflow-io's resampler (speex, quality 4); its output is late by half.
_RESAMPLER_TAPS = 64


@functools.cache
def native_ops():
    """Returns tensorflow-io's module of ops, or None, with one warning, where they do not load."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorflow_io.python.ops import core_ops
        with tf.init_scope():  # or it would become a part of the graph that is open around it
            core_ops.io_audio_resample(tf.zeros((8, 1)), rate_in=8000, rate_out=8000)
    except (ImportError, NotImplementedError, AttributeError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        user_warnings.warn(
            "The native ops of tensorflow-io do not load: audio is decoded by soundfile as always, "
            f"and resampled by scipy and cut into frames by TensorFlow instead ({reason})"
        )
        return None
    return core_ops


def read_waveform(
    raw: Any,
    sampling_rate: int,
    check: Callable = tf.identity,
    max_seconds: float = MAX_SECONDS,
) -> tf.Tensor:
    """Returns audio as one channel of float32 samples, mostly from -1 to 1.

    Args:
        raw: the bytes of a FLAC or WAV file, or samples at `sampling_rate`, `(samples,)`: floats,
            or integers, whose type has the range from -1 to 1.
        sampling_rate: samples in a second.
        check: function of the samples before they are resampled, such as `check_sound`.
        max_seconds: the longest file, by its header.

    Returns:
        float32 `(samples,)` at `sampling_rate`, with at least one sample.

    Raises:
        ValueError: `raw` is no such file, is too long, or has another rank or dtype.
    """
    raw = tf.convert_to_tensor(raw)
    is_file = raw.dtype == tf.string
    if raw.shape.rank not in (0 if is_file else 1, None) or raw.dtype.is_bool:
        expected = "`raw` must be the bytes of one audio file or samples of rank 1"
        raise ValueError(f"{expected}. Received: shape={raw.shape}, dtype={raw.dtype.name}")
    if is_file:
        waveform = _read_file(raw, sampling_rate, check, max_seconds)
    elif raw.dtype.is_integer:
        # Unsigned samples are silent at half of their range, as in WAV files of 8 bits.
        silence = 0 if raw.dtype.min < 0 else raw.dtype.max // 2 + 1
        largest = raw.dtype.max - silence + 1
        waveform = check((tf.cast(raw, tf.float32) - silence) / float(largest))
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
    finite = "`raw` must hold finite samples. Received: some that are NaN or infinite"
    is_finite = tf.reduce_all(tf.math.is_finite(waveform))
    # First: NaN is unequal to itself, and so would pass for sound.
    waveform = require(waveform, is_finite, "not finite", lambda: finite)
    sound = "`raw` must hold sound. Received: {} equal samples"
    is_sound = tf.reduce_any(waveform != waveform[:1])
    return require(waveform, is_sound, "silent audio", lambda: sound.format(tf.size(waveform)))


def _read_file(content, sampling_rate, check, max_seconds):
    def decode(content):
        return _decode(content, max_seconds)

    specs = (tf.TensorSpec((None,), tf.float32), tf.TensorSpec((), tf.int64))
    waveform, rate = in_python(decode, [content], specs)
    waveform = check(waveform)
    return tf.cond(
        tf.equal(rate, sampling_rate),
        lambda: waveform,
        lambda: resample(waveform, rate, sampling_rate),
    )


def _decode(content: bytes, max_seconds: float) -> tuple[np.ndarray, np.int64]:
    """Returns float32 samples, the mean of all channels, and their rate."""
    try:
        if content[:4] in _RIFF:
            content = _plain_wav(content)
        elif content[:4] == b"OggS":
            _check_ogg_end(content)
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_size(file, content, max_seconds)
            is_flac = content[:4] == b"fLaC"
            is_short = is_flac and file.subtype == "PCM_16"
            samples = file.read(dtype="int16" if is_short else "float32", always_2d=True)
            rate = file.samplerate
            if is_flac and len(samples) < file.frames:
                raise _broken(content, f"{len(samples)} of {file.frames} samples")
    except (soundfile.LibsndfileError, struct.error) as error:
        raise _broken(content, str(error)) from error
    if is_short:
        wanted = content[_FLAC_SUM]
        if any(wanted) and hashlib.md5(samples.astype("<i2").tobytes()).digest() != wanted:
            raise _broken(content, "samples that have another MD5 sum than the file says")
        samples = samples / np.float32(2**15)
    return samples.mean(axis=1, dtype="float32"), np.int64(rate)


def _check_size(file: soundfile.SoundFile, content: bytes, max_seconds: float) -> None:
    """Refuses, by its header, a file that could not be decoded or resampled in a sane size."""
    rate, frames = file.samplerate, file.frames
    if frames > _UNKNOWN:
        raise _broken(content, "one without its number of samples, as streams of FLAC are")
    if not _RATES[0] <= rate <= _RATES[1]:
        expected = f"a rate from {_RATES[0]} to {_RATES[1]} samples in a second"
        raise BadExampleError("broken audio", f"`raw` must have {expected}. Received: {rate}")
    if frames > max_seconds * rate:
        expected = f"`raw` must have at most {max_seconds:g} seconds"
        raise BadExampleError("too long", f"{expected}. Received: {frames / rate:g}")
    if frames * file.channels > _MOST_SAMPLES:
        expected = f"`raw` must have at most {_MOST_SAMPLES} samples in all channels"
        received = f"{frames} in each of {file.channels}"
        raise BadExampleError("too long", f"{expected}. Received: {received}")


def _check_ogg_end(content: bytes) -> None:
    """Refuses an Ogg file that was cut: libsndfile takes it for a shorter one."""
    page = content[content.rfind(b"OggS") :]
    is_last = len(page) > 27 and page[5] & 4
    if not is_last or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise _broken(content, "without the end of its last page")


def _plain_wav(content: bytes) -> bytes:
    """Returns a WAV file with its format and its sound only, and with true sizes.

    libsndfile knows all formats, but accepts a file that was cut, and reads nothing where the
    header of a stream announces no sound.
    """
    order = _RIFF[content[:4]]
    kept = [b"WAVE"]
    long_size = 0  # of RF64, whose sound may be longer than 32 bits can say
    for name, start, size in _chunks(content, order):
        if name == b"ds64":
            long_size = struct.unpack_from(f"{order}Q", content, start + 8)[0]
        elif name == b"data" and long_size:
            size = long_size
        elif name == b"data" and _is_stream(content, start, size):
            size = len(content) - start
        body = content[start : start + size]
        if name == b"data" and len(body) < size:
            raise _broken(content, f"{len(body)} of {size} bytes of sound")
        if name in (b"fmt ", b"data"):
            kept += [name, struct.pack(f"{order}I", len(body)), body, b"\0" * (len(body) % 2)]
    body = b"".join(kept)
    return (b"RIFX" if order == ">" else b"RIFF") + struct.pack(f"{order}I", len(body)) + body


def _chunks(content: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, start and size of the chunks of a file, up to its sound."""
    position, name = 12, b""
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(content) or name == b"data":
            return
        name, size = struct.unpack_from(f"{order}4sI", content, position)
        yield name, position + 8, size
        position += 8 + size
        # A chunk of odd size has one more byte, which some writers forget.
        is_padded = content[position : position + 4] not in (b"fmt ", b"data")
        position += size % 2 and is_padded
    raise _broken(content, f"more than {_MOST_CHUNKS} chunks")


def _is_stream(content: bytes, start: int, size: int) -> bool:
    """Returns whether a writer that cannot go back has left the size of the sound open."""
    if size:
        return size >= _STREAMED
    # A chunk of no sound: nothing follows it, or other chunks to the end.
    for _ in range(_MOST_CHUNKS):
        if start + 8 > len(content) or not content[start : start + 4].isalnum():
            return start < len(content)
        size = int.from_bytes(content[start + 4 : start + 8], "little")
        start += 8 + size + size % 2
    raise _broken(content, f"more than {_MOST_CHUNKS} chunks")


def _broken(content: bytes, received: str) -> BadExampleError:
    return BadExampleError(
        "broken audio",
        "`raw` must be the bytes of a FLAC or WAV file. "
        f"Received: {len(content)} bytes, {received}",
    )


def resample(waveform: tf.Tensor, rate: tf.Tensor, sampling_rate: int) -> tf.Tensor:
    """Resamples float32 `(samples,)` from one rate to another, without delay."""
    ops = native_ops()
    if ops is None:
        return _resample_scipy(waveform, rate, sampling_rate)
    rate = tf.cast(rate, tf.int64)
    target = tf.constant(sampling_rate, tf.int64)
    taps = tf.maximum(_RESAMPLER_TAPS * rate // target, _RESAMPLER_TAPS)
    late = ((taps - 1) // 8 * 8 + 8) // 2  # samples before resampling
    before = tf.math.floormod(-late, rate)  # makes it whole seconds
    padded = tf.pad(waveform, [[before, late + rate // target + 2]])[:, tf.newaxis]
    resampled = ops.io_audio_resample(padded, rate_in=rate, rate_out=target)[:, 0]
    start = (late + before) // rate * target
    length = -tf.math.floordiv(-tf.size(waveform, tf.int64) * target, rate)
    return resampled[start : start + length]


def _resample_scipy(waveform, rate, sampling_rate):
    def convert(waveform, rate):
        common = math.gcd(int(rate), sampling_rate)
        up, down = sampling_rate // common, int(rate) // common
        return scipy.signal.resample_poly(waveform, up, down).astype("float32")

    return in_python(convert, [waveform, rate], tf.TensorSpec((None,), tf.float32))
