"""One step of a convolution block.

The convolution block."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.stepping import write_position
from keras_multimodel.ops.depthwise_conv import depthwise_conv1d


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ConvStep(keras.layers.Layer):
    """ReLU, depthwise-separable convolution, layer normalisation.

    Masked positions are zeroed before the convolution, so that padding never reaches a real
    position.

    Args:
        filters: output channels.
        kernel_size: positions that one output sees.
        dilation_rate: distance between those positions.
        padding: `"same"`, or `"causal"` where no output may see a later input.

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
        sizes = {"filters": filters, "kernel_size": kernel_size, "dilation_rate": dilation_rate}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")
        if padding not in ("same", "causal"):
            raise ValueError(f'`padding` must be "same" or "causal". Received: padding={padding}')
        self.filters = filters
        self.kernel_size = kernel_size
        self.dilation_rate = dilation_rate
        self.padding = padding
        self.supports_masking = True

    def build(self, input_shape):
        channels = input_shape[-1]
        self.depthwise_kernel = self.add_weight(
            name="depthwise_kernel",
            shape=(self.kernel_size, 1, channels, 1),
            # Fan-in is the kernel size alone: a channel sees only itself.
            initializer=keras.initializers.RandomNormal(stddev=self.kernel_size**-0.5),
        )
        self.pointwise = keras.layers.Dense(
            self.filters,
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name="pointwise",
        )
        self.pointwise.build((None, channels))
        self.norm = LayerNorm(dtype=self.dtype_policy, name="norm")
        self.norm.build((None, self.filters))

    def call(self, inputs, mask=None):
        x = ops.relu(inputs)
        if mask is not None:
            x = x * ops.cast(mask, x.dtype)[..., None]
        kernel = ops.cast(self.depthwise_kernel, x.dtype)
        x = depthwise_conv1d(x, kernel, self.dilation_rate, *self._margins())
        # As a matrix of rows: a product with three axes costs twenty graph nodes instead of one.
        rows = ops.reshape(x, (-1, inputs.shape[-1]))
        rows = self.norm(self.pointwise(rows))
        return ops.reshape(rows, (*ops.shape(inputs)[:-1], self.filters))

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        """Returns the cache of the last inputs that the kernel sees; see `layers.stepping`.

        A dilated convolution is `dilation_rate` plain ones, interleaved. Each has a ring of its
        last `kernel_size` inputs: `(batch, dilation_rate * kernel_size, channels)` in all.
        """
        if self.padding != "causal":
            raise ValueError(
                f'`padding` must be "causal" to go step by step. Received: padding={self.padding}'
            )
        shape = (batch_size, self.dilation_rate * self.kernel_size, self.depthwise_kernel.shape[2])
        return ops.zeros(shape, self.compute_dtype)

    def step(self, inputs, cache, index):
        """Maps position `index`, `(batch, channels)`, to its output; see `layers.stepping`."""
        size = self.kernel_size
        start, slot = index % self.dilation_rate * size, index // self.dilation_rate % size
        cache = write_position(cache, ops.relu(inputs), start + slot)
        ring = cache
        if self.dilation_rate > 1:
            ring = ops.slice(cache, (0, start, 0), (cache.shape[0], size, cache.shape[2]))
        # The newest input, in `slot`, meets the last entry of the kernel.
        order = (ops.arange(size - 1, 2 * size - 1, dtype="int32") - slot) % size
        kernel = ops.cast(self.depthwise_kernel, inputs.dtype)[:, 0, :, 0]
        x = ops.sum(ring * ops.take(kernel, order, axis=0), axis=1)
        return self.norm(self.pointwise(x)), cache

    def _margins(self) -> tuple[int, int]:
        """Returns how many zeros stand before and after the sequence."""
        total = (self.kernel_size - 1) * self.dilation_rate
        front = total if self.padding == "causal" else total // 2
        return front, total - front

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "dilation_rate": self.dilation_rate,
            "padding": self.padding,
        }


_PAPER_DILATION_RATES = (1, 1, 1, 8)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ConvBlock(keras.layers.Layer):
    """Pairs of convolution steps; after each pair the block's input is added.

    With the default kernels: `h1 = step(x)`, `h2 = x + step(h1)`, `h3 = step(h2)`, `h4 = x +
    step(h3)`, dropout on `h4`. An odd last step counts as a pair.

    Args:
        hidden_dim: channels in and out.
        kernel_sizes: one kernel size a step.
        dilation_rates: one dilation rate a step. The default is the paper's for its four steps;
            with another number of kernels and the default left as it is, the first rates of it are
            used.
        padding: `"same"` in an encoder, `"causal"` in a decoder.
        dropout: rate on the block's output while training.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        mask: boolean `(batch, length)`, True at real positions. Padding changes no real position.

    Returns:
        `(batch, length, hidden_dim)`.

    Example:

    ```python
    block = keras_multimodel.layers.ConvBlock(128, kernel_sizes=(3, 3), dropout=0.1)
    block(keras.random.normal((2, 50, 128)))
    ```

    Raises:
        ValueError: no kernels, as many dilation rates as kernels are missing, `dropout` is outside
            [0, 1), or the last axis of the inputs is not `hidden_dim`.

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
                "`kernel_sizes` and `dilation_rates` must have one entry a step, and at least one. "
                f"Received: kernel_sizes={kernel_sizes}, dilation_rates={dilation_rates}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
        self.hidden_dim = hidden_dim
        self.kernel_sizes = kernel_sizes
        self.dilation_rates = dilation_rates
        self.padding = padding
        self.dropout = dropout
        self.supports_masking = True
        self.steps = [
            ConvStep(hidden_dim, size, rate, padding, dtype=self.dtype_policy, name=f"step_{i}")
            for i, (size, rate) in enumerate(zip(kernel_sizes, dilation_rates))
        ]
        self.output_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[-1] != self.hidden_dim:
            raise ValueError(
                "`inputs` must be of shape (batch, length, hidden_dim). "
                f"Received: shape={tuple(input_shape)}, hidden_dim={self.hidden_dim}"
            )
        for step in self.steps:
            step.build(input_shape)

    def call(self, inputs, mask=None, training=None):
        x = inputs
        for i, step in enumerate(self.steps):
            x = step(x, mask=mask)
            if i % 2 or i == len(self.steps) - 1:
                x = x + inputs
        return self.output_dropout(x, training=training)

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        """Returns the caches of the steps; see `layers.stepping`."""
        return [step.initial_cache(batch_size, max_length) for step in self.steps]

    def step(self, inputs, cache, index):
        """Maps position `index`, `(batch, hidden_dim)`, to its output; see `layers.stepping`."""
        x, after = inputs, []
        for i, (step, step_cache) in enumerate(zip(self.steps, cache)):
            x, step_cache = step.step(x, step_cache, index)
            after.append(step_cache)
            if i % 2 or i == len(self.steps) - 1:
                x = x + inputs
        return x, after

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "kernel_sizes": self.kernel_sizes,
            "dilation_rates": self.dilation_rates,
            "padding": self.padding,
            "dropout": self.dropout,
        }
