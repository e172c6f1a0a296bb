"""Task weights that balance the norms of gradients."""

from collections.abc import Callable

import keras
from keras import ops

from keras_multimodel.argument_checks import not_negative, positive
from keras_multimodel.typing import Tensor
from keras_multimodel.weighting.gradient_step import check_backend, gradient_step
from keras_multimodel.weighting.task_weighting import TaskWeighting, is_active


@keras.saving.register_keras_serializable(package="keras_multimodel")
class GradNorm(TaskWeighting):
    """Balances the norms of the tasks' gradients with weights `w`; tasks that lag get larger ones.

    `G_k = w_k * |gradient of L_k|` is taken on the last encoder block, which all tasks share. Its
    target is `mean(G) * (r_k / mean(r)) ** alpha`, where `r_k = L_k / L_k(0)` is the loss relative
    to the task's first one. Each step moves `w` down the gradient of `sum_k |G_k - target_k|` with
    constant targets (equation 2), then scales `w` back to its sum. A task whose loss is 0 in a step
    keeps its `w`, and the others keep their sum. The factor of a loss is `Task.weight * w_k`.

    For each task, a step adds a part of a backward pass: from its loss to that block.

    Args:
        alpha: how strongly to favor tasks that lag; 0 makes all norms equal.
        learning_rate: step size of `w`.
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    labels = kmm.layers.CategoryModality(3, hidden_dim=32)
    tasks = [kmm.Task("topic", text, labels), kmm.Task("mood", text, labels)]
    model = kmm.MultiModel(tasks, hidden_dim=32, moe=None)
    model.compile("adam", task_weighting=kmm.weighting.GradNorm(alpha=1.5))
    ```

    Raises:
        ValueError: `alpha` is negative or `learning_rate` is not positive; in `compile`, the
            backend is not TensorFlow, or the encoder has no trainable weights.

    Reference:
        Chen et al. 2018, arXiv 1711.02257, algorithm 1.
    """

    SMALLEST = 1e-3  # a weight of 0 would have no gradient, and never grow again

    def __init__(self, alpha: float = 1.5, learning_rate: float = 0.025, **kwargs):
        super().__init__(**kwargs)
        self.alpha = not_negative("alpha", alpha)
        self.learning_rate = positive("learning_rate", learning_rate)

    def build(self, weights: dict[str, float]):
        super().build(weights)
        self.loss_weights = self._add_state("loss_weights", "ones")
        self.first_losses = self._add_state("first_losses")  # 0 where there is none

    def check_model(self, model: keras.Model):
        check_backend(self)
        if not self.measured_weights(model):
            raise ValueError(
                "`task_weighting` must be another than GradNorm: the encoder has no trainable "
                "weights, and no other weights are sure to be shared by all tasks. "
                f"Received: task_weighting={self.name}"
            )

    @staticmethod
    def measured_weights(model: keras.Model) -> list:
        """Returns the weights that the norms refer to: those of the last encoder block."""
        encoder = model.body.encoder
        layers = [*encoder.blocks[::-1], encoder.experts]
        trainable = [layer.trainable_weights for layer in layers if layer is not None]
        return next((weights for weights in trainable if weights), [])

    def factors(self, losses: Tensor):
        return ops.multiply(self.task_weights, self.loss_weights)

    def gradient_factors(self, losses: Tensor, products: Tensor):
        """Returns the factors of a step, and moves `w` for the next one.

        Args:
            losses: float32 `(K,)`, the losses of the global batch.
            products: float32 `(K, K)`, dot products of the gradients of the losses.

        Returns:
            float32 `(K,)`, `Task.weight` included.
        """
        factors = self.factors(losses)
        slopes = ops.sqrt(ops.diagonal(products))
        active = ops.logical_and(is_active(losses), slopes > 0)
        is_first = ops.logical_and(active, ops.equal(self.first_losses, 0))
        self.first_losses.assign(ops.where(is_first, losses, self.first_losses))
        self.loss_weights.assign(self._moved(losses, slopes, active))
        return factors

    def _moved(self, losses, slopes, active):
        """Returns `w` after a step, given the norms of the gradients without `w`."""
        counted = ops.cast(active, "float32")
        share = counted / ops.maximum(ops.sum(counted), 1.0)  # a mean over active tasks
        norms = self.loss_weights * slopes
        rates = ops.maximum(ops.divide_no_nan(losses, self.first_losses), 0.0)
        rates = ops.where(active, rates, 0.0)
        relative = ops.divide_no_nan(rates, ops.sum(rates * share))
        targets = ops.sum(norms * share) * relative**self.alpha
        # |G - target| has the slope sign(G - target) times dG/dw, the norm without `w`.
        moved = self.loss_weights - self.learning_rate * ops.sign(norms - targets) * slopes
        moved = ops.maximum(moved, self.SMALLEST)
        scale = ops.divide_no_nan(ops.sum(self.loss_weights * share), ops.sum(moved * share))
        return ops.where(active, moved * scale, self.loss_weights)

    def train_step(self, model: keras.Model, step: Callable, *args):
        return gradient_step(model, self.measured_weights(model), *args)

    def get_config(self):
        own = {"alpha": self.alpha, "learning_rate": self.learning_rate}
        return {**super().get_config(), **own}
