"""Training that goes on where it was cut."""

import os
import pathlib
from collections.abc import Sequence

import keras

from keras_multimodel import _keras_compat
from keras_multimodel.callbacks import state_file
from keras_multimodel.data.mixing.mixture import Position

_EPOCH_OVER = "the epoch that was cut is over"


class Resume(keras.callbacks.Callback):
    """Saves the state of a training, and goes on from it when `fit` is called anew.

    After a cut, a process that makes the same model and the same mixture and calls `fit` with the
    same arguments goes on with the step after the last save. It ends with the weights, to the bit,
    that it would have had without the cut. The state has the weights, the optimizer, the seeds of
    dropout and noise, the metrics of the epoch so far, the place in the mixture, and the state of
    its schedule. It is written to a new file that then takes the old one's place, so a cut while
    saving costs no more than the steps since the save before.

    On the replicas of a `MirroredStrategy` the metrics of the epoch that was cut are the same but
    for rounding.

    A training that has ended stays so: `fit` with more `epochs` goes on, with as many it does
    nothing. Other callbacks keep their own state, like the best value of `EarlyStopping`, only if
    they are named here.

    Args:
        directory: where to keep the state, one file `state.npz`.
        position: the `kmm.data.Position` that `kmm.data.mix` was given.
        save_freq: after how many steps to save, or `"epoch"`; the end of an epoch is always saved.
        callbacks: other callbacks whose state is part of the training. They have methods
            `get_state`, which returns a dict of arrays, and `set_state`, which takes it. They, and
            all that change the model or the optimizer, stand before this one in `fit`. The schedule
            of the mixture need not be named.

    Raises:
        ValueError: an argument is out of range. At the begin of training: the state is damaged, or
            of another model or mixture; or `fit` does not train on the mixture of `position`.

    Example:

    ```python
    position = kmm.data.Position()
    train = kmm.data.mix(datasets, batch_size=64, position=position)
    model.fit(train, epochs=10, callbacks=[kmm.callbacks.Resume("run", position, save_freq=100)])
    ```
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        position: Position,
        save_freq: int | str = "epoch",
        callbacks: Sequence = (),
    ):
        super().__init__()
        if not isinstance(position, Position):
            raise ValueError(
                f"`position` must be a `kmm.data.Position`. Received: position={position!r}"
            )
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
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
        self.path = pathlib.Path(directory) / "state.npz"
        if self.path.parent.exists() and not self.path.parent.is_dir():
            raise ValueError(f"`directory` must be a directory. Received: directory={directory}")
        self.position = position
        self.save_freq = save_freq
        self.callbacks = list(callbacks)
        self._resumed = None  # epoch, step and variables of the state that training began with
        self._epoch = 0
        self._first = 0  # steps of this epoch before the process began
        self._step = 0  # steps of this epoch
        self._saved = 0  # step of this epoch at the last save

    def on_train_begin(self, logs=None):
        self._resumed = None
        # An error may have ended an earlier training before `fit` read it.
        _keras_compat.set_initial_epoch(self.model, None)
        self.position.check_steps(self.params["steps"])
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        if self.path.exists():
            self._load()

    def on_train_end(self, logs=None):
        _keras_compat.set_initial_epoch(self.model, None)  # of one that had nothing left to do

    def on_epoch_begin(self, epoch, logs=None):
        _keras_compat.set_initial_epoch(self.model, None)  # `fit` has read it
        self._epoch, self._first = epoch, 0
        if self._resumed is not None and self._resumed[0] == epoch:
            self._first = self._resumed[1]
            if self._first:
                # Once more: `fit` has reset the metrics since training began.
                self._assign(self._resumed[2])
        self._step = self._saved = self._first
        self.position.move(epoch, self._first)

    def on_train_batch_end(self, batch, logs=None):
        steps = self.params["steps"]
        self._step = min(self._first + batch + 1, steps)
        if self._step == steps:
            # Keras would look for the steps that this epoch had before, and warn.
            if self._first and not self.model.stop_training:
                self.model.stop_training = _EPOCH_OVER
        elif self.save_freq != "epoch" and self._step - self._saved >= self.save_freq:
            self._save(self._epoch, self._step)
            self._saved = self._step

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_training == _EPOCH_OVER:
            self.model.stop_training = False
        self._resumed = None
        self._save(epoch + 1, 0)

    def _variables(self):
        model = self.model
        return {
            "model": model.variables,
            "optimizer": model.optimizer.variables,
            "metrics": model.metrics_variables,
        }

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
            state = {f"{owner}/{key}": value for key, value in source.get_state().items()}
            arrays.update(state)
        metadata = {
            "epoch": epoch,
            "step": step,
            "mixture": self.position.mixture,
            "variables": {kind: _outline(v) for kind, v in self._variables().items()},
        }
        state_file.write(self.path, metadata, arrays)

    def _load(self):
        metadata, arrays = state_file.read(self.path)
        self._check(metadata)
        epoch, step = metadata["epoch"], metadata["step"]
        self._assign(arrays)
        for owner, target in self._owners().items():
            start = f"{owner}/"
            target.set_state(
                {key[len(start) :]: v for key, v in arrays.items() if key.startswith(start)}
            )
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
            here, there = _outline(variables), metadata["variables"][kind]
            if here != there:
                raise ValueError(
                    f"`directory` must hold a state of the same model and optimizer: {self.path} "
                    f"has other {kind} variables. Received: {_difference(here, there)}"
                )
        here, there = self.position.mixture, metadata["mixture"]
        different = [key for key in here if here[key] != there.get(key)]
        if different:
            key = different[0]
            raise ValueError(
                f"`position` must be that of the mixture whose training {self.path} has. "
                f"Received: {key}={here[key]} instead of {key}={there.get(key)}"
            )


def _outline(variables):
    return [list(variable.shape) for variable in variables]


def _difference(here, there):
    if len(here) != len(there):
        return f"{len(here)} variables instead of {len(there)}"
    number = next(i for i, (a, b) in enumerate(zip(here, there)) if a != b)
    return f"shape {tuple(here[number])} instead of {tuple(there[number])} of variable {number}"
