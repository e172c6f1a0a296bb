"""Training that resumes where it was interrupted."""

import collections
import math
import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_multimodel import _keras_compat, user_warnings
from keras_multimodel.argument_checks import positive_int
from keras_multimodel.callbacks.divergence import FiniteCheck, check_losses
from keras_multimodel.callbacks.files import (
    DirectoryLock,
    clear_leftovers,
    first_whole,
    older_states,
    read_state,
    writable_directory,
    write_state,
)
from keras_multimodel.callbacks.identity import (
    check_same,
    describe,
    differences,
    learning_rate,
    listed,
    set_learning_rate,
)
from keras_multimodel.callbacks.keras_states import (
    callback_state,
    has_state,
    set_callback_state,
)
from keras_multimodel.data.mixing.mixture import Position
from keras_multimodel.ops.replicas import replica_parts, set_replica_parts
from keras_multimodel.ops.workers import Workers, workers_of


class Resume(keras.callbacks.Callback):
    """Saves the state of a training run, and resumes it when `fit` is called again.

    After an interruption, start a process that makes the same model and the same mixture and calls
    `fit` with the same arguments. It continues with the step after the last save, and ends with the
    same weights and logs, to the bit, as a run without the interruption. The state holds the
    weights, the optimizer, the seeds of dropout and noise, the metrics of the epoch so far, the
    position in the mixture, and the state of its schedule and of the other callbacks of `fit`:
    Keras' `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint`, and all that have methods
    `get_state`, which returns a dict of arrays, and `set_state`, which takes it.

    Nothing good is overwritten. A state is written to a new file, which then takes the place of the
    old one in one step, so that a process may die at any moment. A state that is not finite is not
    written at all: training stops with a `FloatingPointError` that names the task and the step. If
    the newest state is damaged, training resumes from the one before it, with a warning. If
    training diverges before a good step has followed the state that it resumed from, that state is
    set aside as `state.diverged.npz`, and the next start resumes from the one before it. While a
    training runs, another one in its directory is refused.

    What a state belongs to is compared with what is there. Other tasks, another optimizer or
    another mixture are refused. Other settings, such as the learning rate, and other examples give
    a warning, and hold: so a training that diverged continues without the cause.

    A run that has ended stays ended, also if `EarlyStopping` ended it: `fit` with more `epochs`
    continues it, `fit` with the same number does nothing.

    Args:
        directory: where to keep the states; created if it does not exist. The newest is
            `state.npz`, those before it are `state.1.npz`, `state.2.npz`, ...
        position: the `kmm.data.Position` that `kmm.data.mix` was given.
        save_freq: number of steps between saves, or `"epoch"`; the end of an epoch is always saved.
        callbacks: callbacks whose state is part of the training run and that `MultiModel.fit` does
            not find itself, in another model than a `MultiModel`. There, list them before this one
            in `fit`; `MultiModel.fit` calls this one last wherever it stands.
        keep: how many states to keep.

    Raises:
        ValueError: an argument is out of range, or no file can be written in `directory`. At the
            start of training: another process trains in the directory, there is no room for a
            state, all states are damaged, or they are of other tasks, another model, optimizer or
            mixture; or `fit` does not train on the mixture of `position`.
        FloatingPointError: in training, a loss, or a weight that is to be saved, is not finite.
        OSError: in training, a state can no longer be written. The one before remains.

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

    runs_last = True  # in `MultiModel.fit`: it saves what the other callbacks know after a step

    def __init__(
        self,
        directory: str | os.PathLike,
        position: Position,
        save_freq: int | str = "epoch",
        callbacks: Sequence[keras.callbacks.Callback] = (),
        keep: int = 3,
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
            if not _has_state(callback):
                raise ValueError(
                    "`callbacks` must have methods `get_state` and `set_state`. "
                    f"Received: {type(callback).__name__}"
                )
        self.path = writable_directory("directory", directory) / "state.npz"
        self.position = position
        self.save_freq = save_freq
        self.keep = positive_int("keep", keep)
        is_epoch = save_freq == "epoch"
        self._interval = float("inf") if is_epoch else positive_int("save_freq", save_freq)
        self.callbacks = list(callbacks)
        self.first_step = 0  # steps of this epoch before the process began
        self._lock: DirectoryLock | None = None
        self._workers = Workers()
        self._resumed = None  # epoch, step and arrays of the state that training began with
        self._epoch = 0
        self._step = 0  # steps of this epoch
        self._saved = 0  # step of this epoch at the last save
        self._unproven = None  # the state that training resumed from, until a good step follows

    def on_train_begin(self, logs: dict | None = None):
        self._resumed = None
        # An error may have ended an earlier run before `fit` read it.
        _keras_compat.set_initial_epoch(self.model, None)
        self.fit_batches = _keras_compat.batches_of_fit(self.model)
        self.position.check_steps(self.params["steps"])
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._workers = workers_of(self.model)
        self._identity = describe(self.model)
        self._examples = None
        newest = self._newest_state()
        self._unproven = None
        if newest is not None:
            self._load(*newest)
            self._unproven = newest[0]
        self._examples = self._examples or self.position.fingerprints()
        self._callback_arrays()  # a state that cannot be saved is found now
        self._check = FiniteCheck(self.model)

    def _newest_state(self):
        """Returns path, metadata and arrays of the state to resume from, or None."""
        newest = None

        def read():
            nonlocal newest
            # Once more: the directory may have changed since, and this is the last moment to see.
            directory = writable_directory("directory", self.path.parent, self._num_bytes())
            self._lock = DirectoryLock(directory)
            self._lock.acquire()
            clear_leftovers(self.path)
            states = [path for path in (self.path, *older_states(self.path)) if path.exists()]
            newest = first_whole(states) if states else None
            return newest[0].read_bytes() if newest and self._workers.count > 1 else b""

        # Other workers may run on machines without the directory, or see an older file in it.
        contents = self._workers.from_chief(read)
        if contents and not self._workers.is_chief:
            newest = self.path, *read_state(self.path, contents)
        return newest

    def on_train_end(self, logs: dict | None = None):
        _keras_compat.set_initial_epoch(self.model, None)  # of a run that had nothing left to do
        self.release()

    def release(self) -> None:
        """Lets others train in the directory; `MultiModel.fit` calls it, however it ends."""
        if self._lock is not None:
            self._lock.release()

    def diverged(self) -> None:
        """Sets the state aside that training resumed from, if no good step has followed it."""
        # It is finite, but an update before it may have been far too large.
        states, state = [self.path, *older_states(self.path)], self._unproven
        if state is None or state == states[-1] or not self._workers.is_chief:
            return
        aside = self.path.with_name("state.diverged.npz")
        os.replace(state, aside)
        user_warnings.warn(
            f"Training diverged as soon as it had resumed from {state}, which is now {aside.name}. "
            "The next start resumes from the state before it."
        )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        _keras_compat.set_initial_epoch(self.model, None)  # `fit` has read it
        self._epoch, self.first_step = epoch, 0
        if self._resumed is not None and self._resumed[0] == epoch:
            self.first_step = self._resumed[1]
            if self.first_step:
                # Once more: `fit` has reset the metrics, and the counters of experts.
                self._assign(self._resumed[2], ["model", "metrics"])
        self._resumed = None
        self._step = self._saved = self.first_step
        self.position.move(epoch, self.first_step)
        # The mixture holds the rest of the epoch only.
        _keras_compat.expect_steps(self.fit_batches, self.params["steps"] - self.first_step)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        # `batch` is the last of several with `steps_per_execution`, and may be past the end.
        self._step = min(self.first_step + batch + 1, self.params["steps"])
        check_losses(logs or {}, self._where())
        self._unproven = self._unproven if self._is_suspicious() else None
        # A callback that ends training in the middle of an epoch may be there to resume it later.
        is_due = self._step - self._saved >= self._interval or self.model.stop_training
        if is_due and self._step < self.params["steps"]:
            self._save(self._epoch, self._step)
            self._saved = self._step

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        if self._step == self.params["steps"]:
            self._save(epoch + 1, 0)

    def _where(self):
        return f"step {self._step} of epoch {self._epoch + 1}"

    def _variables(self):
        optimizer, metrics = self.model.optimizer.variables, self.model.metrics_variables
        return {"model": self.model.variables, "optimizer": optimizer, "metrics": metrics}

    def _num_bytes(self):
        variables = [v for of_kind in self._variables().values() for v in of_kind]
        sizes = [math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables]
        return sum(sizes) + 512 * len(sizes)  # with the headers of a file

    def _owners(self):
        """Returns by name whatever else has a state."""
        owners = {str(number): callback for number, callback in enumerate(self.callbacks)}
        schedule = self.position.schedule
        if schedule is not None:
            owners["schedule"] = schedule
        listed = {*map(id, [self, schedule, *self.callbacks])}
        counts = collections.Counter()
        for callback in getattr(self.model, "callbacks_of_fit", ()):
            if id(callback) not in listed and _has_state(callback):
                name = type(callback).__name__
                owners[f"{name} {counts[name]}"] = callback
                counts[name] += 1
        return owners

    def _callback_arrays(self):
        arrays = {}
        for owner, source in self._owners().items():
            own = hasattr(source, "get_state")
            state = source.get_state() if own else callback_state(source)
            arrays.update({f"{owner}/{key}": np.asarray(value) for key, value in state.items()})
        bad = [name for name, array in arrays.items() if array.dtype.hasobject]
        if bad:
            raise ValueError(
                f"`get_state` of a callback must return a dict of arrays. Received: {bad[0]!r}, "
                "which is none"
            )
        return arrays

    def _save(self, epoch, step):
        if self._is_suspicious():  # it is about to be stopped, and the state before is better
            return
        self._check(self._where())
        arrays = {
            f"{kind}/{number}": keras.ops.convert_to_numpy(variable)
            for kind, variables in self._variables().items()
            for number, variable in enumerate(variables)
        }
        if self._workers.count == 1:  # of the replicas of other workers, this one has no parts
            parts = replica_parts(self._variables()["metrics"])
            arrays.update({f"parts/{number}": array for number, array in parts.items()})
        arrays.update(self._callback_arrays())
        if not self._workers.is_chief:
            return  # it had to come this far: all workers take part in reading a sum of replicas
        metadata = {
            "epoch": epoch,
            "step": step,
            "mixture": self.position.mixture,
            "variables": {kind: _shapes(v) for kind, v in self._variables().items()},
            "identity": self._identity,
            "learning_rate": learning_rate(self.model.optimizer),
            "examples": self._examples,
        }
        write_state(self.path, metadata, arrays, self.keep)

    def _is_suspicious(self):
        callbacks = getattr(self.model, "callbacks_of_fit", ())
        return any(getattr(callback, "suspicious", False) for callback in callbacks)

    def _load(self, path, metadata, arrays):
        self._check_model(path, metadata)
        rate = self._compare(path, metadata)
        epoch, step = metadata["epoch"], metadata["step"]
        self._assign(arrays)
        if rate is not None:
            set_learning_rate(self.model.optimizer, rate)
        for owner, target in self._owners().items():
            prefix = f"{owner}/"
            state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            if hasattr(target, "set_state"):
                if state or owner == "schedule":
                    target.set_state(state)
            elif state:
                set_callback_state(target, state)
        if any(map(_has_stopped, getattr(self.model, "callbacks_of_fit", ()))):
            epoch, step = max(epoch, self.params["epochs"]), 0
        self.position.move(epoch, step)
        _keras_compat.set_initial_epoch(self.model, epoch)
        self._resumed = epoch, step, arrays

    def _assign(self, arrays, kinds=("model", "optimizer", "metrics")):
        for kind in kinds:
            for number, variable in enumerate(self._variables()[kind]):
                array = arrays[f"{kind}/{number}"]
                if array.dtype.kind == "V":  # a dtype that NumPy has no name for, like bfloat16
                    array = array.view(variable.dtype)
                variable.assign(array)
        prefix = "parts/"
        parts = {int(k[len(prefix) :]): v for k, v in arrays.items() if k.startswith(prefix)}
        set_replica_parts(self._variables()["metrics"], parts)

    def _check_model(self, path, metadata):
        check_same(self._identity, metadata["identity"], path)
        for kind, variables in self._variables().items():
            here, there = _shapes(variables), metadata["variables"][kind]
            if here != there:
                raise ValueError(
                    f"`directory` must hold a state of the same model and optimizer: {path} "
                    f"has other {kind} variables. Received: {_difference(here, there)}"
                )
        here, there = self.position.mixture or {}, metadata["mixture"]
        different = [key for key in here if here[key] != there.get(key)]
        if different:
            key = different[0]
            raise ValueError(
                f"`position` must be that of the mixture whose training {path} has. "
                f"Received: {key}={here[key]} instead of {key}={there.get(key)}"
            )

    def _compare(self, path, metadata):
        """Warns of other settings and examples; returns the learning rate to set, or None."""
        there = metadata["identity"]
        texts = differences(self._identity, there)
        # It may have moved since the training began, and with it that of this model.
        rate = self._identity["learning_rate"]
        same_rate = rate in (there["learning_rate"], metadata["learning_rate"])
        if same_rate:
            self._identity["learning_rate"] = there["learning_rate"]
        else:
            texts.insert(0, f"learning_rate={rate} instead of {metadata['learning_rate']}")
        counts = {task: count for task, (count, _) in metadata["examples"].items()}
        self._examples = self.position.fingerprints(counts)
        tasks = [t for t, found in metadata["examples"].items() if self._examples.get(t) != found]
        texts += [f"other examples of task {task!r}" for task in tasks]
        if texts:
            user_warnings.warn(
                f"The training of {path} resumes with other settings or examples than it had, "
                f"which hold from here on: {listed(texts)}."
            )
        return None if same_rate else rate


def _has_state(callback):
    own = hasattr(callback, "get_state") and hasattr(callback, "set_state")
    return own or has_state(callback)


def _has_stopped(callback):
    if not isinstance(callback, keras.callbacks.EarlyStopping):
        return False
    return callback.stopped_epoch > 0 and callback.wait >= callback.patience


def _shapes(variables):
    return [list(variable.shape) for variable in variables]


def _difference(here, there):
    if len(here) != len(there):
        return f"{len(here)} variables instead of {len(there)}"
    number = next(i for i, (a, b) in enumerate(zip(here, there)) if a != b)
    return f"shape {tuple(here[number])} instead of {tuple(there[number])} of variable {number}"
