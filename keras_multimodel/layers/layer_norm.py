"""Layer normalization."""

import keras

from keras_multimodel.argument_checks import positive
from keras_multimodel.ops.numerics import layer_norm
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LayerNorm(keras.layers.Layer):
    """Normalizes the last axis, as `keras.layers.LayerNormalization` does.

    With a third of its graph nodes on TensorFlow; see `ops.numerics.layer_norm`.

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
        self.epsilon = positive("epsilon", epsilon)
        self.supports_masking = True

    def build(self, input_shape: Shape):
        shape = (input_shape[-1],)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
        self.offset = self.add_weight(name="offset", shape=shape, initializer="zeros")

    def call(self, inputs: Tensor):
        return layer_norm(inputs, self.scale, self.offset, self.epsilon)

    def compute_output_shape(self, input_shape: Shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
