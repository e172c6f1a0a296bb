import keras
import numpy as np
import pytest

from keras_multimodel.layers import AudioModality, CategoryModality, TextModality
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.models.task import Task
from keras_multimodel.models.validation import check_values
from keras_multimodel.tensor2tensor.modalities import ClassModality2017
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
    with pytest.raises(ValueError, match=f"`hidden_dim` must .* Received: hidden_dim={value!r}"):
        ModalityNet(value)


class Levels(Doubling):
    """Numbers that are no ids, of a net with an attribute that looks as if they were."""

    def __init__(self, hidden_dim, attribute, dtype, **kwargs):
        super().__init__(hidden_dim, **kwargs)
        setattr(self, attribute, 3)
        self.example_dtype = dtype


class Symbols(Doubling):
    """Ids of a net of one's own."""

    example_shape = (None,)
    example_dtype = "int32"
    num_ids = 3


def check(net, values):
    task = Task("mine", net, CategoryModality(5, net.hidden_dim))
    check_values({"mine": task}, {"mine": {"inputs": values}}, {"mine": np.array([4])})


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("attribute", ["vocabulary_size", "num_classes"])
def test_numbers_are_no_ids_whatever_attributes_a_net_has(attribute, dtype):
    net = Levels(4, attribute, dtype)
    assert net.num_ids is None
    check(net, np.array([[[-7, 0, 2, 90]]], dtype))


def test_ids_of_a_net_of_ones_own_are_checked():
    check(Symbols(4), np.array([[0, 2]]))
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"hold ids from 0 to 2. Received: {wrong}"):
            check(Symbols(4), np.array([[0, wrong]]))


def test_text_and_classes_are_ids():
    assert TextModality(9, 4).num_ids == 9 and CategoryModality(5, 4).num_ids == 5
    assert ClassModality2017(5, 4).num_ids == 5 and AudioModality(4).num_ids is None
    with pytest.raises(ValueError, match=r"`y\['mine'\]` must hold ids from 0 to 3. Received: 4"):
        targets = {"mine": Task("mine", Levels(4, "size", "float32"), CategoryModality(4, 4))}
        check_values(targets, {"mine": {"inputs": np.zeros((1, 2, 4))}}, {"mine": np.array([4])})


def test_a_net_of_other_values_defines_what_score_computes():
    outputs, targets = np.ones((2, 4), "float32"), np.zeros((2, 4), "float32")
    message = "`Doubling.log_probability` must be defined: .* dtype float32"
    with pytest.raises(ValueError, match=message):
        Doubling(4).log_probability(outputs, keras.ops.convert_to_tensor(targets))
