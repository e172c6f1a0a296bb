import gc

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.ops.compiled import compiled
from keras_multimodel.ops.gradients import custom_gradient, forward_only


def tripled(x):
    return 2.0 * x, lambda upstream: 3.0 * upstream  # a wrong gradient, to tell it apart


def test_the_output_is_the_same_with_and_without_a_gradient():
    x = ops.convert_to_tensor([1.0, 2.0])
    with forward_only():
        inside = custom_gradient(lambda x: (2.0 * x, None))(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(inside), [2.0, 4.0])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the leak is TensorFlow's")
def test_a_program_without_gradients_gives_its_graph_back():
    import tensorflow as tf

    x = tf.constant([1.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = custom_gradient(tripled)(x)
    np.testing.assert_array_equal(tape.gradient(y, x), [3.0])

    def graphs():
        gc.collect()
        return sum(type(found).__name__ == "FuncGraph" for found in gc.get_objects())

    before = graphs()
    for _ in range(3):
        program = compiled(lambda values, x: custom_gradient(tripled)(x), [])
        np.testing.assert_array_equal(program(np.ones(1, "float32")), [2.0])
        del program
    assert graphs() == before
