import keras
import numpy as np
import pytest

from keras_multimodel.layers import FeedForward, MoELayer
from tests.layer_contract import run_layer_test
from tests.references import array, layer_norm


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    "arguments", [{}, {"intermediate_dim": 12, "activation": "gelu", "dropout": 0.1}]
)
@pytest.mark.parametrize("input_shape", [(2, 5, 8), (4, 8)])
def test_layer_contract(arguments, input_shape):
    run_layer_test(
        FeedForward,
        init_kwargs={"hidden_dim": 8, **arguments},
        input_shape=input_shape,
        expected_output_shape=input_shape,
        expected_num_trainable_weights=4,
        expected_num_seed_generators=1 if "dropout" in arguments else 0,
        supports_masking=True,
    )


@pytest.mark.parametrize("width", [None, 12])
def test_matches_numpy(width):
    layer, x = FeedForward(8, width, kernel_initializer="he_normal"), random(2, 5, 8)
    y = array(layer(x))
    kernels = array(layer.dense_in.kernel), array(layer.dense_out.kernel)
    assert kernels[0].shape == (8, width or 8)
    hidden = np.maximum(x @ kernels[0], 0) @ kernels[1]
    expected = layer_norm(x + hidden, array(layer.norm.scale), array(layer.norm.offset))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_is_what_one_expert_computes():
    dense, sparse, x = FeedForward(8, 12), MoELayer(8, 1, 1, 12), random(2, 5, 8)
    dense.build(x.shape)
    sparse.build(x.shape)
    for kernel, other in zip(sparse.expert_kernels, (dense.dense_in, dense.dense_out)):
        kernel.assign(array(other.kernel)[None])
    np.testing.assert_allclose(array(sparse(x)), array(dense(x)), atol=1e-5)


def test_dropout_drops_the_branch_in_training_only():
    layer, x = FeedForward(8, 12, dropout=0.9), random(2, 5, 8)
    np.testing.assert_array_equal(array(layer(x)), array(layer(x, training=False)))
    assert np.abs(array(layer(x, training=True)) - array(layer(x))).max() > 0.1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"hidden_dim": 0}, "`hidden_dim` must be a positive integer. Received: hidden_dim=0"),
        (
            {"hidden_dim": 8, "intermediate_dim": -1},
            "`intermediate_dim` must be a positive integer. Received: intermediate_dim=-1",
        ),
        ({"hidden_dim": 8, "dropout": 1}, r"`dropout` must be in \[0, 1\). Received: dropout=1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeedForward(**arguments)


@pytest.mark.parametrize("shape", [(2, 5, 9), (8,), (2, 3, 5, 8)])
def test_bad_inputs(shape):
    with pytest.raises(ValueError, match="Received: inputs.shape=.*" + str(shape[-1])):
        FeedForward(8)(np.zeros(shape, "float32"))


def test_saves_and_loads(tmp_path):
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, FeedForward(8, 12, "gelu")(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(random(2, 5, 8))), array(model(random(2, 5, 8))))
