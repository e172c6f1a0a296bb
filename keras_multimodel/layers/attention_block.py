"""Multi-head attention between two sequences.

The attention block."""

import keras
from keras import ops

from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.timing_signal import TimingSignal
from keras_multimodel.ops import cache as caches
from keras_multimodel.ops.extremes import row_max
from keras_multimodel.ops.numerics import at_least_float32

_NEVER = -1e9  # added to a score where attention must not look


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

        With a source, its keys and values, computed here once; without, empty keys and values of
        the targets themselves, `Growing` buffers `(B * N, H, max_length)`.
        """
        if source is not None:
            return self._source_cache(source, source_mask)
        if not self.causal:
            raise ValueError(
                f"`causal` must be True to go step by step. Received: causal={self.causal}"
            )
        shape = (batch_size * self.num_heads, self.hidden_dim // self.num_heads, max_length)
        return {
            name: caches.Growing(ops.zeros(shape, self.compute_dtype), caches.Fixed([]))
            for name in ("keys", "values")
        }

    def step(self, inputs, cache, index):
        """Maps position `index`, `(B, hidden_dim)`, to what it finds; see `layers.stepping`.

        Without a source, the position is key and value too.
        """
        width = self.hidden_dim // self.num_heads
        queries = self._heads(self.query(inputs) * width**-0.5)[:, None]
        if isinstance(cache, caches.Fixed):
            source = cache.value
            found = _look(queries, source["keys"], source["values"], source["hidden"])
            return self._join(found), cache
        cache = {
            name: caches.extend(cache[name], self._heads(dense(inputs)), index)
            for name, dense in (("keys", self.key), ("values", self.value))
        }
        return self._join(_look_at_all(queries, cache["keys"], cache["values"], index)), cache

    def reorder_cache(self, cache, rows):
        """Returns the cache with the rows of the batch taken from `rows`; see `layers.stepping`."""
        if isinstance(cache, caches.Fixed):
            return cache  # rows are exchanged within one example, whose source they share
        by_row = (rows.shape[0], -1)
        return keras.tree.map_structure(
            lambda x: ops.reshape(ops.take(ops.reshape(x, by_row), rows, axis=0), x.shape), cache
        )

    def _source_cache(self, source, mask):
        keys, values = self.keys_and_values(source)
        length, width = keys.shape[1], keys.shape[3]
        if mask is None:
            mask = ops.ones_like(source[..., 0], dtype="bool")
        hidden = _hidden(ops.logical_not(mask))
        cache = {
            name: ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, width, length))
            for name, x in (("keys", keys), ("values", values))
        }
        cache["hidden"] = ops.repeat(hidden, self.num_heads, axis=0)[:, None]
        return caches.Fixed(cache)

    def _heads(self, x):
        """Returns `(B * N, H)` from `(B, hidden_dim)`."""
        return ops.reshape(x, (-1, self.hidden_dim // self.num_heads))

    def _join(self, found):
        """Returns the output `(B, hidden_dim)` from what `_look` returns."""
        _, total, values = found
        values = ops.cast(values / total, self.compute_dtype)
        return self.output_projection(ops.reshape(values, (-1, self.hidden_dim)))

    def compute_output_shape(self, targets_shape, source_shape):
        return targets_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "causal": self.causal,
        }


def _hidden(where):
    """Returns what is added to scores so that nothing is found where `where` is True."""
    return ops.where(where, _NEVER, 0.0)


def _look(queries, keys, values, hidden=None):
    """Attends to some positions.

    Args:
        queries: `(B * N, 1, H)`.
        keys: `(B * N, H, positions)`.
        values: as `keys`.
        hidden: see `_hidden`, fits `(B * N, 1, positions)`; None where nothing is.

    Returns:
        the greatest score and the sum of the weights, `(B * N, 1, 1)`, and the weighted sum of the
        values, `(B * N, 1, H)`, all in float32 or, where the queries are, float64.
    """
    scores = at_least_float32(ops.einsum("gqh,ght->gqt", queries, keys))
    if hidden is not None:
        scores = scores + ops.cast(hidden, scores.dtype)
    greatest = row_max(scores)
    weights = ops.exp(scores - greatest)
    found = ops.einsum("gqt,ght->gqh", ops.cast(weights, values.dtype), values)
    return greatest, ops.sum(weights, axis=-1, keepdims=True), at_least_float32(found)


def _look_at_all(queries, keys, values, index):
    """Attends to the positions up to `index` of growing keys and values; see `_look`."""
    size = keys.open.shape[-1]
    later = ops.arange(size, dtype="int32") > index % size
    found = _look(queries, keys.open, values.open, _hidden(later))
    for i, piece in enumerate(zip(keys.full.value, values.full.value)):
        found = ops.cond(
            index // (size << i) % 2 == 1,
            lambda piece=piece, found=found: _joined(found, _look(queries, *piece)),
            lambda found=found: found,
        )
    return found


def _joined(first, second):
    """Returns what `_look` finds in the positions of both."""
    greatest = ops.maximum(first[0], second[0])
    scales = ops.exp(first[0] - greatest), ops.exp(second[0] - greatest)
    total, values = (a * scales[0] + b * scales[1] for a, b in zip(first[1:], second[1:]))
    return greatest, total, values


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
