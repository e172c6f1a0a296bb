import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel.ops.replicas import num_replicas, replica_id, replica_sum

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strategies are TensorFlow's"
)


def test_one_process_holds_the_whole_batch():
    assert num_replicas() == 1
    x = np.array([1.0, 2.0], "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(replica_sum(ops.convert_to_tensor(x))), x)


@needs_tensorflow
def test_sums_over_the_replicas(strategy):
    import tensorflow as tf

    @tf.function
    def run():
        def step():
            rank = tf.distribute.get_replica_context().replica_id_in_sync_group
            return replica_sum(tf.cast([rank + 1, 10 * rank], "float32")) * num_replicas()

        return strategy.run(step)

    # Replica 0 holds (1, 0), replica 1 holds (2, 10): both get (3, 10), times two replicas.
    for values in strategy.experimental_local_results(run()):
        np.testing.assert_array_equal(values, [6.0, 20.0])


@needs_tensorflow
def test_the_sum_is_differentiable(strategy):
    import tensorflow as tf

    @tf.function
    def run():
        def step():
            rank = tf.distribute.get_replica_context().replica_id_in_sync_group
            x = tf.cast(rank + 1, "float32")
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = replica_sum(x) ** 2
            return tape.gradient(y, x)

        return strategy.run(step)

    # d(x1 + x2)^2 / dx, summed over both replicas' losses: 2 * 3 + 2 * 3.
    for gradient in strategy.experimental_local_results(run()):
        np.testing.assert_allclose(gradient, 12.0)


def test_outside_a_strategy_it_is_zero():
    assert replica_id() == 0


@needs_tensorflow
def test_each_replica_has_its_own(strategy):
    result = strategy.run(lambda: keras.ops.convert_to_tensor(replica_id()))
    assert [int(value) for value in strategy.experimental_local_results(result)] == [0, 1]
