"""Task weights from the uncertainty of each task."""

import keras
from keras import ops

from keras_multimodel.typing import Tensor
from keras_multimodel.weighting.task_weighting import TaskWeighting, is_active


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Uncertainty(TaskWeighting):
    """Learns a variance for each task, and divides the task's loss by it.

    The joint loss is `sum_k weight_k * (exp(-s_k) * L_k + s_k / 2)`, where `s_k = log(sigma_k^2)`
    starts at 0; the model's optimizer trains it with all other weights. This is the paper's form
    for cross-entropy, the default loss of all tasks: logits divided by `sigma^2` (equation 10). Its
    form for squared errors, `exp(-s) * L / 2 + s / 2` (equation 7), is the same with `s` shifted by
    log 2: in both, the best factor for a loss that stays at `L` is `1 / (2 * L)`.

    A task whose loss is 0 in a step adds nothing to it, so that its `s` gets no gradient. `loss` in
    the logs of `fit` is the joint loss, which can be negative.

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

    Reference:
        Kendall et al. 2018, arXiv 1705.07115.
    """

    def build(self, weights: dict[str, float]):
        super().build(weights)
        self.log_variances = self._add_state("log_variances", trainable=True)

    def factors(self, losses: Tensor):
        return ops.multiply(self.task_weights, ops.exp(-self.log_variances))

    def penalty(self, losses: Tensor):
        # Without rows there is no loss to weigh against, and `s` would only fall.
        terms = ops.multiply(self.task_weights, self.log_variances) / 2
        return ops.sum(ops.where(is_active(losses), terms, 0.0))
