import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel import data


def picture(height=6, width=7):
    values = np.random.default_rng(0).uniform(20, 230, (height, width, 3))
    return values.astype("float32")


def seeds(count):
    return [[seed, 0] for seed in range(count)]


def test_shifts_are_windows_of_the_mirrored_image():
    image = picture()
    wide = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="symmetric")
    windows = {(i, j): wide[i : i + 6, j : j + 7] for i in range(5) for j in range(5)}
    augment = data.ImageAugment(2, brightness=0.0, contrast=0.0)
    found = set()
    for seed in seeds(200):
        changed = augment(image, seed).numpy()
        (place,) = (p for p, window in windows.items() if np.array_equal(window, changed))
        found.add(place)
    assert found == set(windows)


def test_flip_by_choice():
    image = picture()
    augment = data.ImageAugment(0, flip=True, brightness=0.0, contrast=0.0)
    flipped = [np.array_equal(augment(image, seed), image[:, ::-1]) for seed in seeds(200)]
    kept = [np.array_equal(augment(image, seed), image) for seed in seeds(200)]
    assert all(a != b for a, b in zip(flipped, kept)) and 0.35 < np.mean(flipped) < 0.65


def test_brightness_adds_and_contrast_scales():
    image = np.full((4, 4, 3), 100.0, "float32")
    augment = data.ImageAugment(0, brightness=0.1, contrast=0.0)
    added = np.array([augment(image, seed).numpy() - image for seed in seeds(100)])
    assert np.ptp(added, axis=(1, 2, 3)).max() < 1e-4  # all pixels alike
    assert added.min() >= -25.51 and added.max() <= 25.51 and np.ptp(added) > 40

    image = picture()
    distance = image - image.mean(axis=(0, 1))
    augment = data.ImageAugment(0, brightness=0.0, contrast=0.2)
    for seed in seeds(20):
        changed = augment(image, seed).numpy()
        ratio = (changed - changed.mean(axis=(0, 1)))[1, 1] / distance[1, 1]
        assert 0.79 < ratio.min() and ratio.max() < 1.21 and np.ptp(ratio) < 0.02


def test_shape_dtype_and_range_stay():
    image = np.array([[[0], [255]], [[255], [0]]], "uint8")
    changed = data.ImageAugment(1, True, 1.0, 1.0)(tf.constant(image), [1, 1])
    assert changed.dtype == tf.uint8 and changed.shape == (2, 2, 1)
    bright = data.ImageAugment(0, brightness=1.0, contrast=0.0)
    for seed in seeds(10):
        changed = bright(picture(), seed).numpy()
        assert changed.min() >= 0 and changed.max() <= 255


def test_nothing_to_change_changes_nothing():
    still = data.ImageAugment(0, False, 0.0, 0.0)
    np.testing.assert_array_equal(still(picture(), [0, 0]), picture())


def test_integers_of_numpy_are_integers():
    of_numpy = data.ImageAugment(np.int64(2))
    np.testing.assert_array_equal(
        of_numpy(picture(), [1, 2]), data.ImageAugment(2)(picture(), [1, 2])
    )
    with pytest.raises(ValueError, match="`shift` must be an integer of at least 0.*shift=1.0"):
        data.ImageAugment(shift=1.0)


def test_errors():
    with pytest.raises(ValueError, match="`shift` must be an integer of at least 0.*shift=-1"):
        data.ImageAugment(shift=-1)
    for name in ("brightness", "contrast"):
        with pytest.raises(ValueError, match=f"`{name}` must be from 0 to 1.*{name}=1.5"):
            data.ImageAugment(**{name: 1.5})
    with pytest.raises(ValueError, match=r"`inputs` must be one image.*shape=\(4, 4\)"):
        data.ImageAugment()(np.ones((4, 4)), [0, 0])
    with pytest.raises(ValueError, match=r"high and wide as shift=3. .*shape=\(2, 9, 3\)"):
        data.ImageAugment(shift=3)(np.ones((2, 9, 3)), [0, 0])
