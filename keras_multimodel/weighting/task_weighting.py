"""The base of all methods that weigh the losses of the tasks.

Axis legend: K tasks that are weighed.
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_multimodel.ops.replicas import num_replicas, replica_sum
from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TaskWeighting(keras.layers.Layer):
    """Chooses the factor of each task's loss in the joint loss; this base class, `Task.weight`.

    An instance is a template: `MultiModel.compile` clones it from its config, and keeps the clone
    as `model.task_weighting`. Its state is saved with the model. The logs show the factors as
    `<task>_weight`: the mean over the steps of `fit`, or in `evaluate` those of the last step.

    A subclass overrides `factors`, and `penalty` if it learns; one that needs the gradients of
    single tasks overrides `train_step`. A task of weight 0 is not weighed at all. A task whose loss
    is 0 in a step, such as one without rows, is not active in that step.

    Args:
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    labels = kmm.layers.CategoryModality(3, hidden_dim=32)
    tasks = [kmm.Task("topic", text, labels), kmm.Task("mood", text, labels)]
    model = kmm.MultiModel(tasks, hidden_dim=32, moe=None)
    model.compile("adam", task_weighting=kmm.weighting.Uncertainty())
    ```
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def build(self, weights: dict[str, float]):
        """Creates the state.

        Args:
            weights: `Task.weight` of every task that is weighed, all positive.
        """
        self.task_names = tuple(weights)
        # No variable: `Task.weight` never changes.
        self.task_weights = np.array(list(weights.values()), "float32")
        self.last_factors = self._add_state(
            "last_factors", keras.initializers.Constant(self.task_weights)
        )
        self.trackers = [keras.metrics.Mean(name=f"{name}_weight") for name in weights]

    def check_model(self, model: keras.Model) -> None:
        """Raises a ValueError if the method cannot weigh the tasks of `model`."""

    def factors(self, losses: Tensor):
        """Returns the factors of one step of training.

        Args:
            losses: float32 `(K,)`, the losses of the global batch, without a gradient.

        Returns:
            float32 `(K,)`, `Task.weight` included.
        """
        return ops.convert_to_tensor(self.task_weights)

    def penalty(self, losses: Tensor):
        """Returns a scalar to add to the joint loss, given `losses` `(K,)`."""
        return ops.zeros(())

    def end_epoch(self) -> None:
        """Ends an epoch of training; `fit` calls it after the last step of each."""

    def train_step(self, model: keras.Model, step: Callable, *args):
        """Runs `step(*args)`, Keras' own training step, or a replacement; returns the logs."""
        return step(*args)

    def stack(self, losses: dict):
        """Returns `(K,)`: this replica's part of the losses, from a dict of scalars."""
        return ops.stack([losses[name] for name in self.task_names])

    def joint_loss(self, losses: dict):
        """Weighs the losses of a step of training.

        Args:
            losses: task name -> scalar, this replica's part of the loss.

        Returns:
            A scalar, this replica's part of the joint loss.
        """
        parts = self.stack(losses)
        whole = whole_losses(parts)
        factors = self.factors(whole)
        self.record(factors)
        return ops.sum(factors * parts) + self.penalty(whole) / num_replicas()

    def record(self, factors: Tensor) -> None:
        """Stores the factors `(K,)` of a step, and shows them in the logs."""
        self.last_factors.assign(ops.stop_gradient(factors))
        self.show()

    def show(self) -> None:
        """Shows the factors of the last step in the logs."""
        for index, tracker in enumerate(self.trackers):
            tracker.update_state(self.last_factors[index])

    def load_own_variables(self, store: dict):
        # Weights of a model that was compiled without this method have nothing for its state.
        if store.keys():
            super().load_own_variables(store)

    def _add_state(self, name, initializer="zeros", trainable=False):
        return self.add_weight(
            shape=self.task_weights.shape,
            name=name,
            initializer=initializer,
            trainable=trainable,
            autocast=False,
            # All replicas compute the same state, from the losses of the global batch.
            aggregation="none" if trainable else "only_first_replica",
        )


def whole_losses(parts: Tensor):
    """Returns the losses `(K,)` of the global batch, without a gradient, from a replica's parts."""
    return ops.stop_gradient(replica_sum(parts))


def is_active(losses: Tensor):
    """Returns boolean `(K,)`: which tasks have something to learn in a step with these losses."""
    return ops.logical_and(ops.not_equal(losses, 0), ops.isfinite(losses))
