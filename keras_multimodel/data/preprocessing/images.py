"""Images of any size and form as arrays of one size: scaling and padding."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import one_of, positive_int
from keras_multimodel.data.preprocessing.graph_forms import ImageForm
from keras_multimodel.data.preprocessing.image_files import MAX_PIXELS, decode_image, scale_pixels
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ImagePreprocessor(Preprocessor):
    """Turns an image into float32 `(height, width, 3)` from 0 to 255.

    The result is what a viewer shows on white: turned as EXIF says, colors from the palette,
    transparency over white, the first frame of an animation. Gray images get three equal channels.
    So images of different data sets can share one net.

    Args:
        size: height and width.
        fit: `"pad"` puts the image in the center; it keeps its pixels if it is small enough, else
            it is scaled down with its proportions kept. `"resize"` stretches it to the size.
        background: value around a padded image, from 0 to 255. None takes the image's own
            top left pixel.
        max_pixels: the most pixels of an image file, by its header: more are refused before they
            are decoded. An animation may have eight times as many in all its frames. Pillow's
            own limit, about 179 million, stays.

    Call arguments:
        raw: the bytes of a PNG, JPEG, GIF, BMP or WebP file, or an array `(height, width)`,
            `(height, width, 1)`, `(height, width, 3)` or `(height, width, 4)`, whose fourth channel
            is opacity. The largest value of uint8, uint16 and bool arrays is white; other arrays
            have values from 0 to 255.

    Returns:
        float32 `(*size, 3)`.

    Raises:
        ValueError: an argument is none of the above, or `raw` has another rank or number of
            channels, is a broken file, has too many pixels, or has values outside of 0 to 255
            (floats: far outside). Inside `tf.data` a bad image raises a `tf.errors.OpError`.

    Example:

    >>> images = kmm.data.ImagePreprocessor((32, 32), background=0.0)
    >>> images(np.full((28, 28), 255, "uint8")).shape
    (32, 32, 3)
    """

    def __init__(
        self,
        size: tuple[int, int] = (32, 32),
        fit: str = "pad",
        background: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        are_positive = all(isinstance(side, int | np.integer) and side > 0 for side in size)
        if len(size) != 2 or not are_positive:
            raise ValueError(f"`size` must be two positive integers. Received: size={size}")
        self.max_pixels = positive_int("max_pixels", max_pixels)
        if int(size[0]) * int(size[1]) > self.max_pixels:
            expected = f"`size` must have at most max_pixels={self.max_pixels} pixels"
            raise ValueError(f"{expected}. Received: size={size}")
        if background is not None and not 0 <= background <= 255:
            expected = "`background` must be from 0 to 255, or None"
            raise ValueError(f"{expected}. Received: background={background}")
        self.size = (int(size[0]), int(size[1]))
        self.fit = one_of("fit", fit, ("pad", "resize"))
        self.background = background

    def __call__(self, raw: Any) -> tf.Tensor:
        image = tf.convert_to_tensor(raw)
        if image.dtype == tf.string:
            image = decode_image(image, self.max_pixels, max(self.size), self.fit == "pad")
        else:
            image = scale_pixels(image)
        if self.fit == "pad":
            image = self._pad(image)
        elif image.shape[:2] != self.size:
            image = tf.image.resize(image, self.size, antialias=True)
        return tf.ensure_shape(tf.clip_by_value(image, 0.0, 255.0), (*self.size, 3))

    def _pad(self, image):
        size = tf.constant(self.size)
        shape = tf.shape(image)[:2]
        ratio = tf.reduce_min(size / shape)
        # At least 1: the short side of a very long image would round to no pixel at all.
        smaller = tf.maximum(tf.cast(tf.round(tf.cast(shape, tf.float64) * ratio), tf.int32), 1)
        image = tf.cond(
            ratio < 1.0,
            lambda: tf.image.resize(image, tf.minimum(smaller, size), antialias=True),
            lambda: image,
        )
        before = (size - tf.shape(image)[:2]) // 2
        after = size - tf.shape(image)[:2] - before
        background = image[0, 0] if self.background is None else float(self.background)
        paddings = tf.stack([before, after], axis=1)
        # `tf.pad` takes one value for all channels: pad the difference to the background with 0.
        return tf.pad(image - background, tf.concat([paddings, [[0, 0]]], axis=0)) + background

    def graph_form(self) -> ImageForm:
        return ImageForm(self, self.size)

    def get_config(self) -> dict:
        return {
            "size": list(self.size),
            "fit": self.fit,
            "background": self.background,
            "max_pixels": self.max_pixels,
        }
