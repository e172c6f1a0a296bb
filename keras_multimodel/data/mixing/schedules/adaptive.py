"""A schedule that follows the losses: it trains the tasks with the greatest losses most often."""

import collections
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_multimodel.argument_checks import fraction, positive_int
from keras_multimodel.data.mixing.schedules.schedule import Schedule

if TYPE_CHECKING:
    from keras_multimodel.data.mixing.mixture import Position


class Adaptive(Schedule, keras.callbacks.Callback):
    """Trains a task in proportion to `exp(moving average of its loss)`.

    It is a callback too: give it to `mix` and to `fit`. Without `fit`, shares are uniform. `fit`
    changes its state; reading the mixture does not. The loss of rows that several tasks read is the
    sum of theirs.

    The shares of a window follow from the losses up to the end of the window before the last, and
    are uniform in the first two windows. So they do not depend on how far the input is read ahead,
    as long as that is less than a window. The average of a task starts with its first loss.

    Args:
        decay: what remains of the average after each step of the task.
        window: number of steps after which the shares change.

    Raises:
        ValueError: `decay` is outside [0, 1) or `window` is not a positive integer. In training:
            more than a window is read ahead, or the logs lack the loss of a task.

    Example:

    ```python
    import tensorflow as tf

    ids = {"inputs": np.ones((6, 4), "int32"), "targets": np.zeros(6, "int32")}
    examples = tf.data.Dataset.from_tensor_slices(ids)
    schedule = kmm.data.schedules.Adaptive(window=4)
    train = kmm.data.mix({"a": examples, "b": examples}, batch_size=2, schedule=schedule)
    # model.fit(train, epochs=10, callbacks=[schedule])
    ```

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137: `problem_choice="adaptive"` of the authors' code, with
        its decay; there every average starts from 100 and the shares change at each step.
    """

    needs_sizes = False

    def __init__(self, decay: float = 0.9, window: int = 100):
        super().__init__()
        self.decay = float(fraction("decay", decay))
        self.window = positive_int("window", window)
        # Of the mixture that the schedule is bound to.
        self._sizes: Mapping[str, int] = {}
        self._seed = self._steps = 0
        self._position: Any = None
        self._training = False
        self._batch = -1  # the last one of this epoch of `fit`
        self._draws = None
        self._state: dict[str, np.ndarray] = {}

    def bind(self, sizes: Mapping[str, int], seed: int, position: "Position", steps: int) -> None:
        self._sizes, self._seed = sizes, seed
        self._position, self._steps = position, steps
        zeros = np.zeros(len(sizes))
        self._state = {
            "shares": np.zeros((0, len(sizes))),  # of each window from the third on
            "averages": zeros * np.nan,  # NaN where no loss has been seen
            "window_losses": zeros,  # sums over the steps since the last update
            "epoch_losses": zeros,  # sums over the steps of this epoch
            "steps": np.array(0),  # of the training so far
            "updated": np.array(0),  # steps at the last update
        }

    def check_unbound(self) -> None:
        if self._position is not None:
            raise ValueError(
                "`schedule` must be new for every mixture: an adaptive one follows one training. "
                f"Received: a schedule of the tasks {', '.join(self._sizes)}"
            )

    def shares(self, sizes: Mapping[str, int], step: int = 0) -> dict[str, float]:
        window = step // self.window - 2
        known = self._state.get("shares", ())
        if window < 0 or (window >= len(known) and not self._training):
            return dict.fromkeys(sizes, 1.0 / len(sizes))
        if window >= len(known):
            raise ValueError(
                "`window` must be more than the number of steps that are read ahead. "
                f"Received: window={self.window}"
            )
        return dict(zip(sizes, known[window].tolist(), strict=True))

    def get_config(self) -> dict:
        return {"decay": self.decay, "window": self.window}

    def get_state(self) -> dict[str, np.ndarray]:
        return dict(self._state)

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        self._state = dict(state)
        self._draws = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self._position is None:
            raise ValueError(
                "`schedule` must be given to `kmm.data.mix` too. "
                "Received: an adaptive schedule without a mixture"
            )
        self._position.check_steps(self.params["steps"])
        self._training = True

    def on_train_end(self, logs: dict | None = None) -> None:
        self._training = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        # After an `evaluate` on the same mixture, or an epoch that was cut off, the position is not
        # where training continues.
        epoch, step = divmod(int(self._state["steps"]), self._steps)
        self._position.move(epoch, step)
        self._batch = -1
        if step == 0:
            self._state["epoch_losses"] = np.zeros(len(self._sizes))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        before, length = int(self._state["steps"]), self._steps
        # With `steps_per_execution`, `batch` may lie beyond the end of the epoch.
        done = min(before + batch - self._batch, (before // length + 1) * length)
        self._batch = batch
        self._state["steps"] = np.array(done)
        if done // self.window > self._state["updated"] // self.window:
            self._collect(logs)
            self._update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._collect(logs)

    def _collect(self, logs):
        """Adds the losses of the steps since the last call: the logs have means of the epoch."""
        if len(self._sizes) == 1:
            return
        tasks = [self._tasks_of(name) for name in self._sizes]
        missing = [task for task in itertools.chain(*tasks) if f"{task}_loss" not in logs]
        if missing:
            raise ValueError(
                "`schedule` needs the loss of each task in the logs of `fit`. "
                f"Received: none of {', '.join(missing)}"
            )
        steps = (int(self._state["steps"]) - 1) % self._steps + 1
        losses = [sum(float(logs[f"{task}_loss"]) for task in several) for several in tasks]
        sums = steps * np.array(losses)
        with np.errstate(invalid="ignore"):  # a loss may be infinite; `_update` drops what is NaN
            total = self._state["window_losses"] + sums
            self._state["window_losses"] = total - self._state["epoch_losses"]
        self._state["epoch_losses"] = sums

    def _tasks_of(self, name):
        """Returns the tasks that read a data set: rows may have several."""
        tasks = getattr(self.model, "tasks", {}).values()
        return [task.name for task in tasks if task.rows == name] or [name]

    def _update(self):
        """Moves the averages, and sets the shares of the window after the next."""
        state, before, now = self._state, int(self._state["updated"]), int(self._state["steps"])
        counts = self._count_draws(before, now)
        means = state["window_losses"] / np.maximum(counts, 1)
        averages = np.where(np.isnan(state["averages"]), means, state["averages"])
        with np.errstate(invalid="ignore"):
            averages = means + self.decay**counts * (averages - means)
        seen = (counts > 0) & np.isfinite(means)
        averages = np.where(seen, averages, state["averages"])
        greatest = np.max(averages, where=~np.isnan(averages), initial=-np.inf)
        weights = np.exp(np.where(np.isnan(averages), 0.0, averages - greatest))
        windows = now // self.window - len(state["shares"])
        rows = np.tile(weights / np.sum(weights), (windows, 1))
        state["shares"] = np.concatenate([state["shares"], rows])
        state.update(averages=averages, window_losses=np.zeros(len(counts)), updated=np.array(now))

    def _count_draws(self, start, stop):
        """Returns how many of the steps from `start` to `stop` trained each task."""
        if self._draws is None:
            windows = self.windows(self._sizes, self._seed)
            self._draws = itertools.islice(itertools.chain.from_iterable(windows), start, None)
        drawn = collections.Counter(itertools.islice(self._draws, stop - start))
        return np.array([drawn[name] for name in self._sizes])
