"""The token that tells the decoder which task to do."""

import keras
from keras import ops

from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class CommandToken(keras.layers.Layer):
    """Shifts embedded targets right by one and puts a learned vector, such as To-German, in front.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`, embedded targets.

    Returns:
        `(batch, length, hidden_dim)`: the command, then all targets but the last.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.4.
    """

    def build(self, input_shape):
        # Embedded ids have about unit variance per channel, and so has the command.
        self.command = self.add_weight(
            name="command",
            shape=(input_shape[-1],),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
        )

    def call(self, inputs):
        command = ops.cast(self.command, inputs.dtype)
        first = ops.ones_like(inputs[:, :1]) * command
        return ops.concatenate([first, inputs], axis=1)[:, :-1]

    def step(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Returns what position `index` sees: the command at 0, then the embedded id before it.

        Args:
            inputs: `(batch, hidden_dim)`, the embedded id.
            index: int32 scalar.
        """
        return ops.where(index == 0, ops.cast(self.command, inputs.dtype), inputs)

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_shape(self, input_shape):
        return input_shape
