"""The blocks of the authors' model, where they differ from the paper's.

Names follow the authors' code: the body of its MultiModel is its SliceNet, a stack of convolutions
with attention.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.sublayers import CompositeLayer, attributes
from keras_multimodel.layers.timing_signal import TimingSignal
from keras_multimodel.tensor2tensor.conv_steps import make_conv_step
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetTimingSignal(TimingSignal):
    """Adds sines, then cosines, to the first channels only.

    With `n = num_timescales`, channel `i < n` gets `sin(t / max_timescale^(i / (n - 1)))`, channel
    `n + i` the cosine of the same angle. Channels from `2 n` on do not change.

    Args:
        num_timescales: number of wavelengths, at least 2.
        max_timescale: the longest wavelength is `2 * pi` times this.

    Call arguments:
        inputs: `(batch, length, depth)` with `depth >= 2 * num_timescales`.
        start: position of the first input.

    Returns:
        `(batch, length, depth)`.

    Raises:
        ValueError: `num_timescales` is less than 2, or `depth` is too small for it.

    Reference:
        tensor2tensor, commit 3d9c62f2 (June 2017), as described in `tests/golden/README.md`.
    """

    def __init__(self, num_timescales: int = 16, max_timescale: float = 10_000.0, **kwargs):
        super().__init__(max_timescale=max_timescale, **kwargs)
        self.num_timescales = positive_int("num_timescales", num_timescales, minimum=2)

    def rates_and_phases(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        n = self.num_timescales
        if depth < 2 * n:
            raise ValueError(
                "`num_timescales` needs a depth of at least twice its value. "
                f"Received: num_timescales={n}, depth={depth}"
            )
        # From 1 to 1 / max_timescale, both included, unlike the base class.
        rates = self.max_timescale ** (-np.arange(n) / (n - 1))
        rest = np.zeros(depth - 2 * n)
        phases = np.concatenate([np.zeros(n), np.full(n, np.pi / 2), rest])
        # The other channels get sin(0 * t + 0) = 0.
        return np.concatenate([rates, rates, rest]), phases

    def get_config(self):
        return {**super().get_config(), "num_timescales": self.num_timescales}


class SliceNetPart(CompositeLayer):
    """A part of the body, which maps `(batch, length, hidden_dim)` to itself.

    It takes masks as arguments, and hands none on: the authors' code masks where it wants to.
    """

    def compute_mask(self, *args, **kwargs):
        return None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def pair_separabilities(separability: int, count: int) -> list[int]:
    """Returns the separability of each step of a block, such as -3, -2 for -2 and two steps.

    Args:
        separability: that of the last step; if negative, each step before has one group more.
        count: number of steps.
    """
    if separability >= 0:
        return [separability] * count
    # No step mixes its groups, but groups of different sizes overlap: channels that one step keeps
    # apart meet in the next.
    return [separability - i for i in reversed(range(count))]


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetAttention(SliceNetPart):
    """Targets attend to a source: `LN(targets + attention(q, source))`.

    There is one head and no projection: keys and values are the source itself. The result is
    `softmax(q source^T / sqrt(hidden_dim)) source`, where `q` is `step_{5, dilated by 4}(
    step_5(targets + timing))` with causal steps.

    Args:
        hidden_dim: channels in and out, at least 32.
        separability: that of the second step, see `make_conv_step`; if negative, the first step
            has one group more.

    Call arguments:
        targets: `(batch, length, hidden_dim)`.
        source: `(batch, source_length, hidden_dim)`.
        source_mask: boolean `(batch, source_length)`, True at real positions. Where a row has none,
            targets attend to all its positions evenly.

    Returns:
        `(batch, length, hidden_dim)`.
    """

    def __init__(self, hidden_dim: int, separability: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.separability = separability
        policy = {"dtype": self.dtype_policy}
        self.timing = SliceNetTimingSignal(name="timing", **policy)
        self.steps = [
            make_conv_step(s, hidden_dim, 5, rate, "causal", name=f"step_{i}", **policy)
            for i, (s, rate) in enumerate(zip(pair_separabilities(separability, 2), (1, 4)))
        ]
        self.norm = LayerNorm(name="norm", **policy)

    def build(self, targets_shape: Shape, **shapes: Shape):
        for layer in (self.timing, *self.steps, self.norm):
            layer.build(targets_shape)

    def call(self, targets: Tensor, source: Tensor, source_mask: Tensor | None = None):
        x = self.timing(targets)
        # Without a mask, unlike the steps of a stack: the authors' code has none here.
        for step in self.steps:
            x = step(x)
        # The residual is `targets` without timing.
        return self.norm(targets + self.attend(x, source, source_mask))

    def attend(self, queries: Tensor, source: Tensor, source_mask: Tensor | None = None):
        """Returns for each query the mean of `source`, weighted by similarity to the query."""
        scores = ops.matmul(queries, ops.transpose(source, (0, 2, 1))) * self.hidden_dim**-0.5
        if source_mask is not None:
            # Added, not written over the scores: a source that is all padding is attended to
            # evenly, as in the authors' code, instead of giving NaN.
            scores = scores + (1.0 - ops.cast(source_mask, scores.dtype))[:, None] * -1e9
        return ops.matmul(ops.softmax(scores, axis=-1), source)

    def get_config(self):
        return {**super().get_config(), **attributes(self, "hidden_dim", "separability")}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetStack(SliceNetPart):
    """Layers of two residual convolution blocks, with attention to a source if there is one.

    A layer computes `y = block_1(x)`, `x = x + block_2(x + y) + y`, then with a source `x = x +
    attention(x, source)`, then with a mask `x = x * mask`. The first two steps are `block_1`, the
    others `block_2`. Dropout follows the last layer only.

    Args:
        hidden_dim: channels in and out.
        num_layers: number of layers.
        kernel_sizes: one kernel size per step.
        dilation_rates: one dilation rate per step.
        separability: that of the last step of each block, see `make_conv_step`; if negative, each
            step before has one group more.
        padding: `"same"` in the encoder, `"causal"` in the decoder.
        dropout: rate on the output during training.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        source: `(batch, source_length, hidden_dim)`, or None for no attention. The first call
            settles which.
        mask: boolean `(batch, length)`, True at real positions.
        source_mask: boolean `(batch, source_length)`.

    Returns:
        `(batch, length, hidden_dim)`.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_layers: int,
        kernel_sizes: Sequence[int] = (3, 7, 15, 31),
        dilation_rates: Sequence[int] = (1, 1, 1, 1),
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
        # Weights of a checkpoint are found by the place of a step in these lists; see `weights`.
        self.layers = [self._make_steps(i) for i in range(num_layers)]
        self.attentions = []
        self.output_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def _make_steps(self, layer: int) -> list[ConvStep]:
        # Counted within each of the two blocks: -2 gives -3, -2 and again -3, -2.
        separabilities = [
            *pair_separabilities(self.separability, 2),
            *pair_separabilities(self.separability, len(self.kernel_sizes) - 2),
        ]
        settings = zip(separabilities, self.kernel_sizes, self.dilation_rates)
        options = {"padding": self.padding, "dtype": self.dtype_policy}
        return [
            make_conv_step(s, self.hidden_dim, k, d, name=f"layer_{layer}_step_{i}", **options)
            for i, (s, k, d) in enumerate(settings)
        ]

    def build(self, inputs_shape: Shape, source_shape: Shape | None = None):
        for step in sum(self.layers, []):
            step.build(inputs_shape)
        if source_shape is not None:
            arguments = inputs_shape, self.hidden_dim, self.separability
            self.attentions = [
                self.make(SliceNetAttention, *arguments, name=f"layer_{i}_attention")
                for i in range(self.num_layers)
            ]

    def call(
        self,
        inputs: Tensor,
        source: Tensor | None = None,
        mask: Tensor | None = None,
        source_mask: Tensor | None = None,
        training: bool | None = None,
    ):
        x = inputs
        for i, steps in enumerate(self.layers):
            y = x
            for step in steps[:2]:
                y = step(y, mask=mask)
            z = x + y
            for step in steps[2:]:
                z = step(z, mask=mask)
            x = x + z + y
            if self.attentions:
                x = x + self.attentions[i](x, source, source_mask=source_mask)
            # At the end of a layer only: within it the sums above write into padding, which the
            # steps mask again before they convolve.
            if mask is not None:
                x = x * ops.cast(mask, x.dtype)[..., None]
        return self.output_dropout(x, training=training)

    def get_config(self):
        own = attributes(self, "hidden_dim", "num_layers", "kernel_sizes", "dilation_rates")
        own |= attributes(self, "separability", "padding", "dropout")
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class SliceNetMiddle(SliceNetPart):
    """Shifts the targets right, behind a vector for their target space, and joins the source.

    The output is `step_3(concat(attention(shifted, source), shifted))`, where the causal step has
    4 plain groups and a 1x1 convolution.

    Args:
        hidden_dim: channels in and out.
        separability: that of the attention.
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
        policy = {"dtype": self.dtype_policy}
        self.attention = SliceNetAttention(hidden_dim, separability, name="attention", **policy)
        self.merge = make_conv_step(4, hidden_dim, 3, 1, "causal", name="merge", **policy)

    def build(self, targets_shape: Shape, **shapes: Shape):
        self.target_spaces = self.add_weight(
            name="target_spaces",
            shape=(self.num_target_spaces, self.hidden_dim),
            initializer="glorot_uniform",
        )
        self.attention.build(targets_shape)
        self.merge.build((*targets_shape[:-1], 2 * self.hidden_dim))

    def call(
        self,
        targets: Tensor,
        source: Tensor,
        target_space_id: Tensor,
        source_mask: Tensor | None = None,
    ):
        shifted = self.shift(targets, target_space_id)
        found = self.attention(shifted, source, source_mask=source_mask)
        return self.merge(ops.concatenate([found, shifted], axis=-1))

    def shift(self, targets: Tensor, target_space_id: Tensor):
        """Returns the targets behind the vector of their target space, without the last one."""
        space = ops.take(ops.cast(self.target_spaces, targets.dtype), target_space_id, axis=0)
        # An id of shape `(1,)` serves the whole batch.
        first = ops.ones_like(targets[:, :1]) * space[:, None]
        return ops.concatenate([first, targets], axis=1)[:, :-1]

    def get_config(self):
        own = attributes(self, "hidden_dim", "separability", "num_target_spaces")
        return {**super().get_config(), **own}
