import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers.layer_norm import LayerNorm
from tests import references
from tests.layer_contract import run_layer_test
from tests.layers.modalities import conv_res_weights as golden


def test_is_that_of_the_authors_code():
    file = golden.load("iv_layer_norm")
    layer = LayerNorm()
    layer.build((None, 16))
    golden.set_norm(layer, file, "var/ln")
    assert golden.relative_error(layer(file["in/x"]), file["out/y"]) < 1e-4


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_equals_float64_at_any_rank(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    y = ops.convert_to_numpy(LayerNorm(epsilon=0.1)(x))
    np.testing.assert_allclose(y, references.layer_norm(x, 1.0, 0.0, 0.1), atol=1e-5)


def test_equals_that_of_keras():
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    theirs = ops.convert_to_numpy(keras.layers.LayerNormalization(epsilon=1e-6)(x))
    np.testing.assert_allclose(ops.convert_to_numpy(LayerNorm()(x)), theirs, atol=1e-5)


def test_keeps_the_contract_of_layers():
    run_layer_test(
        LayerNorm,
        init_kwargs={"epsilon": 1e-3},
        input_shape=(2, 5, 6),
        expected_output_shape=(2, 5, 6),
        expected_num_trainable_weights=2,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
    )
