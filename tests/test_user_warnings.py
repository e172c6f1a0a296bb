"""Warnings point at the user's line, however the code that warns was called."""

import ast
import inspect
import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_multimodel
from keras_multimodel import callbacks, layers, user_warnings


def line_of(seen):
    (warning,) = seen
    return warning.filename, warning.lineno


def test_a_function_that_the_user_calls():
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), [f"cpu:{i}" for i in range(4)])
    with pytest.warns(UserWarning, match="several devices on more axes") as seen:
        line = inspect.currentframe().f_lineno + 1
        layers.expert_layout_map(mesh)
    assert line_of(seen) == (__file__, line)


def test_a_callback_that_keras_calls():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = tf.data.Dataset.from_tensor_slices((np.zeros((8, 2)), np.zeros((8, 1)))).batch(2)
    with pytest.warns(UserWarning, match="waited for its input") as seen:
        line = inspect.currentframe().f_lineno + 1
        model.fit(x, shuffle=False, verbose=0, callbacks=[callbacks.InputWait(threshold=0.0)])
    assert line_of(seen) == (__file__, line)


def test_a_function_that_tensorflow_calls_at_a_line_noted_before():
    line = user_warnings.users_line()
    assert line == (__file__, inspect.currentframe().f_lineno - 1)

    def warn():
        user_warnings.warn("from a thread", line)
        return np.int64(0)

    with pytest.warns(UserWarning, match="from a thread") as seen:
        list(tf.data.Dataset.range(1).map(lambda _: tf.numpy_function(warn, [], tf.int64)))
    assert line_of(seen) == line


def test_a_line_warns_once():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            user_warnings.warn("once")
    assert len(seen) == 1


def test_the_whole_package_warns_in_this_way():
    package = pathlib.Path(keras_multimodel.__file__).parent
    direct = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("warnings.warn", "warnings.warn_explicit")
        and path.name != "user_warnings.py"
    ]
    assert not direct
