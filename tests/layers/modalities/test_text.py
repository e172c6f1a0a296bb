import re

import numpy as np
import pytest
from keras import ops

from keras_multimodel.layers.modalities.text import TextModality
from tests import references
from tests.layer_contract import run_layer_test

IDS = np.array([[3, 1, 0], [2, 0, 0]], "int32")


@pytest.mark.parametrize("tie_weights", [True, False])
def test_equals_float64(tie_weights):
    net = TextModality(5, 4, tie_weights=tie_weights)
    encoded = ops.convert_to_numpy(net(IDS))
    table = references.array(net.embeddings)
    np.testing.assert_allclose(encoded, table[IDS] * 2 * (IDS != 0)[..., None], atol=1e-6)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    logits = ops.convert_to_numpy(net(x, reverse=True))
    np.testing.assert_allclose(logits, x @ references.array(net.output_embeddings).T, atol=1e-5)
    assert (net.output_embeddings is net.embeddings) == tie_weights


def test_padding_is_id_0():
    np.testing.assert_array_equal(
        ops.convert_to_numpy(TextModality(5, 4).padding_mask(ops.convert_to_tensor(IDS))), IDS > 0
    )


def test_embeddings_start_at_unit_variance():
    encoded = ops.convert_to_numpy(TextModality(500, 64)(np.arange(1, 500, dtype="int32")[None]))
    assert 0.95 < encoded.std() < 1.05


@pytest.mark.parametrize("tie_weights", [True, False])
def test_keeps_the_contract_of_layers(tie_weights):
    run_layer_test(
        TextModality,
        init_kwargs={"vocabulary_size": 5, "hidden_dim": 4, "tie_weights": tie_weights},
        input_data=IDS,
        expected_output_shape=(2, 3, 4),
        expected_num_trainable_weights=1 if tie_weights else 2,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
        run_training_check=False,  # with JAX it would hand the ids over as floats
    )


@pytest.mark.parametrize("value", [1, 0, 2.5])
def test_refuses_a_vocabulary_size(value):
    message = f"`vocabulary_size` must .* Received: vocabulary_size={value}"
    with pytest.raises(ValueError, match=message):
        TextModality(value, 4)


@pytest.mark.parametrize(
    "shape, dtype", [((2, 3), "float32"), ((2,), "int32"), ((2, 3, 4), "int32")]
)
def test_refuses_inputs(shape, dtype):
    message = f"`inputs` must be .* Received: shape={re.escape(str(shape))}, dtype=.*{dtype}"
    with pytest.raises(ValueError, match=message):
        TextModality(5, 4)(np.zeros(shape, dtype))
