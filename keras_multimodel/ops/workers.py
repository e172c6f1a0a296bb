"""Workers: the processes, on one machine or several, that train one model together.

Every worker runs the same script and reads the same data. Of each batch a worker trains its rows
only, so that the batches of all workers together are those of one process.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops


class Workers(NamedTuple):
    """This process among those that train together.

    Attributes:
        index: its number. Number 0 is the chief, which alone writes files.
        count: how many there are.
        strategy: the strategy that connects them; None with one process, and on JAX.
    """

    index: int = 0
    count: int = 1
    strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files."""
        return self.index == 0

    def from_chief(self, make: Callable[[], bytes]) -> bytes:
        """Returns on every worker what a function returns on the chief.

        Args:
            make: what the chief calls, and no other worker.

        Raises:
            ValueError: `make` raised an error on the chief, where that error is raised.
        """
        if self.count == 1:
            return make()
        message, error = b"", None
        if self.is_chief:
            try:
                message = b"+" + make()
            except Exception as raised:
                message, error = b"-" + str(raised).encode(), raised
        size = int(self._shared(np.array([len(message)], "int32"))[0])
        # As whole numbers, which add up without rounding: the other workers add zeros.
        padded = message.ljust(-(-size // 4) * 4, b"\0")
        message = self._shared(np.frombuffer(padded, "int32")).tobytes()[:size]
        if error is not None:
            raise error
        if message[:1] == b"-":
            raise ValueError(message[1:].decode())
        return message[1:]

    def _shared(self, numbers):
        if self.strategy is None:
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.broadcast_one_to_all(numbers))
        return np.asarray(self.strategy.reduce("SUM", ops.convert_to_tensor(numbers), axis=None))


def workers_of(model: keras.Model) -> Workers:
    """Returns the workers that train a model."""
    if keras.backend.backend() == "jax":
        count = keras.distribution.distribution() and _num_processes()
        return Workers(_process(), count) if count and count > 1 else Workers()
    strategy = getattr(model, "distribute_strategy", None)
    return Workers(*_place(strategy), strategy) if _spans_workers(strategy) else Workers()


def for_keras(strategy: Any) -> Any:
    """Makes a `MultiWorkerMirroredStrategy` of TensorFlow one that Keras can train with.

    Keras has it take the mean of each metric over an axis, which a number lacks (keras issue
    20585). TensorFlow has each worker read a part of the files, or every k-th batch, of data sets
    that it can take apart, which a mixture is not; here each worker trains its rows of each batch.

    Args:
        strategy: a strategy; one without several workers is returned as it is.
    """
    if _spans_workers(strategy) and "reduce" not in vars(strategy):
        reduce = strategy.reduce

        def reduce_each(reduce_op, value, axis=None):
            del axis  # the values of a step are whole: their rows have been averaged
            return keras.tree.map_structure(lambda v: reduce(reduce_op, v, axis=None), value)

        def distribute(dataset, options=None):
            index, count = _place(strategy)
            replicas = strategy.num_replicas_in_sync // count
            first, parts = index * replicas, count * replicas
            dataset = rows_of_replicas(dataset, range(first, first + replicas), parts)
            return strategy.distribute_datasets_from_function(lambda _: dataset, options)

        # Of this instance, as its users have made it themselves.
        strategy.reduce = reduce_each
        strategy.experimental_distribute_dataset = distribute
    return strategy


def rows_of_replicas(dataset: Any, replicas: range, count: int) -> Any:
    """Returns a `tf.data.Dataset` with the rows of some replicas: a batch for each of them.

    Args:
        dataset: the batches of all replicas together.
        replicas: the numbers of the replicas.
        count: how many replicas there are.
    """
    import tensorflow as tf

    def of_replica(batch, replica):
        return tf.nest.map_structure(lambda x: _rows(tf, x, replica, count), batch)

    def each(*batch):
        batch = batch[0] if len(batch) == 1 else batch
        numbers = tf.data.Dataset.range(replicas.start, replicas.stop, output_type=tf.int32)
        return numbers.map(lambda replica: of_replica(batch, replica))

    def one(*batch):
        return of_replica(batch[0] if len(batch) == 1 else batch, replicas.start)

    # `map` keeps the number of steps, where it is known.
    return dataset.map(one) if len(replicas) == 1 else dataset.flat_map(each)


def for_devices(dataset: Any, pad: bool = True) -> Any:
    """Prepares a `tf.data.Dataset` for the devices of `keras.distribution`, on JAX.

    JAX splits the rows of a batch evenly among devices. Batches are padded for that with rows that
    have no target: of zeros, and of gaps in `y`. With several processes, each takes its rows.

    Args:
        dataset: batches `(x, y)`, `(x, y, sample_weight)` or `x`.
        pad: whether to pad; if not, each number of rows has to be a multiple of that of devices.

    Raises:
        ValueError: rows may not be added, and would have to be.
    """
    distribution = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or distribution is None:
        return dataset
    if not hasattr(dataset, "as_numpy_iterator"):
        return dataset
    import tensorflow as tf

    here = Workers(_process(), _num_processes())
    # With `auto_shard_dataset=False`, a process brings rows of its own.
    shared = distribution.auto_shard_dataset and here.count > 1
    devices = distribution.num_model_replicas // (1 if shared else here.count)
    if devices < 2:
        return dataset
    message = (
        f"The rows of a batch must be a multiple of {devices}, the number of devices. Received: "
    )
    sizes = {spec.shape[0] for spec in tf.nest.flatten(dataset.element_spec)} - {None}
    uneven = sorted(size for size in sizes if size % devices)
    if uneven and not pad:
        raise ValueError(f"{message}{uneven[0]} rows")

    def share(*batch):
        parts = keras.utils.unpack_x_y_sample_weight(batch[0] if len(batch) == 1 else batch)
        fills = (_zero, _gap, _zero)
        parts = [
            tf.nest.map_structure(lambda x: _padded(tf, x, devices, fill(x), pad, message), part)
            for part, fill in zip(parts, fills)
            if part is not None
        ]
        if shared:
            parts = tf.nest.map_structure(lambda x: _rows(tf, x, here.index, here.count), parts)
        return tuple(parts) if len(parts) > 1 else parts[0]

    return dataset.map(share)


def _padded(tf, x, multiple, fill, pad, message):
    size = x.shape[0]
    if size is not None and size % multiple == 0:
        return x
    missing = -tf.shape(x)[0] % multiple
    if not pad:
        right = tf.debugging.Assert(missing == 0, [f"`x`: {message}", tf.shape(x)[0]])
        with tf.control_dependencies([right]):
            return tf.identity(x)
    padded = tf.pad(x, [[0, missing], *[[0, 0]] * (len(x.shape) - 1)], constant_values=fill)
    rows = None if size is None else size + -size % multiple
    return tf.ensure_shape(padded, [rows, *x.shape[1:]])


def _zero(x):
    return False if x.dtype.is_bool else 0


def _gap(x):
    if x.dtype.is_floating:
        return float("nan")
    return -1 if len(x.shape) == 1 else 0  # a class, or ids, where 0 is padding


@contextlib.contextmanager
def already_shared() -> Iterator[None]:
    """Keeps Keras from sharing out what `for_devices` has shared out."""
    distribution = keras.distribution.distribution()
    before = getattr(distribution, "auto_shard_dataset", None)
    if before:
        distribution.auto_shard_dataset = False
    try:
        yield
    finally:
        if before:
            distribution.auto_shard_dataset = before


def _rows(tf, x, replica, count):
    size = x.shape[0]
    if size is not None and size % count == 0:
        rows = tf.reshape(x, [count, size // count, *tf.unstack(tf.shape(x))[1:]])[replica]
        return tf.ensure_shape(rows, [size // count, *x.shape[1:]])
    # Of unknown size on every replica: Keras weighs the replicas by sizes that it knows.
    size = tf.shape(x)[0]
    return tf.boolean_mask(x, tf.range(size) * count // tf.maximum(size, 1) == replica)


def _spans_workers(strategy):
    if keras.backend.backend() != "tensorflow" or strategy is None:
        return False
    import tensorflow as tf

    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    resolver = strategy.cluster_resolver
    return resolver is not None and _place(strategy)[1] > 1


def _place(strategy):
    """Returns the number of this worker and how many there are; the chief comes first."""
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    chiefs, others = (len(jobs.get(job, ())) for job in ("chief", "worker"))
    is_chief = resolver.task_type == "chief"
    return resolver.task_id + (0 if is_chief else chiefs), chiefs + others


def _num_processes():
    import jax

    return jax.process_count()


def _process():
    import jax

    return jax.process_index()
