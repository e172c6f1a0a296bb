"""The place of the largest entry."""

import keras
from keras import ops


def argmax(x):
    """Returns the int32 index of the largest entry of the last axis.

    On TensorFlow without the five passes over `x` with which Keras tells 0.0 from -0.0.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.argmax(x, axis=-1, output_type=tf.int32)
    return ops.cast(ops.argmax(x, axis=-1), "int32")
