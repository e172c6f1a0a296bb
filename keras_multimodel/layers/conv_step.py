"""One step of a convolution block."""

import keras
from keras import ops

from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.ops import cache as caches
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

        A dilated convolution is as many plain ones, interleaved. Each has a ring of `kernel_size`
        inputs: `(dilation_rate * kernel_size, batch, channels)` in all.
        """
        if self.padding != "causal":
            raise ValueError(
                f'`padding` must be "causal" to go step by step. Received: padding={self.padding}'
            )
        shape = (self.dilation_rate * self.kernel_size, batch_size, self.depthwise_kernel.shape[2])
        return ops.zeros(shape, self.compute_dtype)

    def step(self, inputs, cache, index):
        """Maps position `index`, `(batch, channels)`, to its output; see `layers.stepping`."""
        size, rate = self.kernel_size, self.dilation_rate
        start, place, order = caches.ring_places(index, size, rate)
        cache = caches.write(cache, ops.relu(inputs), place)
        ring = cache if rate == 1 else caches.read_range(cache, start, size)
        kernel = ops.cast(self.depthwise_kernel, inputs.dtype)[..., 0]
        x = ops.sum(ring * caches.read(kernel, order), axis=0)
        return self.norm(self.pointwise(x)), cache

    def reorder_cache(self, cache, rows):
        """Returns the cache with the rows of the batch taken from `rows`; see `layers.stepping`."""
        return ops.take(cache, rows, axis=1)

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
