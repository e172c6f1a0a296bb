"""The blocks that the authors' own model has in other places than the paper.

Names follow their code: its SliceNet, a stack of convolutions with attention, is the body of its
MultiModel.
"""

import keras
from keras import ops

from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.tensor2tensor.grouped_conv_steps import make_conv_step
from keras_multimodel.tensor2tensor.timing import SliceNetTimingSignal


def pair_separabilities(separability: int, count: int) -> list[int]:
    """Returns the separability of each step of a block: negative ones count up to the last.

    Args:
        separability: that of the last step.
        count: number of steps.

    Returns:
        As many numbers, such as -3, -2 for -2 and two steps.
    """
    if separability >= 0:
        return [separability] * count
    return [separability - i for i in reversed(range(count))]


def call_step(step: ConvStep, inputs, mask=None):
    """Calls a convolution step on a whole sequence."""
    return step(inputs, mask=mask)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetAttention(keras.layers.Layer):
    """Timed and convolved targets attend to a source: `LN(targets + attention(q, source))`.

    One head without projections, keys and values are the source: `softmax(q source^T /
    sqrt(hidden_dim)) source`, where `q` is `step_{5, dilated by 4}(step_5(targets + timing))`,
    causal.

    Args:
        hidden_dim: channels in and out, at least 32.
        separability: of the two steps, see `make_conv_step`; a negative one is -1 more for the
            first.

    Call arguments:
        targets: `(batch, length, hidden_dim)`.
        source: `(batch, source_length, hidden_dim)`.
        source_mask: boolean `(batch, source_length)`, True at real positions. A row without any
            attends to all evenly.

    Returns:
        `(batch, length, hidden_dim)`.
    """

    def __init__(self, hidden_dim: int, separability: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.separability = separability
        self.supports_masking = True
        policy = {"dtype": self.dtype_policy}
        self.timing = SliceNetTimingSignal(name="timing", **policy)
        self.steps = [
            make_conv_step(s, hidden_dim, 5, rate, "causal", name=f"step_{i}", **policy)
            for i, (s, rate) in enumerate(zip(pair_separabilities(separability, 2), (1, 4)))
        ]
        self.norm = LayerNorm(name="norm", **policy)

    def build(self, targets_shape, source_shape=None):
        for layer in (self.timing, *self.steps, self.norm):
            layer.build(targets_shape)

    def call(self, targets, source, source_mask=None):
        return self.forward(targets, source, source_mask)

    def forward(self, targets, source, source_mask=None, convolve=call_step, start=0):
        """Does what `call` does; see `SliceNetStack.forward`."""
        x = self.timing(targets, start=start)
        for step in self.steps:
            x = convolve(step, x)
        return self.norm(targets + self.attend(x, source, source_mask))

    def attend(self, queries, source, source_mask=None):
        """Returns for every query the mean of `source`, weighted by its likeness to the query."""
        scores = ops.matmul(queries, ops.transpose(source, (0, 2, 1))) * self.hidden_dim**-0.5
        if source_mask is not None:
            scores = scores + (1.0 - ops.cast(source_mask, scores.dtype))[:, None] * -1e9
        return ops.matmul(ops.softmax(scores, axis=-1), source)

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_shape(self, targets_shape, source_shape=None):
        return targets_shape

    def get_config(self):
        own = {"hidden_dim": self.hidden_dim, "separability": self.separability}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetStack(keras.layers.Layer):
    """Layers of two residual convolution blocks, with attention to a source where there is one.

    A layer computes `y = block_1(x)`, `x = x + block_2(x + y) + y`, then with a source `x = x +
    attention(x, source)`, then with a mask `x = x * mask`. The first two steps are `block_1`, the
    others `block_2`. Dropout follows the last layer only.

    Args:
        hidden_dim: channels in and out.
        num_layers: number of layers.
        kernel_sizes: one kernel size a step.
        dilation_rates: one dilation rate a step.
        separability: of the steps, see `make_conv_step`; a negative one is that of a block's last
            step, with -1 more for each before.
        padding: `"same"` in the encoder, `"causal"` in the decoder.
        dropout: rate on the output while training.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        source: `(batch, source_length, hidden_dim)`, or None for no attention. Settled by the first
            call.
        mask: boolean `(batch, length)`, True at real positions.
        source_mask: boolean `(batch, source_length)`.

    Returns:
        `(batch, length, hidden_dim)`.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_layers: int,
        kernel_sizes=(3, 7, 15, 31),
        dilation_rates=(1, 1, 1, 1),
        separability: int = 0,
        padding: str = "same",
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.kernel_sizes = tuple(kernel_sizes)
        self.dilation_rates = tuple(dilation_rates)
        self.separability = separability
        self.padding = padding
        self.dropout = dropout
        self.supports_masking = True
        self.layers = [self._make_steps(i) for i in range(num_layers)]
        self.attentions = []
        self.output_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def _make_steps(self, layer: int) -> list[ConvStep]:
        second = len(self.kernel_sizes) - 2
        separabilities = [
            *pair_separabilities(self.separability, 2),
            *pair_separabilities(self.separability, second),
        ]
        options = zip(separabilities, self.kernel_sizes, self.dilation_rates)
        name = f"layer_{layer}_step"
        return [
            make_conv_step(
                s, self.hidden_dim, k, d, self.padding, name=f"{name}_{i}", dtype=self.dtype_policy
            )
            for i, (s, k, d) in enumerate(options)
        ]

    def build(self, inputs_shape, source_shape=None):
        for step in sum(self.layers, []):
            step.build(inputs_shape)
        if source_shape is not None:
            self.attentions = [
                SliceNetAttention(
                    self.hidden_dim,
                    self.separability,
                    dtype=self.dtype_policy,
                    name=f"layer_{i}_attention",
                )
                for i in range(self.num_layers)
            ]
        for attention in self.attentions:
            attention.build(inputs_shape, source_shape)

    def call(self, inputs, source=None, mask=None, source_mask=None, training=None):
        x = self.forward(inputs, source, mask, source_mask)
        return self.output_dropout(x, training=training)

    def forward(
        self, inputs, source=None, mask=None, source_mask=None, convolve=call_step, start=0
    ):
        """Does what `call` does, without dropout.

        Args:
            inputs: as for `call`.
            source: as for `call`.
            mask: as for `call`.
            source_mask: as for `call`.
            convolve: function that calls a convolution step. One that remembers what the step has
                seen lets a causal stack run position by position.
            start: position of the first input.

        Returns:
            `(batch, length, hidden_dim)`.
        """
        x = inputs
        for i, steps in enumerate(self.layers):
            y = x
            for step in steps[:2]:
                y = convolve(step, y, mask)
            z = x + y
            for step in steps[2:]:
                z = convolve(step, z, mask)
            x = x + z + y
            if self.attentions:
                attention = self.attentions[i]
                x = x + attention.forward(x, source, source_mask, convolve, start)
            if mask is not None:
                x = x * ops.cast(mask, x.dtype)[..., None]
        return x

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_shape(self, inputs_shape, source_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "kernel_sizes": self.kernel_sizes,
            "dilation_rates": self.dilation_rates,
            "separability": self.separability,
            "padding": self.padding,
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetMiddle(keras.layers.Layer):
    """Shifts the targets right, behind a vector of their target space, and joins the source.

    `step_3(concat(attention(shifted, source), shifted))`, causal, where the step has 4 plain groups
    and a 1x1 convolution.

    Args:
        hidden_dim: channels in and out.
        separability: of the attention.
        num_target_spaces: number of target spaces.

    Call arguments:
        targets: embedded targets `(batch, length, hidden_dim)`.
        source: `(batch, source_length, hidden_dim)`.
        target_space_id: integers `(batch,)`, or `(1,)` for the whole batch.
        source_mask: boolean `(batch, source_length)`.

    Returns:
        `(batch, length, hidden_dim)`.
    """

    def __init__(
        self, hidden_dim: int, separability: int = 0, num_target_spaces: int = 32, **kwargs
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.separability = separability
        self.num_target_spaces = num_target_spaces
        self.supports_masking = True
        policy = {"dtype": self.dtype_policy}
        self.attention = SliceNetAttention(hidden_dim, separability, name="attention", **policy)
        self.merge = make_conv_step(4, hidden_dim, 3, 1, "causal", name="merge", **policy)

    def build(self, targets_shape, source_shape=None, target_space_id_shape=None):
        self.target_spaces = self.add_weight(
            name="target_spaces",
            shape=(self.num_target_spaces, self.hidden_dim),
            initializer="glorot_uniform",
        )
        self.attention.build(targets_shape, source_shape)
        self.merge.build((*targets_shape[:-1], 2 * self.hidden_dim))

    def call(self, targets, source, target_space_id, source_mask=None):
        return self.join(self.shift(targets, target_space_id), source, source_mask)

    def shift(self, targets, target_space_id):
        """Returns the targets behind the vector of their target space, without the last one."""
        space = ops.take(ops.cast(self.target_spaces, targets.dtype), target_space_id, axis=0)
        first = ops.ones_like(targets[:, :1]) * space[:, None]
        return ops.concatenate([first, targets], axis=1)[:, :-1]

    def join(self, shifted, source, source_mask=None, convolve=call_step, start=0):
        """Returns shifted targets merged with the source; see `SliceNetStack.forward`."""
        found = self.attention.forward(shifted, source, source_mask, convolve, start)
        return convolve(self.merge, ops.concatenate([found, shifted], axis=-1))

    def compute_mask(self, *args, **kwargs):
        return None  # masks are passed as arguments

    def compute_output_shape(self, targets_shape, source_shape=None, target_space_id_shape=None):
        return targets_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "separability": self.separability,
            "num_target_spaces": self.num_target_spaces,
        }
