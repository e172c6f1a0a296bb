"""What every layer keeps, over random shapes."""

import functools
import inspect

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.attention_block import Attention
from tests import catalog
from tests.catalog import CATALOG

FEW = settings(deadline=None, max_examples=4)
sizes = st.integers(1, 6)
every_layer = pytest.mark.parametrize("name", CATALOG)


@functools.cache
def layer(name):
    return catalog.make(name)


def pad(arguments, rows, positions, source_positions):
    """Adds rows and positions of padding that hold anything but zeros."""
    x, mask, source, source_mask = arguments
    more = [(0, rows), (0, positions)], [(0, rows), (0, source_positions)]
    return (
        np.pad(x, [*more[0], (0, 0)], constant_values=5.0),
        np.pad(mask, more[0]),
        np.pad(source, [*more[1], (0, 0)], constant_values=-5.0),
        np.pad(source_mask, more[1]),
    )


@every_layer
@FEW
@given(batch=st.integers(1, 3), length=sizes, source_length=sizes, added=sizes, rows=sizes)
def test_1_padding_changes_no_real_position(name, batch, length, source_length, added, rows):
    arguments = catalog.sequences(batch, length, source_length)
    y = catalog.run(layer(name), *arguments)
    if name == "attention":  # attends to the source alone, and has no mask of its targets
        arguments = arguments[0], None, *arguments[2:]
        padded = catalog.run(layer(name), arguments[0], None, *pad_source(arguments, added))
    else:
        padded = catalog.run(layer(name), *pad(arguments, rows, added, length))[:batch, :length]
    np.testing.assert_allclose(padded, y, atol=1e-5)


def pad_source(arguments, added):
    x, _, source, source_mask = arguments
    more = [(0, 0), (0, added)]
    return np.pad(source, [*more, (0, 0)], constant_values=-5.0), np.pad(source_mask, more)


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.causal])
@FEW
@given(length=st.integers(2, 24), data=st.data())
def test_2_no_output_sees_a_later_input(name, length, data):
    changed_from = data.draw(st.integers(1, length - 1))
    x, *rest = catalog.sequences(2, length, 4)
    changed = x.copy()
    changed[:, changed_from:] += 1.0 + np.arange(catalog.WIDTH)
    before, after = (catalog.run(layer(name), v, *rest) for v in (x, changed))
    np.testing.assert_allclose(after[:, :changed_from], before[:, :changed_from], atol=1e-5)
    assert np.abs(after[:, changed_from:] - before[:, changed_from:]).max() > 1e-3


@every_layer
@FEW
@given(others=st.integers(1, 5), length=sizes, seed=st.integers(0, 99))
def test_3_an_output_does_not_depend_on_the_rest_of_the_batch(name, others, length, seed):
    one = catalog.sequences(1, length, 3)
    rest = catalog.sequences(others, length, 3, seed)
    joined = [np.concatenate(pair) for pair in zip(rest, one)]
    np.testing.assert_allclose(
        catalog.run(layer(name), *joined)[-1:], catalog.run(layer(name), *one), atol=1e-5
    )


@FEW
@given(length=st.integers(2, 9), data=st.data())
def test_2_causal_attention_sees_nothing_later(length, data):
    changed_from = data.draw(st.integers(1, length - 1))
    x, *_ = catalog.sequences(2, length, 1)
    changed = x.copy()
    changed[:, changed_from:] += 1.0 + np.arange(catalog.WIDTH)
    causal = Attention(catalog.WIDTH, 2, causal=True)
    before, after = (ops.convert_to_numpy(causal(v, v)) for v in (x, changed))
    np.testing.assert_allclose(after[:, :changed_from], before[:, :changed_from], atol=1e-5)
    assert np.abs(after[:, changed_from:] - before[:, changed_from:]).max() > 1e-3


@every_layer
def test_5_a_layer_made_of_a_config_gives_the_same(name):
    one = layer(name)
    again = type(one).from_config(one.get_config())
    arguments = catalog.sequences(2, 9, 5)
    catalog.run(again, *arguments)  # builds it
    again.set_weights(one.get_weights())
    np.testing.assert_array_equal(catalog.run(again, *arguments), catalog.run(one, *arguments))


@every_layer
def test_5_a_config_has_every_argument(name):
    arguments = set(inspect.signature(type(layer(name)).__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(layer(name).get_config())


@pytest.fixture
def mixed_bfloat16():
    """Makes bfloat16 the compute dtype of every layer that a test makes."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@every_layer
@pytest.mark.parametrize("training", [False, True])
def test_6_finite_for_a_row_of_padding(name, training):
    y = catalog.run(layer(name), *with_padding(), training=training)
    assert np.all(np.isfinite(y))


@every_layer
def test_6_finite_under_mixed_bfloat16(name, mixed_bfloat16):
    mixed = catalog.make(name)
    for training in (True, False):
        low = catalog.run(mixed, *with_padding(), training=training)
        assert np.all(np.isfinite(low))
    if name not in ("experts", "encoder", "decoder"):  # where rounding may choose other experts
        high = catalog.run(layer(name), *with_padding())
        np.testing.assert_allclose(low[0], high[0], atol=0.2)


def with_padding():
    """Returns three rows: whole, all padding, and partly padding."""
    x, mask, source, source_mask = catalog.sequences(3, 5, 4)
    mask[1] = source_mask[1] = False
    mask[2, 2:] = source_mask[2, 1:] = False
    return x, mask, source, source_mask


def test_6_the_router_runs_in_float32(mixed_bfloat16):
    experts = catalog.make("experts")
    assert experts.compute_dtype == "bfloat16"
    x, mask, *_ = catalog.sequences(2, 5, 4)
    routing = experts.router(ops.cast(x, "bfloat16"), mask=mask, training=True)
    for value in (routing.logits, routing.gates, routing.loss):
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
