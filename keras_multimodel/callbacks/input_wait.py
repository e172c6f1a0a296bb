"""How much of its time training waits for input."""

import time

import keras
import tensorflow as tf

from keras_multimodel import user_warnings


class InputWait(keras.callbacks.Callback):
    """Measures how much of its time training waits for batches.

    The callback adds `input_wait` to the logs of each epoch: the time that `fit` waits for the data
    set, as a share of the time of the epoch's steps. Near 0 the input is fast enough; at 0.5 a
    faster input would make training twice as fast. The share leaves out the first step of `fit`,
    which compiles, and validation; an epoch of that step alone has no `input_wait`.

    On TensorFlow and JAX, `fit` fetches batches within its step, so the callback puts a clock
    around the iterator that the step reads; on torch it measures the time between two steps.
    Elements and their order do not change. On an accelerator that runs asynchronously, as with JAX,
    the share is an upper bound: the device may still be busy. Under a `tf.distribute` strategy,
    which prefetches by itself, the callback measures nothing, and warns.

    Args:
        threshold: share above which a warning says, once, what may help.

    Raises:
        ValueError: `threshold` is not from 0 to 1.

    Example:

    ```python
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((8, 2))
    wait = kmm.callbacks.InputWait(threshold=1.0)
    history = model.fit(x, x[:, :1], batch_size=2, epochs=2, callbacks=[wait], verbose=0)
    history.history["input_wait"]  # such as [0.02, 0.01]
    ```
    """

    def __init__(self, threshold: float = 0.1):
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must be from 0 to 1. Received: threshold={threshold}")
        self.threshold = threshold
        self._between_steps = keras.backend.backend() == "torch"

    def on_train_begin(self, logs: dict | None = None):
        self._clock = _Clock()
        self._compiled = self._warned = False
        if not self._between_steps:
            step = self.model.train_function
            # A training that an error ended has not given the step back.
            step = step.step if isinstance(step, _TimedStep) else step
            self.model.train_function = _TimedStep(step, self._clock)

    def on_train_end(self, logs: dict | None = None):
        if not self._between_steps:
            self.model.train_function = self.model.train_function.step

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        self._restart()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None):
        if self._between_steps:
            self._clock.add(time.perf_counter() - self._idle_since)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        self._idle_since = time.perf_counter()
        self._steps += 1
        if not self._compiled:
            self._compiled = True
            self._restart()

    def on_test_begin(self, logs: dict | None = None):
        self._stop()

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        self._stop()
        if not self._steps or not self._clock.works:
            return
        share = min(1.0, self._waited / self._seconds)
        if logs is not None:
            logs["input_wait"] = share
        if share > self.threshold and not self._warned:
            self._warned = True
            user_warnings.warn(
                f"Training waited for its input for {share:.0%} of epoch {epoch + 1}. What may "
                "help: `cache=True` in `kmm.data.encode` (the first epoch fills it), "
                "`num_parallel_calls` in your own maps, and `prefetch` as the last step."
            )

    def _restart(self):
        self._steps = 0
        self._running = True
        self._waited_before = self._clock.seconds()
        self._started = self._idle_since = time.perf_counter()

    def _stop(self):
        # Validation, and the end of an epoch without it: the first of the two stops the clock.
        if self._running:
            self._running = False
            self._seconds = time.perf_counter() - self._started
            self._waited = self._clock.seconds() - self._waited_before


class _Clock:
    """Adds up seconds, in Python and in TensorFlow's graphs."""

    def __init__(self):
        self.works = True  # whether all that was to be timed could be
        self._seconds = 0.0
        with tf.init_scope(), tf.device("CPU:0"):
            self._graph_seconds = tf.Variable(0.0, trainable=False, dtype="float64")

    def seconds(self) -> float:
        return self._seconds + float(self._graph_seconds.numpy())

    def add(self, seconds: float) -> None:
        self._seconds += seconds

    def timed(self, iterator):
        """Returns an iterator over the same elements that is timed."""
        if isinstance(iterator, tf.distribute.DistributedIterator):
            self.works = False
            user_warnings.warn("`InputWait` cannot measure under a distribution strategy.")
            return iterator
        if isinstance(iterator, tf.data.Iterator):
            return self._timed_in_graph(iterator)
        return self._timed_in_python(iterator)

    def _timed_in_python(self, iterator):
        while True:
            start = time.perf_counter()
            try:
                element = next(iterator)
            except StopIteration:
                return
            finally:
                self.add(time.perf_counter() - start)
            yield element

    def _timed_in_graph(self, iterator):
        # The step is a compiled program: a clock in Python would run only while it is traced. The
        # data set below fetches from the step's own, between two readings of TensorFlow's clock.
        @tf.autograph.experimental.do_not_convert
        def fetch(_):
            start = tf.timestamp()
            with tf.control_dependencies([start]):
                element = iterator.get_next_as_optional()
            with tf.control_dependencies(tf.nest.flatten(element, expand_composites=True)):
                waited = tf.timestamp() - start
            with tf.control_dependencies([self._graph_seconds.assign_add(waited)]):
                return tf.nest.map_structure(tf.identity, element, expand_composites=True)

        dataset = tf.data.Dataset.counter().map(fetch)
        dataset = dataset.take_while(lambda element: element.has_value())
        dataset = dataset.map(lambda element: element.get_value())
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.inject_prefetch = False  # the clock must not run ahead
        return iter(dataset.with_options(options))


class _TimedStep:
    """Calls a model's step with a timed iterator in place of its own."""

    def __init__(self, step, clock: _Clock):
        self.step = step
        self._clock = clock
        self._iterator = self._timed = None

    def __call__(self, *arguments):
        *state, iterator = arguments
        if iterator is not self._iterator:
            self._iterator, self._timed = iterator, self._clock.timed(iterator)
        return self.step(*state, self._timed)
