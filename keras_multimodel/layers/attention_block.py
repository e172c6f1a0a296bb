"""Multi-head attention between two sequences.

The attention block."""

import keras
from keras import ops

from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.stepping import write_position
from keras_multimodel.layers.timing_signal import TimingSignal
from keras_multimodel.ops.precision import at_least_float32

# The score of a position that is masked. Finite, so that a row without any real position attends to
# all of them evenly, instead of giving NaN.
_HIDDEN = -1e9


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Attention(keras.layers.Layer):
    """Scaled dot-product attention over projected queries, keys and values.

    Axes: B batch, T target length, S source length, N heads, H channels a head.

    Args:
        hidden_dim: channels in and out; divided evenly among the heads.
        num_heads: number of heads.
        causal: whether position `t` may attend to positions up to `t` only; then `T == S`.

    Call arguments:
        targets: `(B, T, hidden_dim)`, gives the queries.
        source: `(B, S, hidden_dim)`, gives keys and values.
        source_mask: boolean `(B, S)`, True at real positions. A row without any real position
            attends to all evenly.

    Returns:
        `(B, T, hidden_dim)`.

    Raises:
        ValueError: `num_heads` does not divide `hidden_dim`.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.2.
    """

    def __init__(self, hidden_dim: int, num_heads: int = 8, causal: bool = False, **kwargs):
        super().__init__(**kwargs)
        if num_heads < 1 or hidden_dim % num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_dim`. "
                f"Received: num_heads={num_heads}, hidden_dim={hidden_dim}"
            )
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.causal = causal
        self.supports_masking = True
        self.query, self.key, self.value, self.output_projection = (
            keras.layers.Dense(hidden_dim, use_bias=False, dtype=self.dtype_policy, name=name)
            for name in ("query", "key", "value", "output")
        )

    def build(self, targets_shape, source_shape):
        for dense in (self.query, self.output_projection):
            dense.build((None, targets_shape[-1]))
        for dense in (self.key, self.value):
            dense.build((None, source_shape[-1]))

    def call(self, targets, source, source_mask=None):
        mask = None if source_mask is None else ops.cast(source_mask, "bool")[:, None, None, :]
        keys, values = self.keys_and_values(source)
        queries = self._project(targets, self.query)
        return self.attend(queries, keys, values, mask, is_causal=self.causal)

    def keys_and_values(self, source):
        """Returns the projected keys and values of `source`, each `(B, S, N, H)`."""
        return self._project(source, self.key), self._project(source, self.value)

    def attend(self, queries, keys, values, mask=None, is_causal: bool = False):
        """Returns `(B, T, hidden_dim)` from queries `(B, T, N, H)`; `mask` fits `(B, N, T, S)`."""
        x = ops.dot_product_attention(queries, keys, values, mask=mask, is_causal=is_causal)
        x = self.output_projection(ops.reshape(x, (-1, self.hidden_dim)))
        return ops.reshape(x, (*ops.shape(queries)[:2], self.hidden_dim))

    def _project(self, x, dense):
        """Returns `(B, T, N, H)` from `(B, T, hidden_dim)`."""
        heads = (self.num_heads, self.hidden_dim // self.num_heads)
        rows = dense(ops.reshape(x, (-1, x.shape[-1])))
        return ops.reshape(rows, (*ops.shape(x)[:2], *heads))

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        """Returns the cache of one sequence read step by step; see `layers.stepping`.

        With a source: its keys and values, computed here once, and its mask. Without: room for the
        keys and values of the targets themselves. Both are `(B, N, H, positions)`.
        """
        if source is not None:
            # Positions last: a step reads a few long rows faster than many short ones.
            keys, values = (ops.transpose(x, (0, 2, 3, 1)) for x in self.keys_and_values(source))
            if source_mask is None:
                source_mask = ops.ones_like(source[..., 0], dtype="bool")
            return {"keys": keys, "values": values, "mask": source_mask}
        if not self.causal:
            raise ValueError(
                f"`causal` must be True to go step by step. Received: causal={self.causal}"
            )
        heads = (self.num_heads, self.hidden_dim // self.num_heads)
        shape = (batch_size, *heads, max_length)
        return {name: ops.zeros(shape, self.compute_dtype) for name in ("keys", "values")}

    def step(self, inputs, cache, index):
        """Maps position `index`, `(B, hidden_dim)`, to what it finds; see `layers.stepping`.

        Without a source, the position gives a key and a value too.
        """
        if "mask" in cache:
            mask = cache["mask"][:, None]
        else:
            cache = {
                name: write_position(cache[name], self._heads(dense(inputs)), index, axis=3)
                for name, dense in (("keys", self.key), ("values", self.value))
            }
            mask = ops.arange(cache["keys"].shape[3]) <= index
        width = self.hidden_dim // self.num_heads
        queries = self._heads(self.query(inputs) * width**-0.5)
        scores = at_least_float32(ops.einsum("bnh,bnht->bnt", queries, cache["keys"]))
        scores = ops.where(mask, scores, _HIDDEN)
        # By hand, since Keras' softmax warns about an axis of size 1, which one position is.
        weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
        weights = weights / ops.sum(weights, axis=-1, keepdims=True)
        weights = ops.cast(weights, self.compute_dtype)
        found = ops.einsum("bnt,bnht->bnh", weights, cache["values"])
        return self.output_projection(ops.reshape(found, (-1, self.hidden_dim))), cache

    def _heads(self, x):
        """Returns `(B, N, H)` from `(B, hidden_dim)`."""
        return ops.reshape(x, (-1, self.num_heads, self.hidden_dim // self.num_heads))

    def compute_output_shape(self, targets_shape, source_shape):
        return targets_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "causal": self.causal,
        }


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
        # Rows are exchanged within one example, so its source, the larger part, stays in place.
        source = {name: cache[name] for name in cache if name == "source"}
        own = {name: cache[name] for name in cache if name != "source"}
        return {**keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), own), **source}

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
