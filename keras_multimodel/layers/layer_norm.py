"""Layer normalisation."""

import keras
from keras import ops

from keras_multimodel.ops.layer_norm import layer_norm


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LayerNorm(keras.layers.Layer):
    """Normalises the last axis, as `keras.layers.LayerNormalization` does, with a third of its
    graph nodes.

    Args:
        epsilon: added to the variance.

    Call arguments:
        inputs: `(..., channels)`.

    Returns:
        A tensor of the same shape.

    Reference:
        Ba et al. 2016, arXiv 1607.06450.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.supports_masking = True

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
        self.offset = self.add_weight(name="offset", shape=shape, initializer="zeros")

    def call(self, inputs):
        if len(inputs.shape) == 2:
            return layer_norm(inputs, self.scale, self.offset, self.epsilon)
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        y = layer_norm(rows, self.scale, self.offset, self.epsilon)
        return ops.reshape(y, ops.shape(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
