"""Audio as log-mel frames or as a waveform."""

import inspect
import math
from typing import Any

import keras
import tensorflow as tf

from keras_multimodel.argument_checks import positive, positive_int
from keras_multimodel.data.preprocessing.audio_files import (
    MAX_RATE,
    MAX_SECONDS,
    check_sound,
    native_ops,
    read_waveform,
)
from keras_multimodel.data.preprocessing.graph_forms import AudioForm
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor

_SILENCE = 1e-10  # the least power: -100 dB
_MOST_MEL_WEIGHTS = 1 << 24
_TOP_DECIBELS = 80.0  # range of an utterance: quieter values are raised to its lower end


@keras.saving.register_keras_serializable(package="keras_multimodel")
class AudioPreprocessor(Preprocessor):
    """Turns audio into float32 log-mel frames `(frames, num_mel_bins)`.

    A value is the power of a mel band in decibels, less `mean`, divided by `std`: about -3 to 3 for
    speech. `mean` and `std` are fixed, not taken from the example: digital silence, -100 dB, then
    never becomes a frame of zeros, which means padding.

    Args:
        sampling_rate: samples in a second; files of another rate are resampled.
        num_mel_bins: number of mel bands.
        frame_length: length of a frame in milliseconds.
        frame_step: distance between frames in milliseconds.
        min_frequency: lower edge of the first band, in Hz.
        max_frequency: upper edge of the last band, in Hz. None is half the sampling rate.
        mean: decibels that become 0.
        std: decibels that become a difference of 1.
        max_seconds: the longest file, by its header: longer ones are refused before they are
            decoded.

    Call arguments:
        raw: the bytes of a FLAC or WAV file, or samples `(samples,)` at `sampling_rate`.

    Returns:
        float32 `(frames, num_mel_bins)`, one frame per `frame_step`, the last one padded.

    Raises:
        ValueError: an argument is out of range, a band is narrower than the frequencies of a
            frame lie apart, or `raw` is not audio. Inside `tf.data` a broken file raises a
            `tf.errors.OpError`.
    """

    def __init__(
        self,
        sampling_rate: int = 8000,
        num_mel_bins: int = 40,
        frame_length: float = 25.0,
        frame_step: float = 10.0,
        min_frequency: float = 60.0,
        max_frequency: float | None = None,
        mean: float = -20.0,
        std: float = 20.0,
        max_seconds: float = MAX_SECONDS,
    ):
        sampling_rate = _rate(sampling_rate)
        for name, value in (("frame_length", frame_length), ("frame_step", frame_step)):
            if value * sampling_rate < 1000:
                expected = f"`{name}` must be at least one sample, in milliseconds"
                raise ValueError(f"{expected}. Received: {name}={value}")
        if std <= 0:
            raise ValueError(f"`std` must be positive. Received: std={std}")
        # Frames of zeros are padding: silence, -100 dB, must not become 0.
        if mean <= -100:
            raise ValueError(f"`mean` must be above -100, silence. Received: mean={mean}")
        self.sampling_rate = sampling_rate
        self.num_mel_bins = positive_int("num_mel_bins", num_mel_bins)
        self.frame_length = frame_length
        self.frame_step = frame_step
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.mean = mean
        self.std = std
        self.max_seconds = positive("max_seconds", max_seconds)
        self._window = round(frame_length * sampling_rate / 1000)
        self._stride = round(frame_step * sampling_rate / 1000)
        # The least power of two that holds a window: other lengths have slower transforms.
        self._fft_length = 1 << (self._window - 1).bit_length()
        self._mel_weights = self._make_mel_weights()

    def _make_mel_weights(self):
        highest = self.max_frequency or self.sampling_rate / 2
        if not 0 <= self.min_frequency < highest <= self.sampling_rate / 2:
            raise ValueError(
                "`min_frequency` and `max_frequency` must ascend, up to half the sampling rate. "
                f"Received: min_frequency={self.min_frequency}, max_frequency={self.max_frequency}"
            )
        size = self.num_mel_bins * self._fft_length
        if size > _MOST_MEL_WEIGHTS:
            raise ValueError(
                "`num_mel_bins` and `frame_length` must be small enough for a table of "
                f"{_MOST_MEL_WEIGHTS} weights. Received: num_mel_bins={self.num_mel_bins}, "
                f"frame_length={self.frame_length}"
            )
        # Eagerly and on the CPU, even if a graph or a strategy's scope is open around the caller.
        with tf.init_scope(), tf.device("CPU:0"):
            weights = tf.signal.linear_to_mel_weight_matrix(
                num_mel_bins=self.num_mel_bins,
                num_spectrogram_bins=self._fft_length // 2 + 1,
                sample_rate=self.sampling_rate,
                lower_edge_hertz=float(self.min_frequency),
                upper_edge_hertz=float(highest),
            ).numpy()
        if not weights.any(axis=0).all():
            raise ValueError(
                "`num_mel_bins` must be small enough that each band holds a frequency of a frame. "
                f"Received: num_mel_bins={self.num_mel_bins}, frame_length={self.frame_length}"
            )
        return weights

    def __call__(self, raw: Any) -> tf.Tensor:
        with tf.device("CPU:0"):
            return self._frames(_read(self, raw))

    def strict(self, raw: Any) -> tf.Tensor:
        """Prepares audio, and refuses it if it is silent or not finite."""
        with tf.device("CPU:0"):
            return self._frames(_read(self, raw, check_sound))

    def _frames(self, waveform):
        decibels = self._decibels(waveform)
        return tf.ensure_shape((decibels - self.mean) / self.std, (None, self.num_mel_bins))

    def _decibels(self, waveform):
        if native_ops() is not None:
            return self._decibels_native(waveform)
        spectrogram = tf.signal.stft(
            waveform, self._window, self._stride, self._fft_length, pad_end=True
        )
        power = tf.square(tf.matmul(tf.abs(spectrogram), self._mel_weights))
        decibels = 10.0 / math.log(10.0) * tf.math.log(tf.maximum(power, _SILENCE))
        return tf.maximum(decibels, tf.reduce_max(decibels) - _TOP_DECIBELS)

    def _decibels_native(self, waveform):
        from tensorflow_io import audio

        spectrogram = audio.spectrogram(waveform, self._fft_length, self._window, self._stride)
        bands = audio.melscale(
            spectrogram,
            rate=self.sampling_rate,
            mels=self.num_mel_bins,
            fmin=float(self.min_frequency),
            fmax=float(self.max_frequency or self.sampling_rate / 2),
        )
        return audio.dbscale(bands, top_db=_TOP_DECIBELS, amin=_SILENCE)

    def graph_form(self) -> AudioForm:
        return AudioForm(self, self.sampling_rate, (None, self.num_mel_bins))

    def get_config(self) -> dict:
        # Each argument is kept under its own name.
        return {
            name: getattr(self, name) for name in inspect.signature(AudioPreprocessor).parameters
        }


@keras.saving.register_keras_serializable(package="keras_multimodel")
class WaveformPreprocessor(Preprocessor):
    """Turns audio into float32 samples `(samples,)`.

    Zero is padding: samples of exactly 0 become 1e-6, 1/30 of the smallest step of 16 bits.

    Args:
        sampling_rate: samples in a second; files of another rate are resampled.
        max_seconds: the longest file, by its header: longer ones are refused before they are
            decoded.

    Call arguments:
        raw: the bytes of a FLAC or WAV file, or samples `(samples,)` at `sampling_rate`.

    Returns:
        float32 `(samples,)`, mostly from -1 to 1.

    Raises:
        ValueError: `sampling_rate` is not a positive integer, or `raw` is no audio. Inside
            `tf.data` a broken file raises a `tf.errors.OpError`.
    """

    def __init__(self, sampling_rate: int = 8000, max_seconds: float = MAX_SECONDS):
        self.sampling_rate = _rate(sampling_rate)
        self.max_seconds = positive("max_seconds", max_seconds)

    def __call__(self, raw: Any) -> tf.Tensor:
        with tf.device("CPU:0"):
            return _without_zeros(_read(self, raw))

    def strict(self, raw: Any) -> tf.Tensor:
        """Prepares audio, and refuses it if it is silent or not finite."""
        with tf.device("CPU:0"):
            return _without_zeros(_read(self, raw, check_sound))

    def graph_form(self) -> AudioForm:
        return AudioForm(self, self.sampling_rate, (None,))

    def get_config(self) -> dict:
        return {"sampling_rate": self.sampling_rate, "max_seconds": self.max_seconds}


def _rate(value):
    rate = positive_int("sampling_rate", value)
    if rate > MAX_RATE:
        expected = f"`sampling_rate` must be at most {MAX_RATE}"
        raise ValueError(f"{expected}. Received: sampling_rate={value}")
    return rate


def _read(preprocessor, raw, check=tf.identity):
    return read_waveform(raw, preprocessor.sampling_rate, check, preprocessor.max_seconds)


def _without_zeros(waveform):
    return tf.where(tf.equal(waveform, 0.0), 1e-6, waveform)
