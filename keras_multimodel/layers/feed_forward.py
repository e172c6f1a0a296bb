"""A dense feed-forward block."""

import keras
from keras import ops

from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.moe.routers.router import check_positive_int


@keras.saving.register_keras_serializable(package="keras_multimodel")
class FeedForward(keras.layers.Layer):
    """Passes every position through two dense layers: the dense counterpart of `MoELayer`.

    Computes `LN(x + dropout(activation(x W_in) W_out))`, without biases, as one expert does, and
    maps `(batch, length, hidden_dim)` to itself. Each position stands alone, so padding changes
    nothing.

    Args:
        hidden_dim: width of inputs and outputs.
        intermediate_dim: width between the two dense layers; None for `hidden_dim`.
        activation: name of, or function for, the activation.
        dropout: share of the branch's outputs that is dropped in training.
        kernel_initializer: initializer of both kernels.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)` or `(batch, hidden_dim)`.
        mask: boolean `(batch, length)`; accepted, and not needed.
        training: whether to apply dropout.

    Returns:
        A tensor of the shape of `inputs`.

    Raises:
        ValueError: a size is not a positive integer, or `dropout` is outside [0, 1).

    Example:
        >>> FeedForward(64, 256)(keras.random.normal((2, 5, 64))).shape
        (2, 5, 64)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137: the ablation without experts.
    """

    position_wise = True

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int | None = None,
        activation="relu",
        dropout: float = 0.0,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_int("hidden_dim", hidden_dim)
        check_positive_int("intermediate_dim", intermediate_dim, optional=True)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        check_block_input(input_shape, self.hidden_dim)
        width = self.intermediate_dim or self.hidden_dim
        common = {"use_bias": False, "dtype": self.dtype_policy}
        self.dense_in = keras.layers.Dense(
            width,
            activation=self.activation,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            name="dense_in",
            **common,
        )
        self.dense_out = keras.layers.Dense(
            self.hidden_dim,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            name="dense_out",
            **common,
        )
        self.dropout_layer = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.norm = LayerNorm(dtype=self.dtype_policy, name="norm")
        self.dense_in.build(input_shape)
        self.dense_out.build((*input_shape[:-1], width))
        self.norm.build(input_shape)

    def call(self, inputs, mask=None, training=None):
        outputs = self.dense_out(self.dense_in(inputs))
        outputs = self.dropout_layer(outputs, training=training)
        return self.norm(ops.add(inputs, outputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def clone_initializer(initializer):
    """Returns an initializer of the same configuration, for a weight of its own."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    return type(initializer).from_config(initializer.get_config())


def check_block_input(input_shape, hidden_dim: int) -> None:
    """Raises a ValueError unless a position-wise block of `hidden_dim` can read `input_shape`."""
    if len(input_shape) not in (2, 3) or input_shape[-1] != hidden_dim:
        raise ValueError(
            f"`inputs` must have shape (batch, length, {hidden_dim}) or (batch, {hidden_dim}), "
            f"since hidden_dim={hidden_dim}. Received: inputs.shape={tuple(input_shape)}"
        )
