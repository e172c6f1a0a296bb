"""The convolution block and its step."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_multimodel.argument_checks import block_shape, fraction, one_of, positive_int
from keras_multimodel.layers.adaptable import Dense
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.stepping import write_position
from keras_multimodel.layers.sublayers import CompositeLayer, attributes
from keras_multimodel.ops.depthwise_conv import depthwise_conv1d
from keras_multimodel.ops.numerics import corner
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ConvStep(CompositeLayer):
    """ReLU, depthwise-separable convolution, layer normalization.

    Masked positions are zeroed before the convolution, so that padding never reaches a real
    position.

    Args:
        filters: number of output channels.
        kernel_size: number of positions that one output sees.
        dilation_rate: distance between those positions.
        padding: `"same"`, or `"causal"` if no output may see a later input.

    Call arguments:
        inputs: `(batch, length, channels)`.
        mask: boolean `(batch, length)`, True at real positions.

    Returns:
        `(batch, length, filters)`.

    Raises:
        ValueError: a size is not a positive integer, or `padding` is unknown.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.1: `ConvStep(W, x) = LN(SepConv(W,
        ReLU(x)))`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        dilation_rate: int = 1,
        padding: str = "same",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = positive_int("filters", filters)
        self.kernel_size = positive_int("kernel_size", kernel_size)
        self.dilation_rate = positive_int("dilation_rate", dilation_rate)
        self.padding = one_of("padding", padding, ("same", "causal"))

    def build(self, input_shape: Shape):
        channels = input_shape[-1]
        self.depthwise_kernel = self.add_weight(
            name="depthwise_kernel",
            shape=(self.kernel_size, 1, channels, 1),
            # Fan-in is the kernel size alone: a channel sees only itself.
            initializer=keras.initializers.RandomNormal(stddev=self.kernel_size**-0.5),
        )
        self.pointwise = self.make_pointwise(channels)
        self.norm = self.make(LayerNorm, (None, self.filters), name="norm")

    def make_pointwise(self, channels: int) -> keras.layers.Layer:
        """Makes the layer that mixes the channels of each position."""
        options = {"use_bias": False, "kernel_initializer": "he_normal", "name": "pointwise"}
        return self.make(Dense, (None, channels), self.filters, **options)

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        x = ops.relu(inputs)
        if mask is not None:
            # Before the convolution, and after the ReLU: padding then looks like the border.
            x = x * ops.cast(mask, x.dtype)[..., None]
        rows = self.norm(self.convolve(x))
        return ops.reshape(rows, (*ops.shape(inputs)[:-1], self.filters))

    def convolve(self, x: Tensor) -> Tensor:
        """Maps `(batch, length, channels)` to rows `(batch * length, filters)`."""
        kernel = ops.cast(self.depthwise_kernel, x.dtype)
        channels = x.shape[-1]
        x = depthwise_conv1d(x, kernel, self.dilation_rate, *self.margins())
        # As a matrix of rows: a product with three axes costs twenty graph nodes instead of one.
        return self.pointwise(ops.reshape(x, (-1, channels)))

    def initial_cache(
        self,
        batch_size: int,
        max_length: int,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """Returns the cache of the last inputs that the kernel sees; see `SteppingBlock`.

        A dilated convolution is `dilation_rate` plain ones, interleaved. Each has a ring of its
        last `kernel_size` inputs: `(batch, dilation_rate * kernel_size, channels)` in all.
        """
        if self.padding != "causal":
            raise ValueError(
                f'`padding` must be "causal" to step. Received: padding={self.padding}'
            )
        shape = (batch_size, self.dilation_rate * self.kernel_size, self.depthwise_kernel.shape[2])
        # Zeros are what the padding in front of the sequence holds.
        return ops.zeros(shape, self.compute_dtype)

    def step(self, inputs: Tensor, cache: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Maps position `index`, `(batch, channels)`, to its output; see `SteppingBlock`."""
        size = self.kernel_size
        start, slot = index % self.dilation_rate * size, index // self.dilation_rate % size
        cache = write_position(cache, ops.relu(inputs), start + slot)
        ring = cache
        if self.dilation_rate > 1:
            sizes = (ops.shape(cache)[0], size, cache.shape[2])
            ring = ops.slice(cache, corner(0, start, 0), sizes)
        # The ring is not in the order of time. Instead of the ring, the smaller kernel is turned,
        # until its last entry meets the newest input, which lies in `slot`.
        order = (ops.arange(size - 1, 2 * size - 1, dtype="int32") - slot) % size
        kernel = ops.cast(self.depthwise_kernel, inputs.dtype)[:, 0, :, 0]
        x = ops.sum(ring * ops.take(kernel, order, axis=0), axis=1)
        return self.norm(self.pointwise(x)), cache

    def margins(self) -> tuple[int, int]:
        """Returns how many zeros go before and after the sequence."""
        # An odd zero goes to the end, as in TensorFlow's "same" padding.
        total = (self.kernel_size - 1) * self.dilation_rate
        front = total if self.padding == "causal" else total // 2
        return front, total - front

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        own = attributes(self, "filters", "kernel_size", "dilation_rate", "padding")
        return {**super().get_config(), **own}


# Only this default is cut to the number of kernels. Rates of the user's own must match it.
_PAPER_DILATION_RATES = (1, 1, 1, 8)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ConvBlock(CompositeLayer):
    """Pairs of convolution steps; after each pair the block's input is added.

    With the default kernels: `h1 = step(x)`, `h2 = x + step(h1)`, `h3 = step(h2)`, `h4 = x +
    step(h3)`, dropout on `h4`. An odd last step counts as a pair.

    Args:
        hidden_dim: channels in and out.
        kernel_sizes: one kernel size per step.
        dilation_rates: one dilation rate per step. The default holds the rates of the paper's four
            steps; with fewer kernels, its first rates are used.
        padding: `"same"` in an encoder, `"causal"` in a decoder.
        dropout: dropout rate on the block's output in training.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        mask: boolean `(batch, length)`, True at real positions. Padding changes no real position.

    Returns:
        `(batch, length, hidden_dim)`.

    Raises:
        ValueError: there is no kernel, or not one dilation rate per kernel; a size is not a
            positive integer; `padding` is unknown; `dropout` is outside [0, 1); the last axis of
            the inputs is not `hidden_dim`.

    Example:
        >>> block = kmm.layers.ConvBlock(32, kernel_sizes=(3, 3), dropout=0.1)
        >>> block(keras.random.normal((2, 50, 32))).shape
        (2, 50, 32)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.1.
    """

    def __init__(
        self,
        hidden_dim: int,
        kernel_sizes: Sequence[int] = (3, 3, 15, 15),
        dilation_rates: Sequence[int] = _PAPER_DILATION_RATES,
        padding: str = "same",
        dropout: float = 0.4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        kernel_sizes, dilation_rates = tuple(kernel_sizes), tuple(dilation_rates)
        if dilation_rates == _PAPER_DILATION_RATES:
            dilation_rates = dilation_rates[: len(kernel_sizes)]
        if not kernel_sizes or len(kernel_sizes) != len(dilation_rates):
            raise ValueError(
                "`kernel_sizes` and `dilation_rates` must have one entry per step, at least one. "
                f"Received: kernel_sizes={kernel_sizes}, dilation_rates={dilation_rates}"
            )
        self.hidden_dim = positive_int("hidden_dim", hidden_dim)
        self.kernel_sizes = kernel_sizes
        self.dilation_rates = dilation_rates
        self.padding = padding
        self.dropout = fraction("dropout", dropout)
        self.steps = [
            ConvStep(hidden_dim, size, rate, padding, dtype=self.dtype_policy, name=f"step_{i}")
            for i, (size, rate) in enumerate(zip(kernel_sizes, dilation_rates))
        ]
        self.output_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: Shape):
        block_shape("inputs", input_shape, self.hidden_dim)
        for step in self.steps:
            step.build(input_shape)

    def call(
        self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        x = inputs
        for i, step in enumerate(self.steps):
            x = step(x, mask=mask)
            if i % 2 or i == len(self.steps) - 1:
                x = x + inputs
        return self.output_dropout(x, training=training)

    def initial_cache(
        self,
        batch_size: int,
        max_length: int,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> list:
        """Returns the caches of the steps; see `SteppingBlock`."""
        return [step.initial_cache(batch_size, max_length) for step in self.steps]

    def step(self, inputs: Tensor, cache: list, index: Tensor) -> tuple[Tensor, list]:
        """Maps position `index`, `(batch, hidden_dim)`, to its output; see `SteppingBlock`."""
        # Without dropout: steps run in inference only.
        x, after = inputs, []
        for i, (step, step_cache) in enumerate(zip(self.steps, cache)):
            x, step_cache = step.step(x, step_cache, index)
            after.append(step_cache)
            if i % 2 or i == len(self.steps) - 1:
                x = x + inputs
        return x, after

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self):
        names = "hidden_dim", "kernel_sizes", "dilation_rates", "padding", "dropout"
        return {**super().get_config(), **attributes(self, *names)}
