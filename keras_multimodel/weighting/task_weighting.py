"""What weighs the losses of the tasks against each other.

Axis legend: K tasks that are weighed.
"""

import keras
import numpy as np
from keras import ops

from keras_multimodel.ops.replicas import num_replicas, replica_sum


@keras.saving.register_keras_serializable(package="keras_multimodel")
class TaskWeighting(keras.layers.Layer):
    """Chooses the factor of every task's loss in the joint loss; as it stands, `Task.weight`.

    An instance is a template: `MultiModel.compile` clones it from its config, and keeps the clone
    as `model.task_weighting`. Its state is saved with the model. The logs show the factors as
    `<task>_weight`: their mean over the steps of `fit`, those of the last step in `evaluate`.

    A subclass overrides `factors`, and `penalty` if it learns; one that needs the gradients of
    single tasks overrides `train_step`. A task of weight 0 is not weighed at all. A task whose loss
    is 0 in a step, such as one without rows, has no part in that step.

    Args:
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    model.compile("adam", task_weighting=keras_multimodel.weighting.Uncertainty())
    ```
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def build(self, weights: dict[str, float]):
        """Makes the state.

        Args:
            weights: `Task.weight` of every task that is weighed, all positive.
        """
        self.task_names = tuple(weights)
        self.task_weights = np.array(list(weights.values()), "float32")
        self.last_factors = self._add_state(
            "last_factors", keras.initializers.Constant(self.task_weights)
        )
        self.trackers = [keras.metrics.Mean(name=f"{name}_weight") for name in weights]

    def check_model(self, model: keras.Model) -> None:
        """Raises a ValueError if the method cannot weigh the tasks of `model`."""

    def factors(self, losses):
        """Returns the factors of one step of training.

        Args:
            losses: float32 `(K,)`, the losses of the global batch, without a gradient.

        Returns:
            float32 `(K,)`, `Task.weight` included.
        """
        return ops.convert_to_tensor(self.task_weights)

    def penalty(self, losses):
        """Returns a scalar that is added to the joint loss, given `losses` `(K,)`."""
        return ops.zeros(())

    def end_epoch(self) -> None:
        """Ends an epoch of training. `fit` calls it, a loop of `train_on_batch` has to."""

    def train_step(self, model: keras.Model, step, *args):
        """Returns `step(*args)`, Keras' own step of training, or what stands in its place."""
        return step(*args)

    def stack(self, losses: dict):
        """Returns `(K,)`: this replica's part in the losses, from a dict of scalars."""
        return ops.stack([losses[name] for name in self.task_names])

    def joint_loss(self, losses: dict):
        """Weighs the losses of a step of training.

        Args:
            losses: task name -> scalar, this replica's part in the loss.

        Returns:
            A scalar, this replica's part in the joint loss.
        """
        parts = self.stack(losses)
        whole = whole_losses(parts)
        factors = self.factors(whole)
        self.record(factors)
        return ops.sum(factors * parts) + self.penalty(whole) / num_replicas()

    def record(self, factors) -> None:
        """Keeps the factors `(K,)` of a step, and shows them in the logs."""
        self.last_factors.assign(ops.stop_gradient(factors))
        self.show()

    def show(self) -> None:
        """Shows the factors of the last step in the logs."""
        for index, tracker in enumerate(self.trackers):
            tracker.update_state(self.last_factors[index])

    def load_own_variables(self, store):
        if store.keys():  # else the weights are those of a model that weighed its tasks otherwise
            super().load_own_variables(store)

    def _add_state(self, name, initializer="zeros", trainable=False):
        return self.add_weight(
            shape=self.task_weights.shape,
            name=name,
            initializer=initializer,
            trainable=trainable,
            autocast=False,
            aggregation="none" if trainable else "only_first_replica",
        )


def whole_losses(parts):
    """Returns the losses `(K,)` of the global batch, without a gradient, from a replica's parts."""
    return ops.stop_gradient(replica_sum(parts))


def has_part(losses):
    """Returns boolean `(K,)`: which tasks can be learned from in a step with these losses."""
    return ops.logical_and(ops.not_equal(losses, 0), ops.isfinite(losses))
