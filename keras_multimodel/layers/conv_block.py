"""The convolution block."""

from collections.abc import Sequence

import keras

from keras_multimodel.layers.conv_step import ConvStep

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
        x, caches = inputs, []
        for i, (step, step_cache) in enumerate(zip(self.steps, cache)):
            x, step_cache = step.step(x, step_cache, index)
            caches.append(step_cache)
            if i % 2 or i == len(self.steps) - 1:
                x = x + inputs
        return x, caches

    def reorder_cache(self, cache, rows):
        """Returns the cache with the rows of the batch taken from `rows`; see `layers.stepping`."""
        return [step.reorder_cache(part, rows) for step, part in zip(self.steps, cache)]

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
