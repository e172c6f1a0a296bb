"""Masks over spectrograms."""

import tensorflow as tf

from keras_multimodel.argument_checks import positive_int, share
from keras_multimodel.typing import Tensor


class SpecAugment:
    """Masks random bands and random stretches of log-mel frames, for training.

    A mask of bands is 0 to `band_width` wide and starts anywhere; a mask of frames is 0 to
    `frame_width` long, and at most `frame_share` of the example. Masked values become the mean of
    the example. Masks may overlap. Time warping, the third and least useful part of the paper, is
    left out.

    Padding, the frames of zeros at the end, is neither masked nor counted, and a masked frame never
    becomes a frame of zeros.

    Args:
        num_band_masks: masks of bands per example.
        band_width: the most bands of a mask.
        num_frame_masks: masks of frames per example.
        frame_width: the most frames of a mask.
        frame_share: the largest share of an example that one mask of frames takes, from 0 to 1.

    Call arguments:
        inputs: float frames `(frames, bands)` of one example, padded or not.
        seed: two integers; the same seed gives the same masks.

    Returns:
        Frames of the same shape and dtype.

    Raises:
        ValueError: an argument is out of range, or `inputs` are not frames.

    Example:

    >>> augment = kmm.data.SpecAugment(frame_width=10)
    >>> augment(np.ones((50, 40), "float32"), seed=(1, 2)).numpy().shape
    (50, 40)

    Reference:
        Park et al. 2019, arXiv 1904.08779, section 2.
    """

    def __init__(
        self,
        num_band_masks: int = 2,
        band_width: int = 8,
        num_frame_masks: int = 2,
        frame_width: int = 25,
        frame_share: float = 0.2,
    ):
        self.num_band_masks = positive_int("num_band_masks", num_band_masks, minimum=0)
        self.band_width = positive_int("band_width", band_width, minimum=0)
        self.num_frame_masks = positive_int("num_frame_masks", num_frame_masks, minimum=0)
        self.frame_width = positive_int("frame_width", frame_width, minimum=0)
        self.frame_share = share("frame_share", frame_share)

    def __call__(self, inputs: Tensor, seed: Tensor) -> tf.Tensor:
        frames = tf.convert_to_tensor(inputs)
        if frames.shape.rank != 2 or not frames.dtype.is_floating:
            raise ValueError(
                "`inputs` must be float frames (frames, bands). "
                f"Received: shape={frames.shape}, dtype={frames.dtype.name}"
            )
        # Not the masks of tensorflow-io: they take no seed, write zeros, and mask padding too.
        sounds = tf.reduce_any(frames != 0, axis=1)
        real = tf.cumsum(tf.cast(sounds, tf.int32), reverse=True) > 0
        length = tf.math.count_nonzero(real, dtype=tf.float32)
        bands = tf.cast(tf.shape(frames)[1], tf.float32)

        draws = tf.random.stateless_uniform((self.num_band_masks + self.num_frame_masks, 2), seed)
        longest = tf.minimum(float(self.frame_width), tf.floor(self.frame_share * length))
        widest = tf.minimum(float(self.band_width), bands)
        in_bands = _masked(draws[: self.num_band_masks], widest, bands, tf.shape(frames)[1])
        in_time = _masked(draws[self.num_band_masks :], longest, length, tf.shape(frames)[0])

        total = tf.reduce_sum(tf.cast(frames, tf.float32))
        mean = tf.math.divide_no_nan(total, length * bands)
        # Frames of zeros are padding for the modality net: a mean of 0 would end the example there.
        mean = tf.cast(tf.where(mean == 0, 1e-6, mean), frames.dtype)
        return tf.where(real[:, None] & (in_time[:, None] | in_bands), mean, frames)


def _masked(draws, most, size, length):
    """Returns bool `(length,)`: where one of the masks lies, within the first `size` places."""
    widths = tf.floor(draws[:, :1] * (most + 1))
    starts = tf.floor(draws[:, 1:] * (size - widths + 1))
    places = tf.range(tf.cast(length, tf.float32))
    return tf.reduce_any((places >= starts) & (places < starts + widths), axis=0)
