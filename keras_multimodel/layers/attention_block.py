"""Multi-head attention between two sequences, and the attention block."""

import keras
from keras import ops

from keras_multimodel.argument_checks import block_shape, fraction, one_of, positive_int
from keras_multimodel.layers.adaptable import Dense
from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.stepping import write_position
from keras_multimodel.layers.sublayers import CompositeLayer, attributes
from keras_multimodel.layers.timing_signal import TimingSignal
from keras_multimodel.ops.attention import attention, attention_weights
from keras_multimodel.ops.compiled import attend, attend_to_prefix
from keras_multimodel.typing import Nested, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Attention(CompositeLayer):
    """Scaled dot-product attention over projected queries, keys and values.

    Axes: B batch, T target length, S source length, N heads, H channels per head.

    Args:
        hidden_dim: channels in and out, divided evenly among the heads.
        num_heads: number of heads.
        causal: whether position `t` attends to positions up to `t` only; then `T == S`.

    Call arguments:
        targets: `(B, T, hidden_dim)`, projected to queries.
        source: `(B, S, hidden_dim)`, projected to keys and values.
        source_mask: boolean `(B, S)`, True at real positions. A row without any real position
            attends to all positions evenly.

    Returns:
        `(B, T, hidden_dim)`.

    Raises:
        ValueError: a size is not a positive integer, or `num_heads` does not divide `hidden_dim`.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.2.
    """

    def __init__(self, hidden_dim: int, num_heads: int = 8, causal: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = positive_int("hidden_dim", hidden_dim)
        self.num_heads = positive_int("num_heads", num_heads)
        if hidden_dim % num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_dim`. "
                f"Received: num_heads={num_heads}, hidden_dim={hidden_dim}"
            )
        self.causal = causal
        self.head_shape = (num_heads, hidden_dim // num_heads)
        self.query, self.key, self.value, self.output_projection = (
            Dense(hidden_dim, use_bias=False, dtype=self.dtype_policy, name=name)
            for name in ("query", "key", "value", "output")
        )

    def build(self, targets_shape: Shape, source_shape: Shape):
        for dense in (self.query, self.output_projection):
            dense.build((None, targets_shape[-1]))
        for dense in (self.key, self.value):
            dense.build((None, source_shape[-1]))

    def call(self, targets: Tensor, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        mask = None if source_mask is None else ops.cast(source_mask, "bool")
        queries = self._project(targets, self.query)
        keys, values = self._project(source, self.key), self._project(source, self.value)
        x = attention(queries, keys, values, mask, self.causal)
        x = self.output_projection(ops.reshape(x, (-1, self.hidden_dim)))
        return ops.reshape(x, (*ops.shape(targets)[:2], self.hidden_dim))

    def attention_weights(
        self, targets: Tensor, source: Tensor, source_mask: Tensor | None = None
    ) -> Tensor:
        """Returns how much each target takes of each source position.

        Args:
            targets: as in a call.
            source: as in a call.
            source_mask: as in a call.

        Returns:
            `(B, N, T, S)`, float32 or more; every row sums to 1.
        """
        mask = None if source_mask is None else ops.cast(source_mask, "bool")
        queries, keys = self._project(targets, self.query), self._project(source, self.key)
        return attention_weights(queries, keys, mask, self.causal)

    def _project(self, x, dense):
        """Maps `(B, T, hidden_dim)` to `(B, T, N, H)`, or one position `(B, hidden_dim)`."""
        # As a matrix of rows: a product with three axes costs twenty graph nodes instead of one.
        rows = dense(ops.reshape(x, (-1, x.shape[-1])) if len(x.shape) == 3 else x)
        return ops.reshape(rows, (*ops.shape(x)[:-1], *self.head_shape))

    def initial_cache(
        self,
        batch_size: int,
        max_length: int,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the cache of one sequence; see `SteppingBlock`.

        With a source: its keys and values, computed here once, and its mask. Without: room for the
        keys and values of the targets themselves. Keys and values are `(B, N, H, positions)`.
        """
        if source is not None:
            # Positions last: a step reads a few long rows faster than many short ones.
            keys, values = (
                ops.transpose(self._project(source, dense), (0, 2, 3, 1))
                for dense in (self.key, self.value)
            )
            if source_mask is None:
                source_mask = ops.ones_like(source[..., 0], dtype="bool")
            return {"keys": keys, "values": values, "mask": source_mask}
        if not self.causal:
            raise ValueError(f"`causal` must be True to step. Received: causal={self.causal}")
        shape = (batch_size, *self.head_shape, max_length)
        return {name: ops.zeros(shape, self.compute_dtype) for name in ("keys", "values")}

    def step(
        self, inputs: Tensor, cache: dict[str, Tensor], index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Maps position `index`, `(B, hidden_dim)`, to what it attends to; see `SteppingBlock`."""
        queries = self._project(inputs, self.query) * self.head_shape[1] ** -0.5
        if "mask" in cache:
            # A source: all of its keys are there from the start, and its padding alone is hidden.
            mask = cache["mask"][:, None]
            _, total, found = attend(queries, cache["keys"], cache["values"], mask)
            found = found / total
        else:
            # The targets: the own key is written first, since a position attends to itself too.
            cache = {
                name: write_position(cache[name], self._project(inputs, dense), index, axis=3)
                for name, dense in (("keys", self.key), ("values", self.value))
            }
            found = attend_to_prefix(queries, cache["keys"], cache["values"], index)
        found = ops.cast(ops.reshape(found, (-1, self.hidden_dim)), self.compute_dtype)
        return self.output_projection(found), cache

    def compute_output_shape(self, targets_shape: Shape, source_shape: Shape) -> Shape:
        return targets_shape

    def get_config(self):
        return {**super().get_config(), **attributes(self, "hidden_dim", "num_heads", "causal")}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class AttentionBlock(CompositeLayer):
    """Self-attention over targets with a timing signal, then attention to a source.

    `q = step_{5, dilated by 4}(step_5(targets + timing))`, `x = LN(targets + SelfAttention(q))`,
    and with a source `x = LN(x + SourceAttention(x, source))`.

    Args:
        hidden_dim: channels in and out.
        num_heads: number of heads of both attentions.
        dropout: dropout rate on the output of each attention in training.
        padding: `"causal"`: no output sees a later target; `"same"`: every output sees all targets.

    Call arguments:
        targets: `(batch, length, hidden_dim)`.
        source: `(batch, source_length, hidden_dim)` or None. The first call decides whether the
            block has a source.
        mask: boolean `(batch, length)`, True at real targets.
        source_mask: boolean `(batch, source_length)`, True at real source positions.

    Returns:
        `(batch, length, hidden_dim)`.

    Raises:
        ValueError: `num_heads` does not divide `hidden_dim`; `dropout` is outside [0, 1);
            `padding` is unknown; the last axis of the inputs is not `hidden_dim`; there is a
            source in some calls only.

    Example:
        >>> block = kmm.layers.AttentionBlock(32, num_heads=4)
        >>> targets, source = np.ones((2, 5, 32)), np.ones((2, 9, 32))
        >>> block(targets, source).shape
        (2, 5, 32)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.3. The figure there has no residuals and no
        normalization; they are where the authors' code has them.
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
        self.hidden_dim = positive_int("hidden_dim", hidden_dim)
        self.num_heads = num_heads
        self.dropout = fraction("dropout", dropout)
        self.padding = one_of("padding", padding, ("causal", "same"))
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

    def build(self, targets_shape: Shape, source_shape: Shape | None = None):
        block_shape("targets", targets_shape, self.hidden_dim)
        if source_shape is not None:
            block_shape("source", source_shape, self.hidden_dim)
        self.timing.build(targets_shape)
        for step in self.steps:
            step.build(targets_shape)
        self.self_attention.build(targets_shape, targets_shape)
        self.self_norm.build(targets_shape)
        self.source_attention = None
        if source_shape is not None:
            # Not in `__init__`: a sublayer that is never built makes `quantize` fail.
            self.source_attention = Attention(
                self.hidden_dim, self.num_heads, dtype=self.dtype_policy, name="source_attention"
            )
            self.source_attention.build(targets_shape, source_shape)
            self.source_norm = self.make(LayerNorm, targets_shape, name="source_norm")

    def call(
        self,
        targets: Tensor,
        source: Tensor | None = None,
        mask: Tensor | None = None,
        source_mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        if (source is None) != (self.source_attention is None):
            raise ValueError(
                "`source` must be given in every call or in none. Received: "
                f"source={'None' if source is None else 'a tensor'}, unlike the first call"
            )
        x = self.timing(targets)
        for step in self.steps:
            x = step(x, mask=mask)
        x = self.self_attention(x, x, source_mask=mask)
        # The residual is `targets` without timing, as in the authors' code.
        x = self.self_norm(targets + self.residual_dropout(x, training=training))
        if self.source_attention is None:
            return x
        found = self.source_attention(x, source, source_mask=source_mask)
        return self.source_norm(x + self.residual_dropout(found, training=training))

    def initial_cache(
        self,
        batch_size: int,
        max_length: int,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> dict[str, Nested]:
        """Returns the caches of convolutions and attentions; see `SteppingBlock`."""
        cache = {
            "steps": [step.initial_cache(batch_size, max_length) for step in self.steps],
            "self": self.self_attention.initial_cache(batch_size, max_length),
        }
        if self.source_attention is not None:
            cache["source"] = self.source_attention.initial_cache(
                batch_size, max_length, source, source_mask
            )
        return cache

    def step(
        self, inputs: Tensor, cache: dict[str, Nested], index: Tensor
    ) -> tuple[Tensor, dict[str, Nested]]:
        """Maps target `index`, `(batch, hidden_dim)`, to its output; see `SteppingBlock`."""
        cache = dict(cache)
        # Without masks: padding comes last, so that no real position ever sees it here.
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

    def reorder_cache(self, cache: dict[str, Nested], rows: Tensor) -> dict[str, Nested]:
        """Returns the cache with row `i` of the batch taken from `rows[i]`; see `SteppingBlock`."""
        # Rows are exchanged within one example: its source is the same, and need not be copied.
        own = {name: part for name, part in cache.items() if name != "source"}
        return {**cache, **keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), own)}

    # Keras passes the shape of the first argument alone to a method of one argument.
    def compute_output_shape(self, targets_shape: Shape) -> Shape:
        return targets_shape

    def get_config(self):
        own = attributes(self, "hidden_dim", "num_heads", "dropout", "padding")
        return {**super().get_config(), **own}
