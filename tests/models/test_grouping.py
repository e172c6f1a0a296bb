import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.models.grouping import Group, Ungroup, join


@settings(deadline=None, max_examples=8)
@given(shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4))
def test_ungroup_undoes_group(shapes):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(*shape, 4)).astype("float32") for shape in shapes]
    masks = [np.ones(shape, "bool") for shape in shapes]
    x, mask = Group()(parts, masks)
    assert x.shape == (sum(b for b, _ in shapes), max(n for _, n in shapes), 4)
    assert ops.convert_to_numpy(mask).sum() == sum(b * n for b, n in shapes)
    for part, back in zip(parts, Ungroup()(x, parts)):
        np.testing.assert_array_equal(ops.convert_to_numpy(back), part)


def test_join_pads_with_zeros():
    joined = ops.convert_to_numpy(join([np.ones((1, 1)), np.full((1, 3), 2.0)]))
    np.testing.assert_array_equal(joined, [[1, 0, 0], [2, 2, 2]])


def test_symbolic_shapes():
    parts = [keras.KerasTensor((None, n, 4)) for n in (3, 5)]
    masks = [keras.KerasTensor((None, n), dtype="bool") for n in (3, 5)]
    x, mask = Group()(parts, masks)
    assert x.shape == (None, 5, 4) and mask.shape == (None, 5)
    assert [part.shape for part in Ungroup()(x, parts)] == [(None, 3, 4), (None, 5, 4)]
    unknown = keras.KerasTensor((None, None, 4)), keras.KerasTensor((None, None), dtype="bool")
    x, _ = Group()([parts[0], unknown[0]], [masks[0], unknown[1]])
    assert x.shape == (None, None, 4)


def test_come_back_from_their_configs():
    for layer in (Group(name="s"), Ungroup(name="u")):
        config = keras.saving.serialize_keras_object(layer)
        assert keras.saving.deserialize_keras_object(config).name == layer.name
