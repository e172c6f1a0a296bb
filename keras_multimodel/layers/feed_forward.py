"""A dense feed-forward block."""

from collections.abc import Callable

import keras
from keras import ops

from keras_multimodel.argument_checks import (
    block_shape,
    fraction,
    optional_positive_int,
    positive_int,
)
from keras_multimodel.layers.adaptable import Dense
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.sublayers import CompositeLayer, attributes, clone_initializer
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class FeedForward(CompositeLayer):
    """Passes every position through two dense layers: the dense counterpart of `MoELayer`.

    Computes `LN(x + dropout(activation(x W_in) W_out))`, without biases, as one expert does, and
    maps `(batch, length, hidden_dim)` to itself. Positions do not mix, so padding changes nothing.

    Args:
        hidden_dim: width of inputs and outputs.
        intermediate_dim: width between the two dense layers; None for `hidden_dim`.
        activation: name of the activation, or a function.
        dropout: rate of dropout of what is added to the inputs.
        kernel_initializer: initializer of both kernels.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(batch, hidden_dim)`.
        mask: boolean `(batch, length)`; accepted like that of other blocks, and not used.
        training: whether to apply dropout.

    Returns:
        A tensor of the shape of `inputs`.

    Raises:
        ValueError: a size is not a positive integer, or `dropout` is outside [0, 1).

    Example:
        >>> kmm.layers.FeedForward(64, 256)(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137: the ablation without experts.
    """

    # The encoder and decoder then call it once, on the positions of all their sequences together.
    position_wise = True

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int | None = None,
        activation: str | Callable = "relu",
        dropout: float = 0.0,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = positive_int("hidden_dim", hidden_dim)
        self.intermediate_dim = optional_positive_int("intermediate_dim", intermediate_dim)
        self.activation = keras.activations.get(activation)
        self.dropout = fraction("dropout", dropout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Shape):
        block_shape("inputs", input_shape, self.hidden_dim, ranks=(2, 3))
        width = self.intermediate_dim or self.hidden_dim
        self.dense_in = self._make_dense(input_shape, width, "dense_in", self.activation)
        self.dense_out = self._make_dense((*input_shape[:-1], width), self.hidden_dim, "dense_out")
        # `dropout` itself is the rate, under which `get_config` finds it.
        self.dropout_layer = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.norm = self.make(LayerNorm, input_shape, name="norm")

    def _make_dense(self, input_shape, units, name, activation=None):
        # Without bias, and with a copy of the initializer of its own, as an expert of `MoELayer`.
        initializer = clone_initializer(self.kernel_initializer)
        options = {"use_bias": False, "kernel_initializer": initializer, "name": name}
        return self.make(Dense, input_shape, units, activation, **options)

    def call(self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None):
        outputs = self.dense_out(self.dense_in(inputs))
        outputs = self.dropout_layer(outputs, training=training)
        return self.norm(ops.add(inputs, outputs))

    def compute_output_shape(self, input_shape: Shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            **attributes(self, "hidden_dim", "intermediate_dim", "dropout"),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
