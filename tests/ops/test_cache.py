import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.ops import cache as caches


def growing(rows, length, width):
    return {
        "other": [()],
        "keys": caches.Growing(ops.zeros((rows, width, length)), caches.Fixed([])),
    }


def positions(buffer, index):
    """Returns, in order, what a buffer has when `index` is the newest position."""
    size = buffer.open.shape[-1]
    parts = [buffer.open[..., : index % size + 1]]
    for place, piece in enumerate(buffer.full.value):
        assert piece.shape[-1] == size * 2**place
        if index // size >> place & 1:
            parts.insert(0, piece)
    return np.concatenate([ops.convert_to_numpy(part) for part in parts], axis=-1)


@settings(max_examples=20)
@given(length=st.integers(1, 40), size=st.integers(1, 9))
def test_pieces_keep_all_positions_in_order(length, size):
    x = np.random.default_rng(length).normal(size=(2, 3, length)).astype("float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caches, "_PIECE", size)
        cache = caches.with_pieces(growing(2, length, 3), length)
        assert cache["other"] == [()]
        for index in range(length):
            if index and index % size == 0:
                cache = caches.next_piece(cache, index // size - 1)
            rows = ops.convert_to_tensor(x[..., index])
            cache["keys"] = caches.extend(cache["keys"], rows, ops.convert_to_tensor(index))
            np.testing.assert_array_equal(positions(cache["keys"], index), x[..., : index + 1])


def test_what_is_fixed_is_taken_out_and_put_back():
    table, keys = object(), [object(), object()]
    cache = {"b": caches.Growing("open", caches.Fixed(keys)), "a": [caches.Fixed(table), (1,)]}
    rest, contents = caches.split(cache)
    assert rest == {"b": caches.Growing("open", caches.Fixed(())), "a": [caches.Fixed(()), (1,)]}
    assert contents == [table, keys]
    assert caches.join(rest, contents) == cache
