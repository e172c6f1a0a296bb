"""Every private name of Keras that the package needs, each with the reason.

No other file touches an attribute of Keras that begins with an underscore. A test of each name
fails with a sentence that says so if a release of Keras changes it; `pyproject.toml` caps `keras`
at the releases that passed.
"""

import contextlib
import functools
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_multimodel.ops.replicas import replica_id


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all layers within it, each once.

    `keras.Model.layers` is public but lists the top level of models only, not what a layer holds.
    """
    return layer._flatten_layers()


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Sets the epoch that a `fit` which has begun starts with; None for that of its argument.

    `keras.callbacks.BackupAndRestore` does the same; callbacks have no public way.
    """
    model._initial_epoch = epoch


def clip_gradients(optimizer: keras.optimizers.Optimizer, gradients: list) -> list:
    """Returns gradients clipped as an optimizer does before it applies them.

    `clipnorm`, `global_clipnorm` and `clipvalue` are public, the function that obeys them is not.
    Clipping written anew differs in the last bits, of which Adam makes much.
    """
    return optimizer._clip_gradients(gradients)


@contextlib.contextmanager
def one_global_norm(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Has an optimizer take the norm for `global_clipnorm` over one vector of all gradients.

    Keras sums the squares of each gradient on its own, and XLA compiles a kernel for each sum: with
    165 weights, Adam took 17 s to compile on TensorFlow, and 7 s with one sum. The limit is
    public, the function that obeys it is not.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not inner.global_clipnorm:
        yield
        return
    inner._clip_gradients = functools.partial(_clip_by_one_norm, inner.global_clipnorm)
    try:
        yield
    finally:
        del inner._clip_gradients  # the instance's; the method of the class is back


def _clip_by_one_norm(limit, gradients):
    parts = [ops.reshape(ops.cast(g, "float32"), (-1,)) for g in gradients if g is not None]
    norm = ops.sqrt(ops.sum(ops.square(ops.concatenate(parts))))
    # As in Keras: a norm that is not finite makes the gradients NaN.
    scale = limit * ops.minimum(1.0 / norm, 1.0 / limit) + (norm - norm)
    return [g if g is None else g * ops.cast(scale, g.dtype) for g in gradients]


def untrack(owner: keras.layers.Layer, layer: keras.layers.Layer | None) -> None:
    """Makes a layer forget a sublayer, which a new one is about to replace.

    Assigning another value to the attribute keeps the old sublayer, and its weights, in the lists.
    """
    if layer is not None:
        owner._tracker.untrack(layer)


def is_validation_of_fit(arguments: dict[str, Any]) -> bool:
    """Returns whether `evaluate` got these arguments from `fit`, which has made the data set."""
    return bool(arguments.get("_use_cached_eval_dataset"))


def loss_tracker(model: keras.Model) -> keras.metrics.Metric:
    """Returns the metric that the logs show as `loss`.

    `metrics` is public, but lists it in a place that changes with the other metrics.
    """
    return model._loss_tracker


def set_loss_tracker(model: keras.Model, metric: keras.metrics.Metric) -> None:
    """Replaces the metric that the logs show as `loss`.

    Keras weighs a step by the number of examples of one input, which may be none where a step
    trains another task.
    """
    model._loss_tracker = metric
    # Keras lists it anyway. Tracked, those of earlier calls of `compile` would stay in the lists.
    model._tracker.untrack(metric)


def set_direction(metric: keras.metrics.Metric, direction: str) -> None:
    """Says whether a metric is better when it goes `"up"` or `"down"`.

    Callbacks with `mode="auto"` read the attribute; metrics of one's own have no public way.
    """
    metric._direction = direction


def direction(metric: keras.metrics.Metric) -> str | None:
    """Returns what `set_direction` was given, here or by Keras; None where it is not known."""
    return getattr(metric, "_direction", None)


def task_losses(model: keras.Model, y: dict, y_pred: dict) -> list[tuple]:
    """Returns `(task, loss function, tracker)` for every task with a loss.

    `compute_loss` is public but returns the sum. The tracker is the metric `<task>_loss` of the
    logs, None if the model has a single loss.

    Args:
        model: a compiled model whose outputs are a dict.
        y: targets by task.
        y_pred: logits by task.
    """
    # `_flat_losses` and `metrics` are in the same order, and exist once the loss is built.
    compiled = model._compile_loss
    if not compiled.built:
        compiled.build(y, y_pred)
    # A single loss has no tracker of its own: `loss` already shows it.
    trackers = compiled.metrics or [None]
    return [
        (path[0], loss, tracker)
        for (path, loss, _, _), tracker in zip(compiled._flat_losses, trackers)
    ]


class _PerThread:
    """Stands for a list or a set of which every thread has its own."""

    def __init__(self, kind: type):
        self._kind = kind
        self._local = threading.local()

    def _own(self):
        if not hasattr(self._local, "own"):
            self._local.own = self._kind()
        return self._local.own

    def __getattr__(self, name):
        if name.startswith("__"):  # copies and pickles ask for these before `_kind` is there
            raise AttributeError(name)
        return getattr(self._own(), name)

    def __getitem__(self, key):
        return self._own()[key]

    def __contains__(self, value):
        return value in self._own()

    def __iter__(self):
        return iter(self._own())

    def __len__(self):
        return len(self._own())

    def __reduce__(self):
        return _PerThread, (self._kind,)


def keep_losses_per_thread(layer: keras.layers.Layer) -> None:
    """Gives a layer, and all layers within it, lists of losses of which each thread has its own.

    A layer keeps what `add_loss` got in a list until a model calls it again. With one list for all
    threads, a `generate` that is traced in one thread empties the list of a training step that is
    traced in another, whose program then lacks the loss for good.
    """
    for each in all_layers(layer):
        # Past `__setattr__`, which would track them.
        for name, kind in (("_losses", list), ("_loss_ids", set)):
            if not isinstance(each.__dict__[name], _PerThread):
                each.__dict__[name] = _PerThread(kind)


class OwnReplicaLosses(keras.layers.Layer):
    """A layer that sums over replicas and adds a loss.

    `MirroredStrategy` traces its replicas in turns, and changes turns where they sum over the
    batch. The losses of several replicas are then in the layer's list at once, and `losses` has to
    leave out those of the others.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._replica_of_loss = {}
        keep_losses_per_thread(self)

    def add_loss(self, loss):
        # Keras has dropped the losses of the last call, and their ids may come again.
        if not super()._get_own_losses():
            self._replica_of_loss.clear()
        self._replica_of_loss[id(loss)] = replica_id()
        super().add_loss(loss)

    def _get_own_losses(self):
        here = replica_id()
        losses = super()._get_own_losses()
        # A loss of unknown origin counts as the own one.
        return [loss for loss in losses if self._replica_of_loss.get(id(loss), here) == here]


class _Copy:
    """What `_run_through_graph` of a `BuiltBeforeData` returns to `keras.models.clone_model`."""

    def __init__(self, source, clone):
        self.source = source
        self.arguments = source.clone_arguments(clone)


def clonable(init: Callable) -> Callable:
    """Decorates the `__init__` of a functional model so that `clone_model` makes its own class.

    `keras.models.clone_model` calls a class with its input and output tensors if the signature of
    its `__init__` is `(*args, **kwargs)`, and makes a plain `keras.Model` otherwise. It looks for
    no other way, such as `from_config`.
    """

    @functools.wraps(init)
    def wrapper(self, *args, **kwargs):
        # `clone_model` passes the new input tensors, and what `_run_through_graph` returned.
        if len(args) == 2 and isinstance(args[1], _Copy):
            init(self, **args[1].arguments, **kwargs)
            args[1].source.finish_clone(self)
        else:
            init(self, *args, **kwargs)

    return wrapper


class BuiltBeforeData(keras.Model):
    """A functional model with hooks where Keras has private methods.

    `make_variables`: Keras would read a batch of the data set to make the variables of metrics and
    losses. Reading moves the position of a mixture, and on replicas Keras takes the mean of their
    batches, which fails where these differ in shape.

    `clone_arguments` and `finish_clone`: see `clonable`.
    """

    _batches: weakref.ref | None = None

    def make_variables(self) -> None:
        """Makes the variables of optimizer, losses and metrics that do not exist yet.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError

    def clone_arguments(self, clone: Callable) -> dict[str, Any]:
        """Returns the arguments of a copy of this model.

        Args:
            clone: function from a layer to its copy.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError

    def finish_clone(self, clone: "BuiltBeforeData") -> None:
        """Gives a copy of this model what its arguments do not tell."""

    def _symbolic_build(self, iterator=None, data_batch=None):
        self._keep(iterator)
        self.make_variables()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # TensorFlow's trainer calls this one. Without a strategy it makes variables while tracing.
        self._keep(iterator)
        if self._distribute_strategy is not None:
            self.make_variables()

    def _keep(self, iterator):
        # Weakly: what `fit` has in hand while it runs must not keep a data set alive afterwards.
        self._batches = None if iterator is None else weakref.ref(iterator)

    def _run_through_graph(self, inputs, *args, **kwargs):
        # A call of the model comes here too: only `clone_model` wants copies of the layers.
        clone = kwargs.get("operation_fn")
        if clone is not None and clone.__module__.endswith(".cloning") and not kwargs["call_fn"]:
            return _Copy(self, clone)
        return super()._run_through_graph(inputs, *args, **kwargs)


def has_value(variable: keras.Variable) -> bool:
    """Returns whether a variable can be read now.

    The trainer of JAX takes the values of a model's variables away while it compiles a step.
    """
    return getattr(variable, "_value", None) is not None


def last_output(layer: keras.layers.Layer) -> Any:
    """Returns the symbolic outputs of a layer's last call in a functional graph.

    `layer.output` is public, and has those of the first call.
    """
    return layer._inbound_nodes[-1].output_tensors


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers that a layer holds itself, without those within them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def own_trainable(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the weights of a layer itself that training may change, frozen ones included.

    `trainable_weights` is public, has those of the layers within, and no frozen ones.
    """
    return list(layer._trainable_variables)


@contextlib.contextmanager
def open_to_sublayers(layer: keras.layers.Layer) -> Iterator[None]:
    """Lets a built layer get more sublayers and weights, as `enable_lora` of Keras' layers does.

    Keras locks a layer once it is built.
    """
    was_locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if was_locked:
            layer._tracker.lock()


def batches_of_fit(model: keras.Model) -> Any:
    """Returns what counts the steps of a `fit` that has begun, or None.

    To be called in `on_train_begin`: a later `evaluate` has batches of its own.

    Args:
        model: the model; None is returned for one that is not a `BuiltBeforeData`.
    """
    kept = model._batches if isinstance(model, BuiltBeforeData) else None
    return None if kept is None else kept()


def expect_steps(batches: Any, steps: int) -> None:
    """Sets how many steps the next epoch of a `fit` has.

    Keras asks a data set for its size once in a `fit`. An epoch that resumes has the rest of its
    steps only: Keras would run out of data there, which ends the epoch too, but with a warning. The
    flag `stop_training`, the only public way to end an epoch, says that all training ends.

    Args:
        batches: what `batches_of_fit` returned; nothing happens if it is None.
        steps: the number of steps.
    """
    if batches is not None:
        # Keras reads `steps_per_epoch` first, where `fit` got it as an argument.
        batches._num_batches = steps
        if batches.steps_per_epoch:
            batches.steps_per_epoch = steps


def loaded_file() -> zipfile.ZipFile | str | None:
    """Returns what `keras.models.load_model` is reading.

    Keras passes the config alone to `from_config`, before it looks at the weights. So the functions
    that read are looked for among the callers, by their names and those of their variables.

    Returns:
        The open archive, or the path of the folder; None outside of `load_model`, and in that of an
        old `.h5` file.
    """
    variables = {"_load_model_from_fileobj": "zf", "_load_model_from_dir": "dirpath"}
    frame = sys._getframe(1)
    while frame is not None:
        variable = variables.get(frame.f_code.co_name)
        if variable in frame.f_locals:
            return frame.f_locals[variable]
        frame = frame.f_back
    return None
