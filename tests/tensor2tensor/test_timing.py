import numpy as np
import pytest
from keras import ops

from keras_multimodel.tensor2tensor.blocks import SliceNetTimingSignal
from tests.layer_contract import run_layer_test
from tests.layers.modalities import conv_res_weights as golden


def test_is_that_of_the_authors_code():
    file = golden.load("ii_timing")
    y = SliceNetTimingSignal()(file["in/x4d"][:, :, 0])
    expected = file["out/add_timing_signal_slicenet"][:, :, 0]
    assert golden.relative_error(y, expected) < 1e-5


def test_equals_the_formula():
    # Three wavelengths in eight channels: sines, cosines, nothing.
    y = ops.convert_to_numpy(SliceNetTimingSignal(3, 100.0)(np.zeros((1, 5, 8), "float32")))
    rates = 100.0 ** (-np.arange(3) / 2)  # 1, 1 / 10, 1 / 100
    angles = np.arange(5)[:, None] * rates
    np.testing.assert_allclose(y[0, :, :3], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(y[0, :, 3:6], np.cos(angles), atol=1e-6)
    np.testing.assert_array_equal(y[0, :, 6:], 0)


def test_keeps_the_contract_of_layers():
    run_layer_test(
        SliceNetTimingSignal,
        init_kwargs={"num_timescales": 2, "max_timescale": 50.0},
        input_shape=(2, 5, 6),
        expected_output_shape=(2, 5, 6),
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
    )


@pytest.mark.parametrize("value", [1, 2.0, -3])
def test_refuses_a_number_of_timescales(value):
    with pytest.raises(ValueError, match=f"`num_timescales`.*Received: num_timescales={value}"):
        SliceNetTimingSignal(value)


def test_refuses_too_small_a_depth():
    with pytest.raises(ValueError, match="Received: num_timescales=16, depth=31"):
        SliceNetTimingSignal()(np.zeros((1, 3, 31)))
