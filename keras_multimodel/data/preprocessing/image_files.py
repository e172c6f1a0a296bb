"""Image files as arrays: a look at the header, then decoding.

A file of some kilobytes can have gigabytes of pixels. So nothing is decoded before its header has
been looked at, and what is large is scaled down while it is decoded, one file at a time.
"""

import contextlib
import io
import re
import threading

import numpy as np
import PIL.Image
import tensorflow as tf

from keras_multimodel.data.encoding.bad_examples import BadExampleError, require
from keras_multimodel.data.preprocessing.preprocessor import in_python

MAX_PIXELS = 1 << 26  # photographs of 64 megapixels
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
# What decodes a file: TensorFlow outside Python, in parallel, where it is right; Pillow the rest.
_JPEG, _PNG, _DEEP_PNG, _OTHER = range(4)
_ORIENTATION = 0x0112  # tag of EXIF
_OVERSHOOT = 255.0  # of floats: filters that sharpen leave the range, by less than its width
# A pixel in floats takes 30 to 60 bytes: larger images are scaled down in 8 bits before.
_LARGE = 1 << 23
_GAP = 3  # times the size that they keep: more changes nothing that one sees
_MOST_IN_FRAMES = 8  # times `max_pixels`; of an animation only the first frame is decoded
_COUNTED_FRAMES = 10_000  # more tell no more, and counting them takes seconds
_MOST_SCANS = 100  # of a JPEG file; writers make about ten
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # of JPEG, but not those within a scan
_one_at_a_time = threading.Lock()


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


def decode_image(
    content: tf.Tensor,
    max_pixels: int = MAX_PIXELS,
    side: int | None = None,
    proportional: bool = True,
) -> tf.Tensor:
    """Decodes the bytes of an image file to float32 `(height, width, 3)` from 0 to 255, on white.

    Args:
        content: the bytes of a PNG, JPEG, GIF, BMP or WebP file.
        max_pixels: the most pixels.
        side: the longer side to which the result will be scaled. An image of more than eight
            million pixels is then scaled down to three times that or more while it is decoded.
            None leaves its size.
        proportional: whether both sides will be scaled alike.

    Raises:
        ValueError: `content` is no scalar or, eagerly, no such file, or has too many pixels. In a
            graph such a file raises a `tf.errors.OpError`.
    """
    if content.shape.rank not in (0, None):
        raise ValueError(f"`raw` must be the bytes of one image. Received: shape={content.shape}")

    def look(content):
        return _look(content, max_pixels)

    def decode_with_pillow(content):
        return _decode_with_pillow(content, side, proportional)

    number = tf.TensorSpec((), tf.int32)
    decoder, orientation = in_python(look, [content], (number, number))
    rgba = tf.TensorSpec((None, None, 4), tf.uint8)
    # Scaled within the branches, which differ in dtype and number of channels until then.
    decoders = {
        _JPEG: lambda: scale_pixels(tf.io.decode_jpeg(content, channels=3)),
        _PNG: lambda: scale_pixels(tf.io.decode_png(content, channels=3)),
        _DEEP_PNG: lambda: scale_pixels(tf.io.decode_png(content, 4, tf.uint16)),
        _OTHER: lambda: scale_pixels(in_python(decode_with_pillow, [content], rgba)),
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


def _too_large(expected: str, received: str) -> BadExampleError:
    return BadExampleError(
        "too many pixels", f"`raw` must have at most {expected}. Received: {received}"
    )


def _open(content: bytes) -> PIL.Image.Image:
    try:
        return PIL.Image.open(io.BytesIO(content), formats=_FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise _too_large("the pixels that Pillow allows", str(error)) from error
    except Exception as error:  # Pillow's readers of formats raise many kinds of errors
        raise _broken(content, error) from error


def _look(content: bytes, max_pixels: int) -> tuple[np.int32, np.int32]:
    """Reads from the head of a file what decodes it, and its orientation as EXIF numbers it."""
    with _open(content) as image:
        pixels = _check_size(image, content, max_pixels)
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
        if pixels > _LARGE:
            decoder = _OTHER
    return np.int32(decoder), np.int32(orientation if orientation in range(1, 9) else 1)


def _check_size(image: PIL.Image.Image, content: bytes, max_pixels: int) -> int:
    """Returns the pixels of an image; raises for one that takes too long or too much memory."""
    pixels = image.width * image.height
    # Pillow counts the frames of a GIF file slowly, others have their number in the header.
    is_gif = image.format == "GIF"
    frames = _gif_frames(content) if is_gif else getattr(image, "n_frames", 1)
    if pixels > max_pixels:
        raise _too_large(f"{max_pixels} pixels", f"{image.width} x {image.height}")
    if image.format != "MPO" and pixels * frames > max_pixels * _MOST_IN_FRAMES:
        raise _too_large(
            f"{max_pixels * _MOST_IN_FRAMES} pixels in all frames",
            f"{frames} frames of {image.width} x {image.height}",
        )
    if image.format in ("JPEG", "MPO") and (scans := _jpeg_scans(content)) > _MOST_SCANS:
        raise _too_large(f"{_MOST_SCANS} scans", f"{scans} or more")
    return pixels


def _gif_frames(content: bytes) -> int:
    """Counts the frames of a GIF file, up to a limit or to where the file is broken."""
    try:
        position, frames = 13 + _gif_colors(content[10]), 0
        while frames < _COUNTED_FRAMES and content[position] in b"\x21\x2c":
            is_frame = content[position] == 0x2C
            frames += is_frame
            position += 11 + _gif_colors(content[position + 9]) if is_frame else 2
            while content[position]:  # blocks of data, each after its length
                position += content[position] + 1
            position += 1
    except IndexError:
        pass
    return max(frames, 1)


def _gif_colors(flags: int) -> int:
    """Returns the bytes of the color table that these flags announce."""
    return 6 << (flags & 7) if flags & 0x80 else 0


def _jpeg_scans(content: bytes) -> int:
    """Counts the scans of the first image of a JPEG file: each one is a pass over all pixels."""
    position, scans = 2, 0
    while scans <= _MOST_SCANS and (found := _MARKER.search(content, position)):
        marker = content[found.end() - 1]
        if marker == 0xD9:  # the end: what follows may be a second image, or a film
            break
        scans += marker == 0xDA
        position = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return scans


def _decode_with_pillow(content: bytes, side: int | None, proportional: bool) -> np.ndarray:
    with _open(content) as image:
        is_large = image.width * image.height > _LARGE
        with _one_at_a_time if is_large else contextlib.nullcontext():
            try:
                frame = getattr(image, "tile")[0][1] if image.format == "GIF" else None
                factors = (1, 1)
                if is_large and side is not None:
                    image, factors = _shrink(image, side, proportional)
                pixels = np.array(image.convert("RGBA"))
            except Exception as error:
                raise _broken(content, error) from error
        if frame is not None:  # a first frame may be smaller than the image
            left, upper, right, lower = (
                -(-edge // factor) for edge, factor in zip(frame, factors * 2)
            )
            around = np.ones(pixels.shape[:2], bool)
            around[upper:lower, left:right] = False
            pixels[around] = 0
    return pixels


def _shrink(
    image: PIL.Image.Image, side: int, proportional: bool
) -> tuple[PIL.Image.Image, tuple[int, int]]:
    """Scales an image down in 8 bits, to no less than `_GAP` times the sides that it will have.

    Args:
        image: the image.
        side: the longer side of the array that will be made of it.
        proportional: whether both of its sides will be scaled alike.

    Returns:
        The image, and by how much its width and height were divided.
    """

    def divided(size: tuple[int, int]) -> tuple[int, int]:
        width, height = (max(edge // (_GAP * side), 1) for edge in size)
        return (max(width, height), max(width, height)) if proportional else (width, height)

    before = image.size
    if image.format in ("JPEG", "MPO"):  # which can be decoded at a half, a quarter or an eighth
        by = divided(before)
        image.draft("RGB", (max(before[0] // by[0], 1), max(before[1] // by[1], 1)))
    if image.mode.startswith("I"):  # 16 bits of gray, which Pillow would clip to 255
        image = PIL.Image.fromarray((np.asarray(image) // 257).astype("uint8"))
    elif image.mode != "RGBA" and (image.mode not in ("L", "RGB") or image.has_transparency_data):
        image = image.convert("RGBA")
    image = image.reduce(divided(image.size))
    return image, (before[0] // image.width, before[1] // image.height)


def _upright(image: np.ndarray, orientation: np.int32) -> np.ndarray:
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::down, ::right])
