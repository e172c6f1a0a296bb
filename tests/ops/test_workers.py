import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel.ops import workers

ON_JAX = keras.backend.backend() == "jax"


def batches(*sizes):
    """Returns batches of those sizes, of the numbers from 1 on, with a class each."""
    ends = np.cumsum(sizes)
    numbers = [np.arange(end - size + 1, end + 1, dtype="int32") for size, end in zip(sizes, ends)]
    data = tf.data.Dataset.from_generator(
        lambda: iter(numbers), output_signature=tf.TensorSpec([None], "int32")
    )
    return data.map(lambda x: ({"a": {"inputs": x[:, None]}}, {"a": x}))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("per_worker", [1, 2])
def test_the_rows_of_all_replicas_are_those_of_the_batch(count, per_worker):
    data, sizes = batches(4, 1, 0, 7), (4, 1, 0, 7)
    replicas = count * per_worker
    found = []
    for worker in range(count):
        mine = range(worker * per_worker, (worker + 1) * per_worker)
        found.append([y["a"].numpy() for _, y in workers.rows_of_replicas(data, mine, replicas)])
    for step, (_, y) in enumerate(data):
        parts = [part for of in found for part in of[step * per_worker : (step + 1) * per_worker]]
        np.testing.assert_array_equal(np.concatenate(parts), y["a"])
        # No replica has two rows more than another.
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert len(parts) == replicas and sum(map(len, parts)) == sizes[step]


@pytest.mark.parametrize("rows, expected", [(4, 2), (3, None), (None, None)])
def test_replicas_know_sizes_that_are_equal_and_no_others(rows, expected):
    data = batches(*[rows or 5] * 2).map(lambda x, y: tf.ensure_shape(y["a"], [rows]))
    for replica in range(2):
        of = workers.rows_of_replicas(data, range(replica, replica + 1), 2)
        assert of.element_spec.shape.as_list() == [expected]


@pytest.mark.parametrize("chief", [True, False])
@pytest.mark.parametrize("sent", [b"", b"a state", bytes(range(256)) * 9])
def test_what_the_chief_reads_is_sent_to_all(chief, sent):
    def connected(index, other):
        """A strategy that adds what the chief and the other worker hand in, in turns."""
        log = []

        def reduce(op, value, axis):
            log.append(np.asarray(value))
            return other(len(log) - 1, log[-1])

        return workers.Workers(index, 2, types.SimpleNamespace(reduce=reduce)), log

    boss, handed = connected(0, lambda turn, value: value)
    assert boss.from_chief(lambda: sent) == sent
    if not chief:
        member, zeros = connected(1, lambda turn, value: handed[turn])
        assert member.from_chief(lambda: pytest.fail("only the chief reads")) == sent
        assert all(not array.any() for array in zeros)
        assert [z.shape for z in zeros] == [h.shape for h in handed]


def test_an_error_of_the_chief_is_one_of_all():
    handed = []

    def fail():
        raise FileNotFoundError("no state. Received: here")

    def add(op, value, axis):
        handed.append(np.asarray(value))
        return handed[-1]

    with pytest.raises(FileNotFoundError, match="Received: here"):
        workers.Workers(0, 2, types.SimpleNamespace(reduce=add)).from_chief(fail)
    turns = iter(handed)
    member = types.SimpleNamespace(reduce=lambda op, value, axis: next(turns))
    with pytest.raises(ValueError, match="no state. Received: here"):
        workers.Workers(1, 2, member).from_chief(fail)
    with pytest.raises(FileNotFoundError):
        workers.Workers().from_chief(fail)


@pytest.fixture
def devices():
    """Stands for four devices of two processes, of which this is the second."""
    if not ON_JAX:
        pytest.skip("`keras.distribution` shares out data on JAX")
    stand_in = types.SimpleNamespace(num_model_replicas=4, auto_shard_dataset=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.distribution, "distribution", lambda: stand_in)
        patch.setattr(workers, "_num_processes", lambda: 2)
        patch.setattr(workers, "_process", lambda: 1)
        yield stand_in


def test_rows_are_padded_to_the_devices_and_shared_out(devices):
    x, y = next(iter(workers.for_devices(batches(5))))  # 8 with padding, 4 of them here
    np.testing.assert_array_equal(x["a"]["inputs"], [[5], [0], [0], [0]])
    np.testing.assert_array_equal(y["a"], [5, -1, -1, -1])
    devices.auto_shard_dataset = False  # each process brings its rows, for 2 devices
    x, y = next(iter(workers.for_devices(batches(5))))
    np.testing.assert_array_equal(y["a"], [1, 2, 3, 4, 5, -1])
    with workers.already_shared():
        assert not devices.auto_shard_dataset


def test_gaps_of_every_kind(devices):
    devices.auto_shard_dataset = False
    y = {"ids": np.ones((1, 3), "int32"), "numbers": np.ones((1, 2), "float32")}
    given = {"inputs": np.ones((1, 2), "uint8"), "given": np.ones((1, 2), bool)}
    data = tf.data.Dataset.from_tensors(({"a": given}, y, np.ones(1, "float32")))
    x, y, weights = next(iter(workers.for_devices(data)))
    assert not x["a"]["inputs"][1].numpy().any() and not x["a"]["given"][1].numpy().any()
    assert not y["ids"][1].numpy().any() and np.isnan(y["numbers"][1]).all() and weights[1] == 0
    assert y["ids"].shape == (2, 3)


def test_rows_that_may_not_be_padded(devices):
    devices.auto_shard_dataset = True
    data = batches(5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a multiple of 4"):
        next(iter(workers.for_devices(data, pad=False)))
    known = data.map(lambda x, y: tf.ensure_shape(y["a"], [5]))
    with pytest.raises(ValueError, match="multiple of 4, the number of devices. Received: 5 rows"):
        workers.for_devices(known, pad=False)


def test_sharing_is_switched_on_again(devices):
    with workers.already_shared():
        assert not devices.auto_shard_dataset
    assert devices.auto_shard_dataset


def test_one_process_is_its_own_chief():
    assert workers.workers_of(keras.Sequential()) == (0, 1, None)
    assert workers.for_keras(None) is None
    data = batches(3)
    assert workers.for_devices(data) is data
