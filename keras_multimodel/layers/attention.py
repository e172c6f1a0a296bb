"""Multi-head attention between two sequences."""

import keras
from keras import ops

from keras_multimodel.ops import cache as caches

_PIECE = 64  # positions; what is cached is read in whole pieces
_NEVER = -1e9  # added to a score where attention must not look
_NEVER_FLOAT16 = -6e4


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
        the targets themselves, `(pieces, B, N, positions of a piece, H)` flattened to `(-1, H)`.
        """
        if source is not None:
            return self._source_cache(source, source_mask)
        if not self.causal:
            raise ValueError(
                f"`causal` must be True to go step by step. Received: causal={self.causal}"
            )
        rows = -(-max_length // _PIECE) * _PIECE if max_length > _PIECE else max_length
        shape = (rows * batch_size * self.num_heads, self.hidden_dim // self.num_heads)
        return {name: caches.allocate(shape, self.compute_dtype) for name in ("keys", "values")}

    def step(self, inputs, cache, index):
        """Maps position `index`, `(B, hidden_dim)`, to what it finds; see `layers.stepping`.

        Without a source, the position is key and value too.
        """
        width = self.hidden_dim // self.num_heads
        queries = self._heads(self.query(inputs) * width**-0.5)[:, None]
        if "mask" in cache:
            scores = ops.matmul(queries, cache["keys"]) + cache["mask"]
            found = ops.matmul(_softmax(scores), cache["values"])
            return self._join(found), cache
        heads = queries.shape[0]
        piece = min(cache["keys"].shape[0] // heads, _PIECE)
        place = caches.piece_places(index, heads, piece)
        cache = {
            name: caches.write(cache[name], self._heads(dense(inputs)), place)
            for name, dense in (("keys", self.key), ("values", self.value))
        }
        keys, values = (_pieces(cache[name], heads, piece, index) for name in ("keys", "values"))
        key = ("later", cache["keys"].shape, heads, self.compute_dtype)
        later = caches.once(key, index, lambda: _later(keys, index))
        return self._join(_attend(queries, keys, values, later)), cache

    def reorder_cache(self, cache, rows):
        """Returns the cache with the rows of the batch taken from `rows`; see `layers.stepping`."""
        if "mask" in cache:
            return cache  # rows are exchanged within one example, whose source they share
        batch = rows.shape[0]
        piece = min(cache["keys"].shape[0] // (batch * self.num_heads), _PIECE)
        by_row = (-1, batch, piece * self.hidden_dim)
        return {
            name: ops.reshape(ops.take(ops.reshape(x, by_row), rows, axis=1), x.shape)
            for name, x in cache.items()
        }

    def _source_cache(self, source, mask):
        keys, values = self.keys_and_values(source)
        length, width = keys.shape[1], keys.shape[3]
        if mask is None:
            mask = ops.ones_like(source[..., 0], dtype="bool")
        hidden = _hidden(ops.logical_not(mask), keys.dtype)
        return {
            "keys": ops.reshape(ops.transpose(keys, (0, 2, 3, 1)), (-1, width, length)),
            "values": ops.reshape(ops.transpose(values, (0, 2, 1, 3)), (-1, length, width)),
            "mask": ops.repeat(hidden, self.num_heads, axis=0)[:, None],
        }

    def _heads(self, x):
        """Returns `(B * N, H)` from `(B, hidden_dim)`."""
        return ops.reshape(x, (-1, self.hidden_dim // self.num_heads))

    def _join(self, found):
        """Returns the output `(B, hidden_dim)` from `(B * N, 1, H)`."""
        return self.output_projection(ops.reshape(found, (-1, self.hidden_dim)))

    def compute_output_shape(self, targets_shape, source_shape):
        return targets_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "causal": self.causal,
        }


def _softmax(scores):
    """Returns the weights, without the warning that Keras has for a single position."""
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores)


def _pieces(buffer, heads: int, piece: int, index):
    """Returns the pieces written so far, `(pieces, B * N, positions, H)`."""
    if buffer.shape[0] > heads * piece:
        buffer = caches.read_first(buffer, (index // piece + 1) * heads * piece)
    return ops.reshape(buffer, (-1, heads, piece, buffer.shape[1]))


def _hidden(where, dtype):
    """Returns what is added to scores so that nothing is found where `where` is True."""
    narrow = keras.backend.standardize_dtype(dtype) == "float16"
    never = _NEVER_FLOAT16 if narrow else _NEVER
    return ops.cast(ops.where(where, never, 0.0), dtype)


def _later(keys, index):
    """Returns what hides the positions after `index`, `(pieces, 1, 1, positions)`."""
    piece = keys.shape[2]
    positions = ops.arange(ops.shape(keys)[0] * piece, dtype="int32")
    return ops.reshape(_hidden(positions > index, keys.dtype), (-1, 1, 1, piece))


def _attend(queries, keys, values, later):
    """Attends to the positions written so far.

    Args:
        queries: `(B * N, 1, H)`.
        keys: `(pieces, B * N, positions, H)`.
        values: as `keys`.
        later: what hides the positions not yet written, see `_later`.

    Returns:
        `(B * N, 1, H)`.
    """
    scores = ops.matmul(queries[None], ops.transpose(keys, (0, 1, 3, 2))) + later
    if keys.shape[0] == 1:
        return ops.matmul(_softmax(scores), values)[0]
    weights = ops.exp(scores - ops.max(scores, axis=(0, 3), keepdims=True))
    total = ops.sum(weights, axis=(0, 3))[..., None]
    return ops.sum(ops.matmul(weights, values), axis=0) / total
