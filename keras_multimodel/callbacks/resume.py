"""Training that resumes where it was interrupted."""

import os
from collections.abc import Sequence

import keras

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import positive_int
from keras_multimodel.callbacks.files import read_state, writable_directory, write_state
from keras_multimodel.data.mixing.mixture import Position


class Resume(keras.callbacks.Callback):
    """Saves the state of a training run, and resumes it when `fit` is called again.

    After an interruption, start a process that makes the same model and the same mixture and calls
    `fit` with the same arguments. It continues with the step after the last save, and ends with the
    same weights, to the bit, as a run without the interruption. The state holds the weights, the
    optimizer, the seeds of dropout and noise, the metrics of the epoch so far, the position in the
    mixture, and the state of its schedule.

    If the process dies while the state is written, the state before it remains: each one is written
    to a new file, which then takes the place of the old one in one step. Only the training since
    the last complete save is lost, and runs again.

    On the replicas of a `MirroredStrategy`, the metrics of the interrupted epoch are equal up to
    rounding. A run that has ended stays ended: `fit` with more `epochs` continues it, `fit` with
    the same number does nothing. Other callbacks keep their own state, such as the best value of
    `EarlyStopping`, only if they are listed here.

    Args:
        directory: where to keep the state, in one file `state.npz`; created if it does not exist.
        position: the `kmm.data.Position` that `kmm.data.mix` was given.
        save_freq: number of steps between saves, or `"epoch"`; the end of an epoch is always saved.
        callbacks: other callbacks whose state is part of the training run. They have methods
            `get_state`, which returns a dict of arrays, and `set_state`, which takes it. In `fit`,
            list them, and all that change the model or the optimizer, before this one. The schedule
            of the mixture need not be listed.

    Raises:
        ValueError: an argument is out of range, or no file can be written in `directory`. At the
            start of training: the state is damaged, or is that of another model or mixture; or
            `fit` does not train on the mixture of `position`.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    labels = kmm.layers.CategoryModality(3, hidden_dim=32)
    model = kmm.MultiModel([kmm.Task("topic", text, labels)], hidden_dim=32, moe=None)
    model.compile("adam")

    import tensorflow as tf
    examples = {"inputs": np.ones((8, 5), "int32"), "targets": np.arange(8) % 3}
    position = kmm.data.Position()
    topics = tf.data.Dataset.from_tensor_slices(examples)
    train = kmm.data.mix({"topic": topics}, batch_size=4, position=position)
    resume = kmm.callbacks.Resume("run", position, save_freq=100)
    model.fit(train, epochs=1, callbacks=[resume], verbose=0)
    ```
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        position: Position,
        save_freq: int | str = "epoch",
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        super().__init__()
        if not isinstance(position, Position):
            raise ValueError(
                f"`position` must be a `kmm.data.Position`. Received: position={position!r}"
            )
        if isinstance(save_freq, str) and save_freq != "epoch":
            raise ValueError(
                "`save_freq` must be 'epoch' or a positive integer. "
                f"Received: save_freq={save_freq!r}"
            )
        for callback in callbacks:
            if not hasattr(callback, "get_state") or not hasattr(callback, "set_state"):
                raise ValueError(
                    "`callbacks` must have methods `get_state` and `set_state`. "
                    f"Received: {type(callback).__name__}"
                )
        self.path = writable_directory("directory", directory) / "state.npz"
        self.position = position
        self.save_freq = save_freq
        is_epoch = save_freq == "epoch"
        self._interval = float("inf") if is_epoch else positive_int("save_freq", save_freq)
        self.callbacks = list(callbacks)
        self._resumed = None  # epoch, step and arrays of the state that training began with
        self._epoch = 0
        self._first = 0  # steps of this epoch before the process began
        self._step = 0  # steps of this epoch
        self._saved = 0  # step of this epoch at the last save

    def on_train_begin(self, logs: dict | None = None):
        # Once more: the directory may have changed since, and this is the last moment to find out.
        writable_directory("directory", self.path.parent)
        self._resumed = None
        # An error may have ended an earlier run before `fit` read it.
        _keras_compat.set_initial_epoch(self.model, None)
        self.fit_batches = _keras_compat.batches_of_fit(self.model)
        self.position.check_steps(self.params["steps"])
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        if self.path.exists():
            self._load()

    def on_train_end(self, logs: dict | None = None):
        _keras_compat.set_initial_epoch(self.model, None)  # of a run that had nothing left to do

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        _keras_compat.set_initial_epoch(self.model, None)  # `fit` has read it
        self._epoch, self._first = epoch, 0
        if self._resumed is not None and self._resumed[0] == epoch:
            self._first = self._resumed[1]
            if self._first:
                # Once more: `fit` has reset the metrics since training began.
                self._assign(self._resumed[2])
        self._step = self._saved = self._first
        self.position.move(epoch, self._first)
        # The mixture holds the rest of the epoch only.
        _keras_compat.expect_steps(self.fit_batches, self.params["steps"] - self._first)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        # `batch` is the last of several with `steps_per_execution`, and may be past the end.
        self._step = min(self._first + batch + 1, self.params["steps"])
        is_due = self._step - self._saved >= self._interval
        if is_due and self._step < self.params["steps"]:
            self._save(self._epoch, self._step)
            self._saved = self._step

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        self._resumed = None
        self._save(epoch + 1, 0)

    def _variables(self):
        optimizer, metrics = self.model.optimizer.variables, self.model.metrics_variables
        return {"model": self.model.variables, "optimizer": optimizer, "metrics": metrics}

    def _owners(self):
        """Returns by name whatever else has a state."""
        owners = {str(number): callback for number, callback in enumerate(self.callbacks)}
        if self.position.schedule is not None:
            owners["schedule"] = self.position.schedule
        return owners

    def _save(self, epoch, step):
        arrays = {
            f"{kind}/{number}": keras.ops.convert_to_numpy(variable)
            for kind, variables in self._variables().items()
            for number, variable in enumerate(variables)
        }
        for owner, source in self._owners().items():
            arrays.update({f"{owner}/{key}": value for key, value in source.get_state().items()})
        metadata = {
            "epoch": epoch,
            "step": step,
            "mixture": self.position.mixture,
            "variables": {kind: _shapes(v) for kind, v in self._variables().items()},
        }
        write_state(self.path, metadata, arrays)

    def _load(self):
        metadata, arrays = read_state(self.path)
        self._check(metadata)
        epoch, step = metadata["epoch"], metadata["step"]
        self._assign(arrays)
        for owner, target in self._owners().items():
            prefix = f"{owner}/"
            state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            target.set_state(state)
        self.position.move(epoch, step)
        _keras_compat.set_initial_epoch(self.model, epoch)
        self._resumed = epoch, step, arrays

    def _assign(self, arrays):
        for kind, variables in self._variables().items():
            for number, variable in enumerate(variables):
                array = arrays[f"{kind}/{number}"]
                if array.dtype.kind == "V":  # a dtype that NumPy has no name for, like bfloat16
                    array = array.view(variable.dtype)
                variable.assign(array)

    def _check(self, metadata):
        for kind, variables in self._variables().items():
            here, there = _shapes(variables), metadata["variables"][kind]
            if here != there:
                raise ValueError(
                    f"`directory` must hold a state of the same model and optimizer: {self.path} "
                    f"has other {kind} variables. Received: {_difference(here, there)}"
                )
        here, there = self.position.mixture or {}, metadata["mixture"]
        different = [key for key in here if here[key] != there.get(key)]
        if different:
            key = different[0]
            raise ValueError(
                f"`position` must be that of the mixture whose training {self.path} has. "
                f"Received: {key}={here[key]} instead of {key}={there.get(key)}"
            )


def _shapes(variables):
    return [list(variable.shape) for variable in variables]


def _difference(here, there):
    if len(here) != len(there):
        return f"{len(here)} variables instead of {len(there)}"
    number = next(i for i, (a, b) in enumerate(zip(here, there)) if a != b)
    return f"shape {tuple(here[number])} instead of {tuple(there[number])} of variable {number}"
