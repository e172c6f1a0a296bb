"""Images of any size as arrays of one size."""

import keras
import tensorflow as tf

from keras_multimodel.data.encoding.bad_examples import BadExampleError
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor

_FITS = ("pad", "resize")


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ImagePreprocessor(Preprocessor):
    """Turns an image into float32 `(height, width, 3)` from 0 to 255.

    Grey images get three equal channels. So images of different data sets can share one net.

    Args:
        size: height and width.
        fit: `"pad"` puts the image in the centre; it keeps its pixels if it is small enough, else
            it is scaled down with its proportions kept. `"resize"` stretches it to the size.
        background: value around a padded image, from 0 to 255. None takes the image's own
            top left pixel.

    Call arguments:
        raw: `(height, width, 3)`, `(height, width, 1)` or `(height, width)` with values from 0 to
            255, or the bytes of a PNG, JPEG, GIF or BMP file.

    Returns:
        float32 `(*size, 3)`.

    Raises:
        ValueError: an argument is none of the above, or `raw` has another rank or number of
            channels, or is a broken file. Inside `tf.data` a broken file raises
            `tf.errors.InvalidArgumentError`.
    """

    def __init__(
        self,
        size: tuple[int, int] = (32, 32),
        fit: str = "pad",
        background: float | None = None,
    ):
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"`size` must be two positive integers. Received: size={size}")
        if fit not in _FITS:
            raise ValueError(f"`fit` must be one of {', '.join(_FITS)}. Received: fit={fit!r}")
        if background is not None and not 0 <= background <= 255:
            raise ValueError(
                f"`background` must be from 0 to 255, or None. Received: background={background}"
            )
        self.size = tuple(size)
        self.fit = fit
        self.background = background

    def __call__(self, raw) -> tf.Tensor:
        image = self._three_channels(tf.convert_to_tensor(raw))
        if self.fit == "pad":
            image = self._pad(image)
        elif image.shape[:2] != self.size:
            image = tf.image.resize(image, self.size, antialias=True)
        return tf.ensure_shape(tf.clip_by_value(image, 0.0, 255.0), (*self.size, 3))

    def _three_channels(self, image):
        if image.dtype == tf.string:
            if image.shape.rank not in (0, None):
                raise ValueError(
                    f"`raw` must be the bytes of one image. Received: shape={image.shape}"
                )
            image = _decode(image)
        if image.shape.rank == 2:
            image = image[:, :, tf.newaxis]
        if image.shape.rank != 3 or image.shape[-1] not in (1, 3):
            raise ValueError(
                "`raw` must be (height, width), (height, width, 1) or (height, width, 3). "
                f"Received: shape={image.shape}"
            )
        image = tf.cast(image, tf.float32)
        return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image

    def _pad(self, image):
        size = tf.constant(self.size)
        shape = tf.shape(image)[:2]
        ratio = tf.reduce_min(size / shape)
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
        return tf.pad(image - background, tf.concat([paddings, [[0, 0]]], axis=0)) + background

    def get_config(self) -> dict:
        return {"size": list(self.size), "fit": self.fit, "background": self.background}


def _decode(content):
    try:
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise BadExampleError(
            "broken image",
            "`raw` must be the bytes of a PNG, JPEG, GIF or BMP file. "
            f"Received: {len(content.numpy())} bytes, {error}",
        ) from error
    return tf.ensure_shape(image, (None, None, 3))
