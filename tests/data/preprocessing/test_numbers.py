import re

import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.data import BadExampleError, NumberPreprocessor, SeriesPreprocessor

NAN = float("nan")


def test_fits_mean_and_deviation_without_gaps():
    fitted = NumberPreprocessor.fit([[1.0, 10.0], [3.0, NAN], [5.0, 10.0]])
    assert (fitted.size, fitted.mean) == (2, [3.0, 10.0])
    np.testing.assert_allclose(fitted.scale, [np.std([1, 3, 5]), 1.0])  # a constant is not scaled
    np.testing.assert_allclose(fitted([3.0, NAN]), [0.0, NAN])


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("raw", [0.0, -3.5, 19.99, 12345.0])
def test_comes_back(raw, logarithm):
    fitted = NumberPreprocessor.fit([1.0, -2.0, 500.0], logarithm)
    again = NumberPreprocessor.from_config(fitted.get_config())
    assert again == fitted
    assert again.decode(again(raw).numpy()) == pytest.approx(raw, rel=1e-5, abs=1e-4)


def test_the_logarithm():
    x = NumberPreprocessor(logarithm=True)
    np.testing.assert_allclose(x(-9.0), [-np.log(10)], rtol=1e-6)
    assert x.raw_units() == {"mean": [0.0], "scale": [1.0], "logarithm": True}


def test_is_the_same_in_a_data_set():
    numbers, series = NumberPreprocessor(1, 2.0, 4.0), SeriesPreprocessor(1, 2.0, 4.0)
    raw = [1, 5, 9]
    mapped = list(tf.data.Dataset.from_tensor_slices(raw).map(numbers).as_numpy_iterator())
    np.testing.assert_allclose(mapped, [numbers(x) for x in raw])
    (mapped,) = tf.data.Dataset.from_tensors([1.0, NAN]).map(series).as_numpy_iterator()
    np.testing.assert_allclose(mapped, [[-0.25, 1.0], [0.0, 0.0]])


def test_a_series_keeps_its_gaps_apart_from_zeros():
    fitted = SeriesPreprocessor.fit([np.array([[1.0, 0.0], [3.0, NAN]])], max_length=2)
    x = fitted([[2.0, 0.0], [NAN, NAN], [9.0, 9.0]]).numpy()
    np.testing.assert_allclose(x, [[0, 0, 1, 1], [0, 0, 0, 0]])
    assert fitted.unlimited()([[2.0, 0.0]] * 3).shape == (3, 4)
    assert SeriesPreprocessor.from_config(fitted.get_config()) == fitted
    with pytest.raises(BadExampleError, match="must have a value that is known"):
        fitted.strict([[NAN, NAN]])


@pytest.mark.parametrize(
    "raw, reason, received",
    [
        ("19 euros", "not a number", "raw='19 euros', dtype=string"),
        (True, "not a number", "dtype=bool"),
        (float("inf"), "not finite", "one that is infinite"),
        ([1.0, 2.0], "wrong shape", "shape=(2,)"),
        ([[1.0], [2.0, 3.0]], "not a number", "non-rectangular"),
    ],
)
def test_a_bad_number(raw, reason, received):
    with pytest.raises(BadExampleError, match=re.escape(received)) as caught:
        NumberPreprocessor()(raw)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "make, received",
    [
        (lambda: NumberPreprocessor(0), "size=0"),
        (lambda: NumberPreprocessor(mean=float("inf")), "mean=inf"),
        (lambda: NumberPreprocessor(scale=0.0), "scale=0.0"),
        (lambda: NumberPreprocessor(2, mean=[1.0]), "mean=[1.0]"),
        (lambda: NumberPreprocessor.fit(["a"]), "could not convert string"),
        (lambda: NumberPreprocessor.fit([float("inf")]), "one that is infinite"),
        (lambda: NumberPreprocessor.fit(np.ones((1, 1, 1))), "shape=(1, 1, 1)"),
        (lambda: NumberPreprocessor.fit([NAN]), "nan"),
        (lambda: NumberPreprocessor(2).decode(np.ones(1)), "prediction=array([1.])"),
        (lambda: SeriesPreprocessor(channels=0), "channels=0"),
        (lambda: SeriesPreprocessor(max_length=0), "max_length=0"),
        (lambda: SeriesPreprocessor.fit([]), "shapes []"),
    ],
)
def test_refuses(make, received):
    with pytest.raises(ValueError, match=f"Received: .*{re.escape(received)}"):
        make()
