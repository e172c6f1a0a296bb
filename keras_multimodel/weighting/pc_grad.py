"""Gradients without the parts that work against other tasks."""

from types import SimpleNamespace

import keras
from keras import ops

from keras_multimodel.weighting.gradient_step import check_backend, gradient_step
from keras_multimodel.weighting.task_weighting import TaskWeighting


@keras.saving.register_keras_serializable(package="keras_multimodel")
class PCGrad(TaskWeighting):
    """Projects the gradient of each task onto the normal planes of those that it conflicts with.

    For each task the others are visited in random order; where the dot product of its gradient, as
    projected so far, and the other's is negative, the part along the other is taken out. The sum of
    what remains, each times `Task.weight`, is the gradient of the step. It is a sum of the tasks'
    own gradients with other factors, and these are what the logs show. As in the authors' code,
    gradients are those of all trainable weights together. A task without rows has a gradient of
    0, which conflicts with none.

    A step costs a backward pass more for every task.

    Args:
        seed: of the order of visits; by default a new one.
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    model.compile("adam", task_weighting=keras_multimodel.weighting.PCGrad())
    ```

    Raises:
        ValueError: at `compile`, the backend is not TensorFlow.

    Reference:
        Yu et al. 2020, arXiv 2001.06782, algorithm 1.
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, weights):
        super().build(weights)
        # Keras saves a layer's variables, not those of its generators: in a namespace it is hidden.
        self._random = SimpleNamespace(generator=keras.random.SeedGenerator(self.seed))
        self.random_state = self._random.generator.state

    def check_model(self, model):
        check_backend(self)

    def gradient_factors(self, losses, products):
        """Returns the factors of a step.

        Args:
            losses: float32 `(K,)`, the losses of the global batch.
            products: float32 `(K, K)`, dot products of the gradients of the losses.

        Returns:
            float32 `(K,)`, `Task.weight` included.
        """
        size = len(self.task_names)
        order = ops.argsort(keras.random.uniform((size, size), seed=self._random.generator), axis=1)
        return ops.matmul(self.task_weights, project(products, order))

    def train_step(self, model, step, *args):
        return gradient_step(model, model.trainable_weights, *args)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def project(products, order):
    """Projects K gradients, known by their dot products alone.

    Args:
        products: float32 `(K, K)`, dot products of the gradients.
        order: integers `(K, K)`; row i is the order in which gradient i visits all of them; itself
            it passes by.

    Returns:
        float32 `(K, K)`; row i has the coefficients of the gradients whose sum is gradient i,
        projected.
    """
    size = products.shape[0]
    identity = ops.eye(size)
    squares = ops.diagonal(products)
    result = identity
    for visit in range(size):
        other = ops.one_hot(order[:, visit], size)
        along = ops.sum(ops.matmul(result, products) * other, axis=1)
        shift = ops.divide_no_nan(along, ops.sum(other * squares, axis=1))
        is_other = 1.0 - ops.sum(other * identity, axis=1)
        conflicts = along * is_other < 0
        result = result - ops.where(conflicts, shift, 0.0)[:, None] * other
    return result
