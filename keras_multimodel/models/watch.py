"""What watches a `fit` or `evaluate` while it runs, and what may run beside it."""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import keras

from keras_multimodel import user_warnings
from keras_multimodel.models import validation as checks
from keras_multimodel.weighting.task_weighting import TaskWeighting


def refuse_beside_fit(model: keras.Model, method: str) -> None:
    """Refuses what would change a training that runs in another thread.

    Args:
        model: the model.
        method: what was called, for the message.

    Raises:
        RuntimeError: a `fit` or `evaluate` of the model runs in another thread.
    """
    watch = getattr(model, "_watch", None)
    if watch is not None and watch.thread != threading.get_ident():
        may = "`generate`, `score`, `predict` and `task_model` may"
        if keras.backend.backend() == "jax":
            may = "on JAX, a training step takes the weights away from all others"
        raise RuntimeError(
            f"`{method}` must not be called while `fit` or `evaluate` of the model runs in another "
            f"thread: {may}."
        )


class Watch(keras.callbacks.Callback):
    """Ends the epochs of the task weighting, refuses data without a batch, and warns of NaN.

    `reset_metrics` does not tell that an epoch ended: an `evaluate` in the middle of one, such as
    in a callback, calls it too. Keras trains on data without a batch and gives a warning only; the
    logs are then empty.
    """

    def __init__(self, weighting: TaskWeighting | None = None):
        super().__init__()
        self.callbacks: list[keras.callbacks.Callback] = []
        self._weighting = weighting
        self._argument = "x"
        self._epoch: int | None = None
        self._done = 0  # steps of the epoch
        self._line = user_warnings.users_line()
        self.thread = threading.get_ident()

    def step(self) -> str:
        """Returns which step is read or trained, for messages; empty before training."""
        if self._epoch is None:
            return ""
        first = max((getattr(callback, "first_step", 0) for callback in self.callbacks), default=0)
        return f"step {first + self._done + 1} of epoch {self._epoch + 1}"

    def on_train_begin(self, logs=None):
        self._argument = "validation_data"  # what is evaluated from here on

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._done = epoch, 0

    def on_train_batch_end(self, batch, logs=None):
        self._done = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if "loss" not in logs:
            raise ValueError(checks.EMPTY.format("x"))
        if not math.isfinite(logs["loss"]):
            user_warnings.warn(
                f"The loss of epoch {epoch + 1} is {logs['loss']}: training has diverged. "
                "`kmm.callbacks.StopOnDivergence` stops at the first such step, and names it.",
                self._line,
            )
        if self._weighting is not None:
            self._weighting.end_epoch()

    def on_test_begin(self, logs=None):
        self._epoch = None

    def on_test_end(self, logs=None):
        if not logs:
            raise ValueError(checks.EMPTY.format(self._argument))


@contextlib.contextmanager
def watched_by(watch: Watch, arguments: dict[str, Any]) -> Iterator[None]:
    """Adds a callback to the arguments of `fit` or `evaluate`.

    It comes first, so that a callback that saves the state of training saves an epoch that ended.
    Such a callback comes last (`runs_last`): it saves the state of the others too.

    Args:
        watch: the callback, which gets to know the others.
        arguments: the arguments.
    """
    callbacks: Any = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks[:] = [watch, *_in_order(callbacks.callbacks)]
        watch.callbacks = callbacks.callbacks[1:]
        try:
            yield
        finally:
            callbacks.callbacks.remove(watch)
    else:
        given = [] if callbacks is None else keras.tree.flatten(callbacks)
        watch.callbacks = _in_order(given)
        arguments["callbacks"] = [watch, *watch.callbacks]
        yield


def _in_order(callbacks):
    return sorted(callbacks, key=lambda callback: getattr(callback, "runs_last", False))
