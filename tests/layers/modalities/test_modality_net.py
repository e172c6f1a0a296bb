import keras
import numpy as np
import pytest

from keras_multimodel.layers.modalities.modality_net import ModalityNet
from tests.layer_contract import run_layer_test


@keras.saving.register_keras_serializable(package="tests")
class Doubling(ModalityNet):
    """A modality of one's own: vectors that are their own code, twice as large."""

    example_shape = (None, 4)

    def encode(self, inputs, mask=None):
        return inputs * 2

    def decode(self, inputs, mask=None, like=None):
        return inputs / 2


@pytest.mark.parametrize("reverse, factor", [(False, 2.0), (True, 0.5)])
def test_a_subclass_goes_both_ways(reverse, factor):
    run_layer_test(
        Doubling,
        init_kwargs={"hidden_dim": 4},
        input_data=np.ones((2, 3, 4), "float32"),
        call_kwargs={"reverse": reverse},
        expected_output_shape=(2, 3, 4),
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
        run_training_check=False,  # there is nothing to train
    )
    y = Doubling(4)(np.ones((2, 3, 4), "float32"), reverse=reverse)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y), factor)


def test_keeps_a_preprocessor():
    from keras_multimodel.data.preprocessing.categories import CategoryPreprocessor

    net = Doubling(4, preprocessor=CategoryPreprocessor(["no", "yes"]))
    again = Doubling.from_config(net.get_config())
    assert again.preprocessor("yes") == 1
    assert Doubling.from_config(Doubling(4).get_config()).preprocessor is None


@pytest.mark.parametrize("reverse, direction", [(False, "an input"), (True, "a target")])
def test_refuses_a_direction_it_does_not_have(reverse, direction):
    with pytest.raises(ValueError, match=f"`ModalityNet` cannot be {direction}: "):
        ModalityNet(4)(np.zeros((1, 2, 4)), reverse=reverse)


@pytest.mark.parametrize("value", [0, -1, 1.5, "4"])
def test_refuses_a_hidden_dim(value):
    with pytest.raises(ValueError, match=f"`hidden_dim` must .* Received: hidden_dim={value}"):
        ModalityNet(value)
