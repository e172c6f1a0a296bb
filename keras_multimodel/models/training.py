"""How a model of several tasks trains: the methods of `keras.Model` that need more, and why."""

import contextlib
import functools
import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.metrics import StepMean
from keras_multimodel.models import validation as checks
from keras_multimodel.models.compile_guard import CompileGuard
from keras_multimodel.models.task import Task
from keras_multimodel.models.watch import Watch, refuse_beside_fit, watched_by
from keras_multimodel.ops.compiled import under_xla
from keras_multimodel.ops.workers import already_shared, for_devices, for_keras
from keras_multimodel.weighting import joint_loss
from keras_multimodel.weighting.gradient_step import clipped_step, clips_on_replicas
from keras_multimodel.weighting.task_weighting import TaskWeighting

_VALIDATION = "validation_data"


class MultiTaskTraining(_keras_compat.BuiltBeforeData):
    """The part of a `MultiModel` that trains and evaluates."""

    _tasks: dict[str, Task]
    task_weighting: TaskWeighting | None
    _tasks_with_own_loss: Sequence[str] = ()
    # Of the `fit` or `evaluate` that runs.
    _train_guard: CompileGuard | None = None
    _test_guard: CompileGuard | None = None
    _watch: Watch | None = None  # of the `fit`, or else the `evaluate`, that runs

    # Fills in a loss, a weight and metrics for every task, and clones the method that weighs them.
    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: dict | None = None,
        loss_weights: dict[str, float] | None = None,
        metrics: dict | None = None,
        weighted_metrics: dict | None = None,
        task_weighting: TaskWeighting | None = None,
        jit_compile: bool | str = "auto",
        **kwargs,
    ):
        """Configures training as `keras.Model.compile` does, with defaults for every task.

        Args:
            optimizer: the optimizer.
            loss: dict from task names to losses. By default `Task.loss`.
            loss_weights: dict from task names to factors. By default `Task.weight`.
            metrics: dict from task names to metrics. With these or `weighted_metrics` given, tasks
                have no default metrics.
            weighted_metrics: dict from task names to metrics that respect sample weights.
            task_weighting: template of a method of `keras_multimodel.weighting` that chooses
                further factors during training; None for none. `evaluate` reports losses without
                these factors.
            jit_compile: whether to compile with XLA. `"auto"` is False on TensorFlow, where Keras
                would turn it on: a step is then compiled for each set of shapes, so give `lengths`
                to `kmm.data.mix` with True. JAX compiles by default.
            **kwargs: as in `keras.Model.compile`.

        Raises:
            ValueError: a dict has a key that is no task, two numbers would have one key in the
                logs, or `task_weighting` does not fit.
        """
        given_jit_compile = jit_compile
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = False
        own_losses = list(loss) if isinstance(loss, dict) else []
        loss = joint_loss.per_task(self._tasks, "loss", loss, Task.loss)
        self._tasks_with_own_loss = own_losses
        loss_weights = joint_loss.per_task(
            self._tasks, "loss_weights", loss_weights, lambda task: task.weight
        )
        if metrics is None and weighted_metrics is None:
            weighted_metrics = {name: task.metrics() for name, task in self._tasks.items()}
        for given in (metrics, weighted_metrics):
            if isinstance(given, dict):
                checks.check_log_keys(given)
        weighting = joint_loss.make_weighting(self, task_weighting, loss, loss_weights)
        _keras_compat.untrack(self, self.task_weighting)
        self.task_weighting = weighting
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            jit_compile=jit_compile,
            **kwargs,
        )
        # The config, for Keras would track and save the template as a layer of the model.
        self._own_compile_config = {
            "task_weighting": keras.saving.serialize_keras_object(task_weighting),
            # As given: the model may be loaded on another backend.
            "jit_compile": given_jit_compile,
        }
        _keras_compat.set_loss_tracker(self, StepMean(name="loss"))

    # Only TensorFlow has one, and its trainer asks for it whenever it trains or evaluates.
    @property
    def distribute_strategy(self):
        """The strategy of TensorFlow under which the model was made."""
        return for_keras(super().distribute_strategy)

    @property
    def callbacks_of_fit(self) -> tuple[keras.callbacks.Callback, ...]:
        """The callbacks of the `fit` that runs, in the order in which it calls them."""
        return () if self._watch is None else tuple(self._watch.callbacks)

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**config, **self._own_compile_config} if config else config

    # Keras calls `compile` only where it is not overridden.
    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    # Keras clips the gradients of each replica, and knows nothing of gradients of single tasks.
    def train_step(self, *args):
        self._note_shapes(self._train_guard, args[-1])
        step = super().train_step
        if self.trainable_weights and clips_on_replicas(self.optimizer):
            step = functools.partial(clipped_step, self)
        weighting = self.task_weighting
        with self._quickly_compiled_optimizer():
            return step(*args) if weighting is None else weighting.train_step(self, step, *args)

    def _quickly_compiled_optimizer(self):
        # One vector of weights that are laid out over devices would gather them.
        if self.trainable_weights and under_xla() and keras.distribution.distribution() is None:
            return _keras_compat.one_global_norm(self.optimizer)
        return contextlib.nullcontext()

    # Counts programs, as `train_step` does.
    def test_step(self, *args):
        self._note_shapes(self._test_guard, args[-1])
        return super().test_step(*args)

    # Drops updates of variables: the experts would count the tokens for the metrics of training.
    def predict_step(self, *args):
        if keras.backend.backend() == "jax":
            return super().predict_step(*args)
        with keras.StatelessScope():
            return super().predict_step(*args)

    def _note_shapes(self, guard, batch):
        # JAX calls a step only to compile it, unless it runs eagerly.
        compiles = keras.backend.backend() == "jax" and self.jit_compile and not self.run_eagerly
        if guard is not None and compiles:
            guard.meet(batch)

    # Lets `task_weighting` choose the factors, and names a task whose targets do not fit.
    def compute_loss(
        self, x=None, y: Any = None, y_pred: Any = None, sample_weight=None, training=True
    ):
        checks.check_targets(self._tasks, y, self._tasks_with_own_loss)
        if self.task_weighting is not None and training:
            losses = joint_loss.task_losses(self, y, y_pred, sample_weight)
            return self.task_weighting.joint_loss(losses) + joint_loss.additional_loss(self)
        if self.task_weighting is not None:
            self.task_weighting.show()
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    # Names the task and key that do not fit, where Keras would name a layer of the graph.
    def __call__(self, inputs, *args, **kwargs):
        checks.check_inputs(self._tasks, inputs)
        return super().__call__(inputs, *args, **kwargs)

    # Checks the data, makes variables before the first step, and tells when an epoch ends.
    def fit(self, x: Any = None, y: dict | None = None, *args, **kwargs):
        """Trains as `keras.Model.fit` does, on data that is checked first.

        The structure of a `tf.data.Dataset` is checked before training, its values as each batch is
        read; arrays are checked as a whole, of a generator or `PyDataset` the first batch.

        Args:
            x: data set of `(x, y)` batches, or a dict of arrays.
            y: dict of arrays, if `x` is one.
            *args: as in `keras.Model.fit`.
            **kwargs: as in `keras.Model.fit`.

        Returns:
            The history.

        Raises:
            ValueError: the data has no batch; a batch lacks a task or has an unknown key; an array
                has the wrong rank or dtype, or holds ids outside the vocabulary.
        """
        refuse_beside_fit(self, "fit")
        arguments = inspect.signature(super().fit).bind(x, y, *args, **kwargs).arguments
        arguments["x"] = checks.check_data(self._tasks, x, y)
        if arguments.get("validation_data") is not None:
            arguments["validation_data"] = checks.check_validation_data(
                self._tasks, arguments["validation_data"]
            )
        self._share_out(arguments)
        if self.compiled:
            self.make_variables()
        if hasattr(x, "element_spec"):
            arguments.setdefault("shuffle", False)  # it has its own order, and Keras would warn
        _infer_modes(self, arguments.get("callbacks"))
        watch = Watch(self.task_weighting)
        with (
            already_shared(),
            self._guarded("fit", arguments),
            checks.value_errors(watch.step),
            watched_by(watch, arguments),
            self._used_by(watch),
        ):
            return super().fit(**arguments)

    def evaluate(self, x: Any = None, y: dict | None = None, *args, **kwargs):
        """Evaluates as `keras.Model.evaluate` does, on data that is checked first.

        Args:
            x: data set of `(x, y)` batches, or a dict of arrays.
            y: dict of arrays, if `x` is one.
            *args: as in `keras.Model.evaluate`.
            **kwargs: as in `keras.Model.evaluate`.

        Returns:
            The loss and metrics.

        Raises:
            ValueError: as for `fit`.
        """
        if _keras_compat.is_validation_of_fit(kwargs):  # `fit` has checked and watches the data
            return super().evaluate(x, y, *args, **kwargs)
        refuse_beside_fit(self, "evaluate")
        arguments = inspect.signature(super().evaluate).bind(x, y, *args, **kwargs).arguments
        arguments.update(arguments.pop("kwargs", {}))
        arguments["x"] = checks.check_data(self._tasks, x, y)
        self._share_out(arguments)
        watch = Watch()
        with (
            already_shared(),
            self._guarded("evaluate", arguments),
            checks.value_errors(),
            watched_by(watch, arguments),
            self._used_by(self._watch or watch),
        ):
            return super().evaluate(**arguments)

    def predict(self, x: Any, *args, **kwargs):
        """Returns the logits by task, as `keras.Model.predict` does, of data that is checked first.

        Args:
            x: data set of batches, or a dict of arrays.
            *args: as in `keras.Model.predict`.
            **kwargs: as in `keras.Model.predict`.

        Returns:
            Dict from task names to arrays.

        Raises:
            ValueError: the inputs do not fit, as for `fit`.
        """
        if keras.backend.backend() == "jax":
            refuse_beside_fit(self, "predict")
        with checks.value_errors():
            return super().predict(checks.check_predict_data(self._tasks, x), *args, **kwargs)

    def _share_out(self, arguments):
        """Fits the rows of data sets, among the arguments, to the devices and workers of JAX."""
        for name in {"x", _VALIDATION} & {*arguments}:
            # A loss of the user may not know what a gap is.
            arguments[name] = for_devices(arguments[name], pad=not self._tasks_with_own_loss)

    @contextlib.contextmanager
    def _guarded(self, method, arguments):
        """Has the data of `fit` or `evaluate`, among its arguments, watched for many shapes."""
        # TensorFlow compiles for each shape out of Python's sight.
        unseen = keras.backend.backend() == "tensorflow" and self.jit_compile
        guards = {name: CompileGuard(method, arguments.get(name)) for name in ("x", _VALIDATION)}
        for name, guard in guards.items():
            if unseen and hasattr(arguments.get(name), "as_numpy_iterator"):
                arguments[name] = guard.watch(arguments[name])
        before = self._train_guard, self._test_guard  # of a `fit` whose callback evaluates
        self._train_guard = guards["x"]
        self._test_guard = guards["x" if method == "evaluate" else _VALIDATION]
        try:
            yield
        finally:
            self._train_guard, self._test_guard = before

    @contextlib.contextmanager
    def _used_by(self, watch):
        """Has callbacks know of each other, and release what they hold, however training ends."""
        before, self._watch = self._watch, watch
        try:
            yield
        except FloatingPointError:
            for callback in watch.callbacks if before is None else ():
                if hasattr(callback, "diverged"):
                    callback.diverged()
            raise
        finally:
            self._watch = before
            for callback in watch.callbacks if before is None else ():
                if hasattr(callback, "release"):
                    callback.release()

    def make_variables(self) -> None:
        """Makes the variables of a compiled model's optimizer, losses and metrics.

        Left to the first step, they would have TensorFlow trace that step twice.
        """
        nets = {name: self._tasks[name].targets for name in self.output}
        y = {
            name: ops.zeros([1, *(size or 1 for size in net.example_shape)], net.example_dtype)
            for name, net in nets.items()
        }
        y_pred = {
            name: ops.zeros([size or 1 for size in x.shape]) for name, x in self.output.items()
        }
        regularized = [w for w in self.trainable_weights if w.regularizer]
        with joint_loss.strategy_scope(self):
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            values = [(w, ops.convert_to_tensor(w)) for w in regularized]
            # Variables made in this scope stay; updates of metrics, and losses, are dropped.
            with keras.StatelessScope(state_mapping=values):
                self.compute_loss(x=None, y=y, y_pred=y_pred, training=False)
                self.compute_metrics(x=None, y=y, y_pred=y_pred)


def _infer_modes(model, callbacks):
    """Tells callbacks with `mode="auto"` whether a task's metric is better up or down.

    Keras knows metrics by their names without that of the task, and raises an error otherwise.
    """
    given = getattr(callbacks, "callbacks", callbacks)
    for callback in [] if given is None else keras.tree.flatten(given):
        if getattr(callback, "mode", None) == "auto":
            direction = direction_of(model, str(callback.monitor))
            callback.mode = {"up": "max", "down": "min", None: "auto"}[direction]


def direction_of(model: keras.Model, key: str) -> str | None:
    """Returns `"up"` or `"down"`, whichever is better, for a key of a compiled model's logs.

    Keras' callbacks ask metrics too, but find none for a key that begins with an output's name.

    Args:
        model: the model.
        key: such as `"val_loss"` or `"val_en_de_log_perplexity"`.

    Returns:
        The direction; None where it is not known.
    """
    name = key.removeprefix("val_")
    if name == "loss" or name.endswith("_loss"):
        return "down"
    # Those that `compile` was given are within one that stands for all.
    metrics = [metric for group in model.metrics for metric in getattr(group, "metrics", [group])]
    fits = [m for m in metrics if name == m.name or name.endswith(f"_{m.name}")]
    # `topic_top_5_accuracy` ends in the names of two metrics, of which the longer one is meant.
    best = max(fits, key=lambda metric: len(metric.name), default=None)
    return None if best is None else _keras_compat.direction(best)
