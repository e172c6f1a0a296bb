"""The attention block."""

import keras

from keras_multimodel.layers.attention import Attention
from keras_multimodel.layers.conv_step import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.timing_signal import TimingSignal


@keras.saving.register_keras_serializable(package="keras_multimodel")
class AttentionBlock(keras.layers.Layer):
    """Timed and convolved targets attend to themselves, then to a source.

    `q = step_{5, dilated by 4}(step_5(targets + timing))`, `x = LN(targets + SelfAttention(q))`,
    and with a source `x = LN(x + SourceAttention(x, source))`.

    Args:
        hidden_dim: channels in and out.
        num_heads: heads of both attentions.
        dropout: rate on what each attention adds, while training.
        padding: `"causal"`: no output sees a later target; `"same"`: every output sees all targets.

    Call arguments:
        targets: `(batch, length, hidden_dim)`.
        source: `(batch, source_length, hidden_dim)` or None. Whether there is one is settled by the
            first call.
        mask: boolean `(batch, length)`, True at real targets.
        source_mask: boolean `(batch, source_length)`, True at real source positions.

    Returns:
        `(batch, length, hidden_dim)`.

    Raises:
        ValueError: `num_heads` does not divide `hidden_dim`; `dropout` is outside [0, 1); the
            inputs' last axis is not `hidden_dim`; a source comes or is missing where the first call
            had it otherwise.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.3. Residuals and normalisation are not drawn
        there; they stand where the authors' code has them.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int = 8,
        dropout: float = 0.0,
        padding: str = "causal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.padding = padding
        self.supports_masking = True
        policy = {"dtype": self.dtype_policy}
        self.timing = TimingSignal(name="timing", **policy)
        self.steps = [
            ConvStep(hidden_dim, 5, rate, padding, name=f"step_{i}", **policy)
            for i, rate in enumerate((1, 4))
        ]
        self.self_attention = Attention(
            hidden_dim, num_heads, causal=padding == "causal", name="self_attention", **policy
        )
        self.self_norm = LayerNorm(name="self_norm", **policy)
        self.residual_dropout = keras.layers.Dropout(dropout, name="dropout", **policy)

    def build(self, targets_shape, source_shape=None):
        for name, shape in (("targets", targets_shape), ("source", source_shape)):
            if shape is not None and (len(shape) != 3 or shape[-1] != self.hidden_dim):
                raise ValueError(
                    f"`{name}` must be of shape (batch, length, hidden_dim). "
                    f"Received: shape={tuple(shape)}, hidden_dim={self.hidden_dim}"
                )
        self.timing.build(targets_shape)
        for step in self.steps:
            step.build(targets_shape)
        self.self_attention.build(targets_shape, targets_shape)
        self.self_norm.build(targets_shape)
        self.source_attention = None
        if source_shape is not None:
            self._build_source_attention(targets_shape, source_shape)

    def _build_source_attention(self, targets_shape, source_shape):
        policy = {"dtype": self.dtype_policy}
        self.source_attention = Attention(
            self.hidden_dim, self.num_heads, name="source_attention", **policy
        )
        self.source_attention.build(targets_shape, source_shape)
        self.source_norm = LayerNorm(name="source_norm", **policy)
        self.source_norm.build(targets_shape)

    def call(self, targets, source=None, mask=None, source_mask=None, training=None):
        if (source is None) != (self.source_attention is None):
            raise ValueError(
                "`source` must be given in every call or in none. Received: "
                f"source={'None' if source is None else 'a tensor'}, unlike the first call"
            )
        x = self.timing(targets)
        for step in self.steps:
            x = step(x, mask=mask)
        x = self.self_attention(x, x, source_mask=mask)
        x = self.self_norm(targets + self.residual_dropout(x, training=training))
        if source is None:
            return x
        found = self.source_attention(x, source, source_mask=source_mask)
        return self.source_norm(x + self.residual_dropout(found, training=training))

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        """Returns the caches of convolutions and attentions; see `layers.stepping`."""
        cache = {
            "steps": [step.initial_cache(batch_size, max_length) for step in self.steps],
            "self": self.self_attention.initial_cache(batch_size, max_length),
        }
        if self.source_attention is not None:
            cache["source"] = self.source_attention.initial_cache(
                batch_size, max_length, source, source_mask
            )
        return cache

    def step(self, inputs, cache, index):
        """Maps target `index`, `(batch, hidden_dim)`, to its output; see `layers.stepping`."""
        cache = dict(cache)
        x, _ = self.timing.step(inputs, (), index)
        steps = []
        for step, step_cache in zip(self.steps, cache["steps"]):
            x, step_cache = step.step(x, step_cache, index)
            steps.append(step_cache)
        x, cache["self"] = self.self_attention.step(x, cache["self"], index)
        x = self.self_norm(inputs + x)
        cache["steps"] = steps
        if self.source_attention is None:
            return x, cache
        found, cache["source"] = self.source_attention.step(x, cache["source"], index)
        return self.source_norm(x + found), cache

    def reorder_cache(self, cache, rows):
        """Returns the cache with the rows of the batch taken from `rows`; see `layers.stepping`."""
        parts = {"self": self.self_attention, "source": self.source_attention}
        reordered = {
            name: part.reorder_cache(cache[name], rows)
            for name, part in parts.items()
            if part is not None
        }
        steps = zip(self.steps, cache["steps"])
        return {**reordered, "steps": [step.reorder_cache(part, rows) for step, part in steps]}

    def compute_output_shape(self, targets_shape, source_shape=None):
        return targets_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "padding": self.padding,
        }
