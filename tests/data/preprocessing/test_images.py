import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data, datasets


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
    with pytest.raises(ValueError, match="`fit` must be one of pad, resize.*fit='crop'"):
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
