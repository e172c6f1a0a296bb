import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data, datasets
from keras_multimodel.data.preprocessing import image_files
from tests.data.encoding import stopping_files


def random_image(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def encoded(image, form):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, form)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([None, 0.0, 7.0]), st.booleans())
def test_padding_centres_and_keeps_pixels(height, width, background, grey):
    image = random_image(height, width, 1 if grey else 3)
    result = data.ImagePreprocessor((12, 12), background=background)(image).numpy()
    top, left = (12 - height) // 2, (12 - width) // 2
    expected = np.empty((12, 12, 3), "float32")
    expected[:] = image[0, 0] if background is None else background
    expected[top : top + height, left : left + width] = image
    np.testing.assert_array_equal(result, expected)


def test_grey_without_a_channel_axis():
    image = random_image(32, 32)
    result = data.ImagePreprocessor()(image)
    assert result.shape == (32, 32, 3) and result.dtype == tf.float32
    for channel in range(3):
        np.testing.assert_array_equal(result[..., channel], image)


def test_large_image_is_scaled_with_its_proportions():
    image = np.full((64, 32, 3), 200, "uint8")
    result = data.ImagePreprocessor((32, 32), background=0.0)(image).numpy()
    # 64x32 -> 32x16, so columns 8 to 23 hold the image.
    assert np.all(result[:, :8] == 0) and np.all(result[:, 24:] == 0)
    np.testing.assert_allclose(result[:, 8:24], 200, atol=1e-3)


def test_resize_agrees_with_pil():
    gradient = np.linspace(0, 255, 64, dtype="float32")[:, None] * np.ones((1, 48), "float32")
    image = np.repeat(gradient[..., None], 3, -1).astype("uint8")
    result = data.ImagePreprocessor((16, 12), fit="resize")(image).numpy()
    pil = PIL.Image.fromarray(image).resize((12, 16), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_allclose(result, np.asarray(pil), atol=1.5)


def test_scaled_values_stay_in_range():
    for fit in ("pad", "resize"):
        result = data.ImagePreprocessor((8, 8), fit=fit)(random_image(37, 23, 3)).numpy()
        assert result.min() >= 0 and result.max() <= 255 and result.std() > 10


def test_png_and_jpeg_bytes():
    image = random_image(20, 24, 3)
    preprocessor = data.ImagePreprocessor((32, 32))
    np.testing.assert_array_equal(preprocessor(encoded(image, "PNG")), preprocessor(image))
    smooth = np.full((20, 24, 3), 90, "uint8")
    difference = preprocessor(encoded(smooth, "JPEG")) - preprocessor(smooth)
    assert np.abs(difference).max() <= 2
    grey = random_image(20, 24)
    np.testing.assert_array_equal(preprocessor(encoded(grey, "PNG")), preprocessor(grey))


def test_inside_tf_data():
    preprocessor = data.ImagePreprocessor((32, 32))
    for name in ("digits", "emoji"):
        raw = datasets.load(name, "test").map(lambda example: example["inputs"]).take(3)
        dataset = raw.map(preprocessor)
        assert dataset.element_spec == tf.TensorSpec((32, 32, 3), tf.float32)
        for image, result in zip(raw, dataset, strict=True):
            np.testing.assert_array_equal(result, preprocessor(image.numpy()))
    image = random_image(50, 40, 3)
    files = tf.data.Dataset.from_tensors(encoded(image, "PNG")).map(preprocessor)
    np.testing.assert_allclose(next(iter(files)), preprocessor(image), atol=1e-3)


def test_digits_stay_on_black_and_emoji_on_white():
    preprocessor = data.ImagePreprocessor((40, 40))
    for name, background in (("digits", 0), ("emoji", 255)):
        image = next(iter(datasets.load(name)))["inputs"]
        assert np.all(preprocessor(image)[0] == background)


def test_errors():
    with pytest.raises(ValueError, match=r"`size` must be two positive.*size=\(0, 4\)"):
        data.ImagePreprocessor((0, 4))
    with pytest.raises(ValueError, match="`fit` must be one of 'pad', 'resize'.*fit='crop'"):
        data.ImagePreprocessor(fit="crop")
    with pytest.raises(ValueError, match="`background` must be from 0 to 255.*background=256"):
        data.ImagePreprocessor(background=256)
    preprocessor = data.ImagePreprocessor()
    with pytest.raises(ValueError, match=r"`raw` must be .*shape=\(4, 4, 2\)"):
        preprocessor(np.zeros((4, 4, 2)))
    with pytest.raises(ValueError, match=r"`raw` must be .*shape=\(1, 4, 4, 3\)"):
        preprocessor(np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match=r"bytes of one image. Received: shape=\(1,\)"):
        preprocessor([b"x"])
    with pytest.raises(ValueError, match="PNG, JPEG, GIF or BMP file. Received: 4 bytes"):
        preprocessor(b"junk")


def in_both_ways(raw, size):
    """Decodes eagerly and in a graph, and compares."""
    preprocessor = data.ImagePreprocessor(size)
    eager = preprocessor(raw).numpy()
    mapped = next(iter(tf.data.Dataset.from_tensors(raw).map(preprocessor)))
    np.testing.assert_array_equal(eager, mapped)
    return eager


def file_of(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def on_white(image):
    """What a viewer shows, by Pillow."""
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    return np.asarray(PIL.Image.alpha_composite(white, image).convert("RGB"))


COLORS = PIL.Image.fromarray(random_image(6, 9, 3)).quantize(16)


@pytest.mark.parametrize("form", ["BMP", "PNG", "GIF"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_palettes_and_gray_of_few_bits(form, mode):
    image = COLORS if mode == "P" else COLORS.convert("RGB").convert(mode)
    shown = in_both_ways(file_of(image, form), (6, 9))
    np.testing.assert_array_equal(shown, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_orientation_of_exif(form, orientation):
    quarters = np.kron(np.array([[0, 80], [160, 240]], "uint8"), np.ones((16, 32), "uint8"))
    image = PIL.Image.fromarray(quarters).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = file_of(image, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content))).convert("RGB")
    shown = in_both_ways(content, expected.size[::-1])
    np.testing.assert_allclose(shown, np.asarray(expected), atol=2)


def test_broken_exif_is_ignored():
    image = PIL.Image.fromarray(random_image(6, 9, 3))
    content = file_of(image, "PNG", exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(in_both_ways(content, (6, 9)), np.asarray(image))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_over_white(form, mode):
    image = PIL.Image.fromarray(random_image(6, 9, 4), "RGBA")
    image = image.quantize(16, method=2) if mode == "P" else image.convert(mode)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    content = file_of(image, form, **options)
    shown = in_both_ways(content, (6, 9))
    np.testing.assert_allclose(shown, on_white(image), atol=1)


def test_black_on_transparent_is_black_on_white():
    drawn = np.zeros((6, 9, 4), "uint8")
    drawn[2, 3, 3] = 255
    expected = np.full((6, 9, 3), 255.0)
    expected[2, 3] = 0
    gif = PIL.Image.fromarray(drawn[..., 3] // 255)
    gif.putpalette([0, 0, 0] * 2)
    for raw in (
        drawn,
        drawn.astype("uint16") * 257,
        drawn.astype("float32"),
        file_of(PIL.Image.fromarray(drawn), "PNG"),
        file_of(gif, "GIF", transparency=0),
        file_of(gif, "PNG", transparency=0),
    ):
        np.testing.assert_array_equal(in_both_ways(raw, (6, 9)), expected)


def test_first_frame_smaller_than_its_gif():
    frame = file_of(PIL.Image.new("P", (3, 2), 0), "GIF")
    # The size of the whole image stands in bytes 6 to 9: 9 x 6.
    shown = in_both_ways(frame[:6] + bytes([9, 0, 6, 0]) + frame[10:], (6, 9))
    expected = np.full((6, 9, 3), 255.0)
    expected[:2, :3] = 0
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_in_arrays_and_files(channels):
    image = np.random.default_rng(1).integers(0, 65536, (6, 9, channels), dtype="uint16")
    opacity = image[..., 3:] / 65535 if channels == 4 else 1.0
    expected = image[..., :3] / 257.0 * opacity + 255.0 * (1 - opacity)
    expected = np.broadcast_to(expected, (6, 9, 3))
    shown = in_both_ways(image, (6, 9))
    np.testing.assert_allclose(shown, expected, atol=1e-3)
    png = tf.io.encode_png(image).numpy()
    np.testing.assert_allclose(in_both_ways(png, (6, 9)), expected, atol=1e-3)


def test_white_of_every_type():
    for white in (np.uint8(255), np.uint16(65535), np.True_, np.int32(255), np.float16(255)):
        assert np.all(in_both_ways(np.full((2, 2), white), (2, 2)) == 255)


@pytest.mark.parametrize("value", [np.int32(256), np.int64(-1), np.float32(65535), np.int16(4000)])
def test_values_that_are_no_pixels_are_refused(value):
    image = np.full((2, 2, 3), value)
    with pytest.raises(data.BadExampleError, match=f"from 0 to 255.*dtype={image.dtype}") as caught:
        data.ImagePreprocessor((2, 2))(image)
    assert caught.value.reason == "not pixels"
    with pytest.raises(tf.errors.OpError, match="not pixels"):
        next(iter(tf.data.Dataset.from_tensors(image).map(data.ImagePreprocessor((2, 2)))))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_cut_files_and_other_formats_are_refused(form):
    content = file_of(PIL.Image.fromarray(random_image(40, 40, 3)), form)
    content = content if form == "TIFF" else content[: len(content) // 2]
    with pytest.raises(data.BadExampleError, match="GIF or BMP file") as caught:
        data.ImagePreprocessor()(content)
    assert caught.value.reason == "broken image"
    with pytest.raises(tf.errors.OpError):
        next(iter(tf.data.Dataset.from_tensors(content).map(data.ImagePreprocessor())))


def test_limits_are_arguments():
    gif = stopping_files.image("GIF", 20, 10, frames=5)
    for limit, refused in ((125, True), (200, False)):  # 125 * 8 is the 1,000 pixels of all frames
        images = data.ImagePreprocessor((8, 8), max_pixels=limit)
        again = data.ImagePreprocessor.from_config(images.get_config())
        assert again.max_pixels == limit
        if refused:
            with pytest.raises(data.BadExampleError, match="at most 125 pixels. Received: 20 x 10"):
                again(gif)
        else:
            assert again(gif).shape == (8, 8, 3)
    with pytest.raises(data.BadExampleError, match="1600 pixels in all.*9 frames of 20 x 10"):
        again(stopping_files.image("GIF", 20, 10, frames=9))
    with pytest.raises(ValueError, match=r"at most max_pixels=63 pixels.*size=\(8, 8\)"):
        data.ImagePreprocessor((8, 8), max_pixels=63)
    for limit in (0, 1.5, None):
        with pytest.raises(ValueError, match=f"max_pixels={limit}"):
            data.ImagePreprocessor(max_pixels=limit)


@pytest.mark.parametrize(
    "form,mode", [("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "I;16"), ("GIF", "P")]
)
@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_large_images_are_scaled_down_while_they_are_decoded(monkeypatch, form, mode, fit):
    gradient = np.add.outer(np.arange(300), np.arange(500)) * 255.0 / 798
    gradient = gradient * 257 if mode == "I;16" else gradient
    image = PIL.Image.fromarray(gradient.astype("uint16" if mode == "I;16" else "uint8"))
    image = image if mode in ("I;16", "P") else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(PIL.Image.fromarray((gradient / 2 + 100).astype("uint8")))
    file = io.BytesIO()
    image.save(file, form, **({"quality": 95} if form == "JPEG" else {}))
    images = data.ImagePreprocessor((16, 20), fit=fit, background=0.0)
    expected = images(file.getvalue()).numpy()
    monkeypatch.setattr(image_files, "_LARGE", 1000)
    actual = images(file.getvalue()).numpy()
    assert np.abs(actual - expected).max() < 4
    assert images(stopping_files.png(3000, 1)).shape == (16, 20, 3)
