"""Gradients without the parts that conflict with other tasks."""

from collections.abc import Callable

import keras
from keras import ops

from keras_multimodel.typing import Tensor
from keras_multimodel.weighting.gradient_step import check_backend, gradient_step
from keras_multimodel.weighting.task_weighting import TaskWeighting


@keras.saving.register_keras_serializable(package="keras_multimodel")
class PCGrad(TaskWeighting):
    """Projects each task's gradient onto the normal planes of the gradients it conflicts with.

    Each task's gradient visits the others in random order. Where its dot product, as projected so
    far, with the other is negative, the part along the other is removed. The sum of the results,
    each times `Task.weight`, is the gradient of the step. It equals a weighted sum of the tasks'
    own gradients; the logs show these weights. As in the authors' code, a gradient is that of all
    trainable weights together. A task without rows has a gradient of 0, which conflicts with none.

    For each task, a step adds a backward pass.

    Args:
        seed: seed of the order of visits; by default a new one.
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    labels = kmm.layers.CategoryModality(3, hidden_dim=32)
    tasks = [kmm.Task("topic", text, labels), kmm.Task("mood", text, labels)]
    model = kmm.MultiModel(tasks, hidden_dim=32, moe=None)
    model.compile("adam", task_weighting=kmm.weighting.PCGrad())
    ```

    Raises:
        ValueError: in `compile`, the backend is not TensorFlow.

    Reference:
        Yu et al. 2020, arXiv 2001.06782, algorithm 1.
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, weights: dict[str, float]):
        super().build(weights)
        self.generator = keras.random.SeedGenerator(self.seed)

    # Keras saves a layer's weights without the state of its generators. A model that is loaded must
    # draw the order that it would have drawn next.
    def save_own_variables(self, store: dict):
        for key, variable in enumerate(self.variables):
            store[str(key)] = variable

    def load_own_variables(self, store: dict):
        if store.keys():
            for number, _ in zip(range(len(self.variables)), store.keys(), strict=True):
                self.variables[number].assign(store[str(number)])

    def check_model(self, model: keras.Model):
        check_backend(self)

    def gradient_factors(self, losses: Tensor, products: Tensor):
        """Returns the factors of a step.

        Args:
            losses: float32 `(K,)`, the losses of the global batch.
            products: float32 `(K, K)`, dot products of the gradients of the losses.

        Returns:
            float32 `(K,)`, `Task.weight` included.
        """
        size = len(self.task_names)
        order = ops.argsort(keras.random.uniform((size, size), seed=self.generator), axis=1)
        return ops.matmul(self.task_weights, project(products, order))

    def train_step(self, model: keras.Model, step: Callable, *args):
        return gradient_step(model, model.trainable_weights, *args)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def project(products: Tensor, order: Tensor):
    """Projects K gradients, given their dot products alone.

    Args:
        products: float32 `(K, K)`, dot products of the gradients.
        order: integers `(K, K)`; row i is the order in which gradient i visits all gradients,
            itself included, which has no effect.

    Returns:
        float32 `(K, K)`; row i holds the coefficients of the K gradients whose sum is gradient i,
        projected.
    """
    size = products.shape[0]
    identity = ops.eye(size)
    squares = ops.diagonal(products)
    result = identity
    # K steps for all gradients at once. Each is a sum of the K that came in, so that coefficients
    # and dot products tell all: no gradient of the size of the model is projected.
    for visit in range(size):
        other = ops.one_hot(order[:, visit], size)
        along = ops.sum(ops.matmul(result, products) * other, axis=1)
        shift = ops.divide_no_nan(along, ops.sum(other * squares, axis=1))
        is_other = 1.0 - ops.sum(other * identity, axis=1)
        conflicts = along * is_other < 0
        result = result - ops.where(conflicts, shift, 0.0)[:, None] * other
    return result
