import keras
import pytest

from keras_multimodel.ops.replicas import replica_id


def test_outside_a_strategy_it_is_zero():
    assert replica_id() == 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a strategy of TensorFlow")
def test_each_replica_has_its_own(strategy):
    result = strategy.run(lambda: keras.ops.convert_to_tensor(replica_id()))
    assert [int(value) for value in strategy.experimental_local_results(result)] == [0, 1]
