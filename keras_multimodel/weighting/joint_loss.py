"""The parts of a joint loss, and what `compile` needs to make them."""

import contextlib
from collections.abc import Callable

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.ops.replicas import num_replicas
from keras_multimodel.typing import Tensor
from keras_multimodel.weighting.task_weighting import TaskWeighting


def per_task(tasks: dict, argument: str, given: dict | None, default: Callable) -> dict:
    """Completes an argument of `compile` that names some of the tasks.

    Args:
        tasks: task name -> `Task`.
        argument: the name of `given`, for messages.
        given: task name -> value, or None.
        default: function from a task to its value if `given` has none.

    Returns:
        A dict with a value for every task.

    Raises:
        ValueError: `given` is not a dict, or a key is not a task.
    """
    given = {} if given is None else given
    if not isinstance(given, dict) or not set(given) <= set(tasks):
        raise ValueError(
            f"`{argument}` must be a dict with keys among {list(tasks)}. "
            f"Received: {argument}={given!r}"
        )
    return {name: given[name] if name in given else default(task) for name, task in tasks.items()}


def make_weighting(
    model: keras.Model, template: TaskWeighting | None, losses: dict, weights: dict
) -> TaskWeighting | None:
    """Clones the template of a method for the tasks of a model.

    Args:
        model: the model, not yet compiled.
        template: the method, or None.
        losses: task name -> loss; a task whose loss is None is not weighed.
        weights: task name -> `Task.weight`.

    Returns:
        The clone with its state, or None.

    Raises:
        ValueError: `template` is neither; a weight is not a number, is negative, or all are 0; or
            the method does not fit the model.
    """
    if template is None:
        return None
    if not isinstance(template, TaskWeighting):
        raise ValueError(
            "`task_weighting` must be an instance such as kmm.weighting.Uncertainty(), "
            f"or None. Received: task_weighting={template!r}"
        )
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(
                "`loss_weights` must hold numbers that are not negative if `task_weighting` is "
                f"given. Received: loss_weights[{name!r}]={weight!r}"
            )
    # A factor of 0 stays 0 whatever a method learns, so that it would learn from nothing.
    names = [name for name, loss in losses.items() if loss is not None and weights[name] > 0]
    weighed = {name: float(weights[name]) for name in names}
    if not weighed:
        raise ValueError(
            "`loss_weights` must be positive for at least one task that has a loss if "
            f"`task_weighting` is given. Received: loss_weights={weights}"
        )
    # A clone, since one template may serve several models, each with a state of its own.
    weighting = type(template).from_config(template.get_config())
    weighting.check_model(model)
    with strategy_scope(model):
        weighting.build(weighed)
    return weighting


def strategy_scope(model: keras.Model):
    """Returns a context that creates variables on every device that the model is on."""
    strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow alone
    return strategy.scope() if strategy else contextlib.nullcontext()


def task_losses(
    model: keras.Model, y: dict, y_pred: dict, sample_weight: Tensor | dict | None = None
) -> dict:
    """Computes the losses of a compiled model one by one.

    Updates Keras' own trackers of them, `<task>_loss` in the logs, as `compute_loss` does.

    Args:
        model: the model.
        y: targets by task.
        y_pred: logits by task.
        sample_weight: one for all tasks, or a dict of them, or None.

    Returns:
        task name -> float32 scalar, not weighted: this replica's part of the loss.
    """
    losses = {}
    for name, loss, tracker in _keras_compat.task_losses(model, y, y_pred):
        weight = sample_weight[name] if isinstance(sample_weight, dict) else sample_weight
        value = ops.cast(loss(y[name], y_pred[name], weight), "float32")
        if tracker is not None:
            # The shares of replicas add up, and the tracker takes their mean.
            rows = y_pred[name].shape[0]
            tracker.update_state(ops.stop_gradient(value) * num_replicas(), sample_weight=rows)
        losses[name] = value
    return losses


def additional_loss(model: keras.Model):
    """Returns the sum of what layers added: regularizers, and `add_loss` of the experts."""
    # The optimizer sums the gradients of replicas, each of which holds all regularizers.
    losses = [ops.cast(ops.sum(loss), "float32") / num_replicas() for loss in model.losses]
    return ops.sum(ops.stack(losses)) if losses else ops.zeros(())
