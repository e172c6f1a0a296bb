"""Task weights that even out the norms of gradients."""

import keras
from keras import ops

from keras_multimodel.weighting.gradient_step import check_backend, gradient_step
from keras_multimodel.weighting.task_weighting import TaskWeighting, has_part


@keras.saving.register_keras_serializable(package="keras_multimodel")
class GradNorm(TaskWeighting):
    """Moves the weights `w` until the tasks' gradients have like norms, larger where training lags.

    `G_k = w_k * |gradient of L_k|` on the last encoder block, which all tasks share. Its target is
    `mean(G) * (r_k / mean(r)) ** alpha`, with `r_k = L_k / L_k(0)`: the loss as a share of that of
    the task's first step. After each step `w` goes down the gradient of `sum_k |G_k - target_k|`,
    the targets held constant (equation 2), and is scaled back to its sum. A task whose loss is 0 in
    a step keeps its `w`, the others keep their sum. The factor of a loss is `Task.weight * w_k`.

    A step costs a part of a backward pass more for every task: from its loss to that block.

    Args:
        alpha: how strongly tasks that lag are favoured; 0 evens the norms out.
        learning_rate: of `w`.
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    model.compile("adam", task_weighting=keras_multimodel.weighting.GradNorm(alpha=1.5))
    ```

    Raises:
        ValueError: `alpha` is negative or `learning_rate` is not positive; at `compile`, the
            backend is not TensorFlow, or the encoder has no trainable weights.

    Reference:
        Chen et al. 2018, arXiv 1711.02257, algorithm 1.
    """

    SMALLEST = 1e-3  # of `w`, which must stay positive

    def __init__(self, alpha: float = 1.5, learning_rate: float = 0.025, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"`alpha` must be finite, not negative. Received: alpha={alpha}")
        if not 0 < learning_rate < float("inf"):
            raise ValueError(
                "`learning_rate` must be positive and finite. "
                f"Received: learning_rate={learning_rate}"
            )
        self.alpha = alpha
        self.learning_rate = learning_rate

    def build(self, weights):
        super().build(weights)
        self.loss_weights = self._add_state("loss_weights", "ones")
        self.first_losses = self._add_state("first_losses")  # 0 where there is none

    def check_model(self, model):
        check_backend(self)
        if not self.measured_weights(model):
            raise ValueError(
                "`task_weighting` must be another than GradNorm, for the encoder has no trainable "
                "weights, and no others are sure to be shared by all tasks. "
                f"Received: task_weighting={self.name}"
            )

    @staticmethod
    def measured_weights(model: keras.Model) -> list:
        """Returns the weights on which norms are measured: those of the last encoder block."""
        encoder = model.body.encoder
        layers = [*encoder.blocks[::-1], encoder.experts]
        trainable = [layer.trainable_weights for layer in layers if layer is not None]
        return next((weights for weights in trainable if weights), [])

    def factors(self, losses):
        return ops.multiply(self.task_weights, self.loss_weights)

    def gradient_factors(self, losses, products):
        """Returns the factors of a step, and moves `w` for the next one.

        Args:
            losses: float32 `(K,)`, the losses of the global batch.
            products: float32 `(K, K)`, dot products of the gradients of the losses.

        Returns:
            float32 `(K,)`, `Task.weight` included.
        """
        factors = self.factors(losses)
        slopes = ops.sqrt(ops.diagonal(products))
        part = ops.logical_and(has_part(losses), slopes > 0)
        is_first = ops.logical_and(part, ops.equal(self.first_losses, 0))
        self.first_losses.assign(ops.where(is_first, losses, self.first_losses))
        self.loss_weights.assign(self._moved(losses, slopes, part))
        return factors

    def _moved(self, losses, slopes, part):
        share = ops.cast(part, "float32") / ops.maximum(ops.sum(ops.cast(part, "float32")), 1.0)
        norms = self.loss_weights * slopes
        rates = ops.maximum(ops.divide_no_nan(losses, self.first_losses), 0.0)
        rates = ops.where(part, rates, 0.0)
        relative = ops.divide_no_nan(rates, ops.sum(rates * share))
        targets = ops.sum(norms * share) * relative**self.alpha
        moved = self.loss_weights - self.learning_rate * ops.sign(norms - targets) * slopes
        moved = ops.maximum(moved, self.SMALLEST)
        scale = ops.divide_no_nan(ops.sum(self.loss_weights * share), ops.sum(moved * share))
        return ops.where(part, moved * scale, self.loss_weights)

    def train_step(self, model, step, *args):
        return gradient_step(model, self.measured_weights(model), *args)

    def get_config(self):
        own = {"alpha": self.alpha, "learning_rate": self.learning_rate}
        return {**super().get_config(), **own}
