"""Multi-head attention between two sequences."""

import keras
from keras import ops


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

    def compute_output_shape(self, targets_shape, source_shape):
        return targets_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "causal": self.causal,
        }
