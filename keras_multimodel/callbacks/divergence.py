"""Stops a training that has diverged, before anything overwrites what was good."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import positive, positive_int
from keras_multimodel.ops.compiled import compiled

_SMALLEST_SCALE = 1.0  # of a loss in float16: below it, no halving makes a gradient finite


class StopOnDivergence(keras.callbacks.Callback):
    """Stops training with a `FloatingPointError` as soon as it has diverged.

    After each step it checks that the losses, the weights and the state of the optimizer are
    finite; a gradient that is not finite shows in one of them. The error names the step, and the
    task whose loss or weights are not finite. It also ends a training whose loss explodes without
    becoming NaN: that of a task is, in `patience` of its steps in a row, more than `factor` times
    the greater of its first loss and the loss of a uniform guess.

    An error and not a flag: at the end of an epoch, other callbacks would save the broken weights.
    To recover, start the training again with `Resume` and without the cause, such as a learning
    rate that is too high. Inputs that are NaN or infinite are refused by `MultiModel.fit` itself,
    which names the row.

    Args:
        factor: how much greater than at first a loss may be.
        patience: number of steps of a task for which its loss may be greater than that.
        every: number of steps between checks of the weights. Losses are checked after each step.

    Raises:
        ValueError: an argument is out of range; at the start of training, a weight is not finite.
        FloatingPointError: in training, as above.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    labels = kmm.layers.CategoryModality(3, hidden_dim=32)
    model = kmm.MultiModel([kmm.Task("topic", text, labels)], hidden_dim=32, moe=None)
    model.compile(keras.optimizers.SGD(1e30))
    x = {"topic": {"inputs": np.ones((8, 5), "int32")}}
    y = {"topic": np.arange(8) % 3}
    try:
        model.fit(x, y, epochs=3, callbacks=[kmm.callbacks.StopOnDivergence()], verbose=0)
    except FloatingPointError as error:
        print(str(error).split(":")[0])  # Training diverged in step 1 of epoch 1
    ```
    """

    def __init__(self, factor: float = 5.0, patience: int = 5, every: int = 1):
        super().__init__()
        self.factor = positive("factor", factor)
        self.patience = positive_int("patience", patience)
        self.every = positive_int("every", every)
        self._first: dict[str, float] = {}  # loss of the first step of each task
        self._above: dict[str, int] = {}  # steps in a row with a loss that is too great
        self._epoch = 0
        self._check: Any = None

    @property
    def suspicious(self) -> bool:
        """Whether the last loss of some task was too great: `Resume` saves no such state."""
        return any(self._above.values())

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns the first loss of each task; `Resume` saves it."""
        return {name: np.array(loss) for name, loss in self._first.items()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self._first = {name: float(loss) for name, loss in state.items()}

    def on_train_begin(self, logs: dict | None = None):
        self._first, self._above = {}, {}
        self._check = None
        self._step_losses = _StepLosses(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        if self._check is None:  # not before: `Resume` may have replaced broken weights since
            self._check = FiniteCheck(self.model)
        self._epoch = epoch
        self._step_losses.restart()

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        step = steps_before(self.model) + batch + 1
        where = f"step {step} of epoch {self._epoch + 1}"
        check_losses(logs or {}, where)
        if step % self.every == 0:
            self._check(where)
        for name, loss in self._step_losses.of_last_step(logs or {}).items():
            self._watch(name, loss, where)

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        if self.every > 1:
            self._check(f"the last steps of epoch {epoch + 1}")

    def _watch(self, name, loss, where):
        first = self._first.setdefault(name, loss)
        limit = self.factor * max(first, _guess(self.model, name))
        self._above[name] = self._above.get(name, 0) + 1 if loss > limit else 0
        if self._above[name] >= self.patience:
            raise FloatingPointError(
                f"Training diverged in {where}: the loss of {name!r} has been above {limit:.4g} "
                f"for {self.patience} steps of it in a row, and is {loss:.4g}; it was {first:.4g} "
                "at first. A smaller learning rate, a warm-up or `global_clipnorm` of the "
                "optimizer may help."
            )


def steps_before(model: keras.Model) -> int:
    """Returns how many steps of the epoch `fit` has left out, for `Resume` has resumed in it."""
    callbacks = getattr(model, "callbacks_of_fit", ())
    return max((getattr(callback, "first_step", 0) for callback in callbacks), default=0)


def check_losses(logs: Mapping[str, float], where: str) -> None:
    """Checks that the losses in the logs of a step are finite.

    Args:
        logs: what Keras gives to callbacks after a step.
        where: which step it is, for the message.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    losses = {
        name: value
        for name, value in logs.items()
        if (name == "loss" or name.endswith("_loss")) and not name.startswith("val_")
    }
    broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
    if not broken:
        return
    tasks = [name.removesuffix("_loss") for name in broken if name != "loss"]
    if tasks:
        values = ", ".join(f"{name}_loss={broken[f'{name}_loss']}" for name in tasks)
        what = f"the loss of {_listed(tasks)} is not finite ({values})"
    elif len(losses) > 1:
        what = (
            f"loss={broken['loss']}, while the loss of each task is finite. So it is what layers "
            "add: the loss that balances experts, or a regularizer"
        )
    else:
        what = f"loss={broken['loss']}"
    raise FloatingPointError(f"Training diverged in {where}: {what}.")


class FiniteCheck:
    """Checks that the weights of a model, and the state of its optimizer, are finite.

    Weights that are not trained and are not finite at first, such as a mask of -inf, are left out.

    Args:
        model: a compiled model.

    Raises:
        ValueError: a weight that is trained is not finite.
    """

    def __init__(self, model: keras.Model):
        self._optimizer = model.optimizer
        tasks = getattr(model, "tasks", {})
        self._nets = {name: task.targets for name, task in tasks.items()}
        variables = [*model.variables, *model.optimizer.variables]
        variables = list({id(v): v for v in variables}.values())
        self._set([v for v in variables if keras.backend.is_float_dtype(v.dtype)])
        broken = self._broken()
        trained = {id(variable) for variable in model.trainable_variables}
        bad = [variable.path for variable in broken if id(variable) in trained]
        if bad:
            raise ValueError(
                "`model` must have finite weights when training begins. "
                f"Received: NaN or infinity in {len(bad)} of them, {bad[0]!r} among them"
            )
        if broken:
            left_out = {*map(id, broken)}
            self._set([v for v in self._variables if id(v) not in left_out])

    def __call__(self, where: str) -> None:
        """Checks the values now.

        Args:
            where: the last step, for the message.

        Raises:
            FloatingPointError: a value is not finite, or the scale of the loss has vanished.
        """
        scale = getattr(self._optimizer, "dynamic_scale", None)
        if scale is not None and float(ops.convert_to_numpy(scale)) < _SMALLEST_SCALE:
            raise FloatingPointError(
                f"Training diverged in {where}: no gradient has been finite in float16, however "
                f"small the optimizer made the scale of the loss. Received: scale={float(scale)}"
            )
        broken = self._broken()
        if broken:
            count = f"{len(broken)} of {len(self._variables)} weights and states of the optimizer"
            what, how = "the gradient was not finite", "finite"
            if all(np.isfinite(ops.convert_to_numpy(variable)).all() for variable in broken):
                what, how = "the update was far too large", "below 1e19"
            raise FloatingPointError(
                f"Training diverged in {where}: {what}{self._of(broken)}. "
                f"{count} are not {how}, {broken[0].path!r} among them."
            )

    def _set(self, variables):
        self._variables = variables
        self._are_finite = compiled(_are_finite, variables)

    def _broken(self):
        if not self._variables:
            return []
        finite = ops.convert_to_numpy(self._are_finite())
        return [variable for variable, good in zip(self._variables, finite) if not good]

    def _of(self, broken):
        """Names the tasks whose own target nets are broken, if these are some of the tasks."""
        broken = {*map(id, broken)}
        tasks = [
            name
            for name, net in self._nets.items()
            if any(id(variable) in broken for variable in net.trainable_variables)
        ]
        return f" in {_listed(tasks)}" if 0 < len(tasks) < len(self._nets) else ""


class _StepLosses:
    """Tells the loss of each task in the last step from the logs, which have means of the epoch."""

    def __init__(self, model):
        self._tasks = list(getattr(model, "tasks", {}))
        self._loss_mean = _keras_compat.loss_tracker(model)
        self.restart()

    def restart(self):
        self._count, self._sums = 0.0, {}

    def of_last_step(self, logs):
        """Returns the losses of the tasks that the last step trained."""
        count = float(ops.convert_to_numpy(self._loss_mean.count))
        names = {f"{task}_loss": task for task in self._tasks if f"{task}_loss" in logs}
        names = names or {"loss": self._tasks[0] if len(self._tasks) == 1 else "loss"}
        sums = {key: count * logs[key] for key in names if key in logs}
        # An `evaluate` in the middle of the epoch has the means start anew.
        continues = 0.0 < self._count < count
        before, steps = (self._sums, count - self._count) if continues else ({}, count)
        self._count, self._sums = count, sums
        losses = {
            names[key]: (total - before.get(key, 0.0)) / max(steps, 1.0)
            for key, total in sums.items()
        }
        # A task without rows has the loss 0, up to rounding.
        return {name: loss for name, loss in losses.items() if loss > 1e-3}


def _are_finite(values):
    def check(variable, value):
        # A weight with an infinite square comes of an update that was far too large, such as by a
        # learning rate of 1e30, and makes the next loss NaN.
        trained = variable.trainable
        return ops.all(ops.isfinite(ops.square(ops.cast(value, "float32")) if trained else value))

    return ops.stack([check(variable, value) for variable, value in values])


def _guess(model, task):
    """Returns the loss of a uniform guess, 0 for a task whose targets are no ids or classes."""
    tasks = getattr(model, "tasks", {})
    size = tasks[task].targets.num_ids if task in tasks else None
    return math.log(size) if size else 0.0


def _listed(tasks):
    return f"task{'s' if len(tasks) > 1 else ''} {', '.join(map(repr, tasks))}"
