import numpy as np
from keras import ops

from keras_multimodel.models.decoder import CommandToken
from tests.layer_contract import run_layer_test


def test_shifts_right_and_puts_the_command_in_front():
    layer = CommandToken()
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    y = ops.convert_to_numpy(layer(x))
    command = ops.convert_to_numpy(layer.command)
    np.testing.assert_allclose(y[:, 0], [command, command])
    np.testing.assert_allclose(y[:, 1:], x[:, :-1])


def test_one_position():
    assert CommandToken()(np.zeros((2, 1, 4), "float32")).shape == (2, 1, 4)


def test_keeps_the_contract_of_layers():
    run_layer_test(
        CommandToken,
        init_kwargs={},
        input_shape=(2, 5, 4),
        expected_output_shape=(2, 5, 4),
        expected_num_trainable_weights=1,
        expected_num_non_trainable_weights=0,
    )
