"""Images of any size and form as arrays of one size: decoding, scaling, padding."""

import io
from typing import Any

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

from keras_multimodel.argument_checks import one_of
from keras_multimodel.data.encoding.bad_examples import BadExampleError, require
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor, in_python

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
# What decodes a file: TensorFlow outside Python, in parallel, where it is right; Pillow the rest.
_JPEG, _PNG, _DEEP_PNG, _OTHER = range(4)
_ORIENTATION = 0x0112  # tag of EXIF
_OVERSHOOT = 255.0  # of floats: filters that sharpen leave the range, by less than its width


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

    Call arguments:
        raw: the bytes of a PNG, JPEG, GIF, BMP or WebP file, or an array `(height, width)`,
            `(height, width, 1)`, `(height, width, 3)` or `(height, width, 4)`, whose fourth channel
            is opacity. The largest value of uint8, uint16 and bool arrays is white; other arrays
            have values from 0 to 255.

    Returns:
        float32 `(*size, 3)`.

    Raises:
        ValueError: an argument is none of the above, or `raw` has another rank or number of
            channels, is a broken file, or has values outside of 0 to 255 (floats: far outside).
            Inside `tf.data` a bad image raises a `tf.errors.OpError`.

    Example:

    >>> images = kmm.data.ImagePreprocessor((32, 32), background=0.0)
    >>> images(np.full((28, 28), 255, "uint8")).shape
    (32, 32, 3)
    """

    def __init__(
        self, size: tuple[int, int] = (32, 32), fit: str = "pad", background: float | None = None
    ):
        are_positive = all(isinstance(side, int | np.integer) and side > 0 for side in size)
        if len(size) != 2 or not are_positive:
            raise ValueError(f"`size` must be two positive integers. Received: size={size}")
        if background is not None and not 0 <= background <= 255:
            expected = "`background` must be from 0 to 255, or None"
            raise ValueError(f"{expected}. Received: background={background}")
        self.size = (int(size[0]), int(size[1]))
        self.fit = one_of("fit", fit, ("pad", "resize"))
        self.background = background

    def __call__(self, raw: Any) -> tf.Tensor:
        image = tf.convert_to_tensor(raw)
        image = decode_image(image) if image.dtype == tf.string else scale_pixels(image)
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

    def get_config(self) -> dict:
        return {"size": list(self.size), "fit": self.fit, "background": self.background}


def scale_pixels(image: tf.Tensor) -> tf.Tensor:
    """Returns an array of pixels as float32 `(height, width, 3)` from 0 to 255, on white.

    Args:
        image: see `ImagePreprocessor`.

    Raises:
        ValueError: `image` has another shape, or values that are no pixels.
    """
    if image.shape.rank == 2:
        image = image[:, :, tf.newaxis]
    if image.shape.rank != 3 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            "`raw` must be (height, width), (height, width, 1), (height, width, 3) or "
            f"(height, width, 4). Received: shape={image.shape}"
        )
    white = {tf.bool: 1.0, tf.uint16: 65535.0}.get(image.dtype, 255.0)
    pixels = tf.cast(image, tf.float32)
    if image.dtype not in (tf.bool, tf.uint8, tf.uint16):
        beyond = _OVERSHOOT if image.dtype.is_floating else 0.0
        pixels = require(
            pixels,
            # Written so that NaN passes: `kmm.data.encode` has its own reason for it.
            ~tf.reduce_any((pixels < -beyond) | (pixels > white + beyond)),
            "not pixels",
            lambda: "`raw` must have values from 0 to 255; uint8 and uint16 are scaled. Received: "
            f"dtype={image.dtype.name}, values up to {tf.reduce_max(tf.abs(pixels)):.7g}",
        )
    # Multiplied first: 255 * 257 / 257 has no rounding, so that 8 bits survive in 16.
    pixels = pixels * (255.0 / white) if white == 1.0 else pixels / (white / 255.0)
    if pixels.shape[-1] == 4:
        opacity = pixels[..., 3:] / 255.0
        return pixels[..., :3] * opacity + 255.0 * (1.0 - opacity)
    return tf.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def decode_image(content: tf.Tensor) -> tf.Tensor:
    """Decodes the bytes of an image file to float32 `(height, width, 3)` from 0 to 255, on white.

    Args:
        content: the bytes of a PNG, JPEG, GIF, BMP or WebP file.

    Raises:
        ValueError: `content` is no scalar or, eagerly, no such file. In a graph a broken file
            raises a `tf.errors.OpError`.
    """
    if content.shape.rank not in (0, None):
        raise ValueError(f"`raw` must be the bytes of one image. Received: shape={content.shape}")
    number = tf.TensorSpec((), tf.int32)
    decoder, orientation = in_python(_look, [content], (number, number))
    rgba = tf.TensorSpec((None, None, 4), tf.uint8)
    # Scaled within the branches, which differ in dtype and number of channels until then.
    decoders = {
        _JPEG: lambda: scale_pixels(tf.io.decode_jpeg(content, channels=3)),
        _PNG: lambda: scale_pixels(tf.io.decode_png(content, channels=3)),
        _DEEP_PNG: lambda: scale_pixels(tf.io.decode_png(content, 4, tf.uint16)),
        _OTHER: lambda: scale_pixels(in_python(_decode_with_pillow, [content], rgba)),
    }
    try:
        image = tf.switch_case(decoder, decoders)
    except tf.errors.InvalidArgumentError as error:
        raise _broken(content.numpy(), error) from error
    spec = tf.TensorSpec((None, None, 3), tf.float32)
    return tf.cond(
        tf.equal(orientation, 1),
        lambda: image,
        lambda: in_python(_upright, [image, orientation], spec),
    )


def _broken(content: bytes, error: Exception) -> BadExampleError:
    return BadExampleError(
        "broken image",
        "`raw` must be the bytes of a WebP, PNG, JPEG, GIF or BMP file. "
        f"Received: {len(content)} bytes, {error}",
    )


def _open(content: bytes) -> PIL.Image.Image:
    try:
        return PIL.Image.open(io.BytesIO(content), formats=_FORMATS)
    except Exception as error:  # Pillow's readers of formats raise many kinds of errors
        raise _broken(content, error) from error


def _look(content: bytes) -> tuple[np.int32, np.int32]:
    """Reads from the head of a file what decodes it, and its orientation as EXIF numbers it."""
    with _open(content) as image:
        try:
            # PNG: only what stands before the pixels, or Pillow decodes them to look behind.
            known = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(_ORIENTATION, 1) if known else 1
        except Exception:  # viewers show an image whose EXIF is broken
            orientation = 1
        decoder = {"JPEG": _JPEG, "MPO": _JPEG, "PNG": _PNG}.get(image.format or "", _OTHER)
        # TensorFlow reads 8 bits with opacity wrongly: gray of 1, 2 or 4 bits gets an opacity of
        # 1, 3 or 15. So 4 channels only where the file has opacity, or 16 bits.
        if decoder == _PNG and (image.has_transparency_data or content[24] == 16):
            decoder = _DEEP_PNG
    return np.int32(decoder), np.int32(orientation if orientation in range(1, 9) else 1)


def _decode_with_pillow(content: bytes) -> np.ndarray:
    with _open(content) as image:
        try:
            frame = getattr(image, "tile")[0][1] if image.format == "GIF" else None
            pixels = np.array(image.convert("RGBA"))
        except Exception as error:
            raise _broken(content, error) from error
        if frame is not None:  # a first frame may be smaller than the image
            around = np.ones(pixels.shape[:2], bool)
            around[frame[1] : frame[3], frame[0] : frame[2]] = False
            pixels[around] = 0
    return pixels


def _upright(image: np.ndarray, orientation: np.int32) -> np.ndarray:
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::down, ::right])
