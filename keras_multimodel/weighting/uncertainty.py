"""Task weights from the uncertainty of each task."""

import keras
from keras import ops

from keras_multimodel.weighting.task_weighting import TaskWeighting, has_part


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Uncertainty(TaskWeighting):
    """Learns a variance of every task, by which its loss is divided.

    The joint loss is `sum_k weight_k * (exp(-s_k) * L_k + s_k / 2)`, where `s_k = log(sigma_k^2)`
    starts at 0 and is trained by the model's optimizer with all other weights. This is the paper's
    form for cross-entropy, which the default losses of all tasks are: logits divided by `sigma^2`
    (equation 10). Its form for squared errors, `exp(-s) * L / 2 + s / 2` (equation 7), is the same
    with `s` moved by log 2: in both the best factor of a loss that stays at `L` is `1 / (2 * L)`.

    A task whose loss is 0 in a step adds nothing to it, so that its `s` gets no gradient. `loss` in
    the logs of `fit` is the joint loss, which can be negative.

    Args:
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    model.compile("adam", task_weighting=keras_multimodel.weighting.Uncertainty())
    ```

    Reference:
        Kendall et al. 2018, arXiv 1705.07115.
    """

    def build(self, weights):
        super().build(weights)
        self.log_variances = self._add_state("log_variances", trainable=True)

    def factors(self, losses):
        return ops.multiply(self.task_weights, ops.exp(-self.log_variances))

    def penalty(self, losses):
        terms = ops.multiply(self.task_weights, self.log_variances) / 2
        return ops.sum(ops.where(has_part(losses), terms, 0.0))
