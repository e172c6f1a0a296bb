"""Task weights from how fast each loss falls."""

import keras
from keras import ops

from keras_multimodel.argument_checks import positive
from keras_multimodel.typing import Tensor
from keras_multimodel.weighting.task_weighting import TaskWeighting, is_active


@keras.saving.register_keras_serializable(package="keras_multimodel")
class DWA(TaskWeighting):
    """Dynamic weight average: a task whose loss falls more slowly than others weighs more.

    In epoch t the factors are `weight_k * K * softmax(r / temperature)_k`, where `r_k = L_k(t - 1)
    / L_k(t - 2)` is the ratio of the mean losses of the last two epochs in which the task was
    active; `r_k` is 1 until there are two (equation 7 of the paper, without its `lambda`). A mean
    leaves out steps in which the loss is 0.

    `fit` ends an epoch for this method; `evaluate` does not. In a loop of `train_on_batch`, call
    `model.task_weighting.end_epoch()`.

    Args:
        temperature: T; the larger it is, the more even the factors.
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    labels = kmm.layers.CategoryModality(3, hidden_dim=32)
    tasks = [kmm.Task("topic", text, labels), kmm.Task("mood", text, labels)]
    model = kmm.MultiModel(tasks, hidden_dim=32, moe=None)
    model.compile("adam", task_weighting=kmm.weighting.DWA(temperature=2.0))
    ```

    Raises:
        ValueError: `temperature` is not positive.

    Reference:
        Liu et al. 2019, arXiv 1803.10704, section 3.3.
    """

    def __init__(self, temperature: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = positive("temperature", temperature)

    def build(self, weights: dict[str, float]):
        super().build(weights)
        self.loss_sums = self._add_state("loss_sums")
        self.loss_counts = self._add_state("loss_counts")
        self.last_means = self._add_state("last_means")  # 0 where there is none
        self.means_before = self._add_state("means_before")

    def factors(self, losses: Tensor):
        active = is_active(losses)
        self.loss_sums.assign(self.loss_sums + ops.where(active, losses, 0.0))
        self.loss_counts.assign(self.loss_counts + ops.cast(active, "float32"))
        last, before = map(ops.convert_to_tensor, (self.last_means, self.means_before))
        known = ops.not_equal(before, 0)
        # The inner `where` keeps a division by 0 out, whose NaN some backends let through.
        ratios = ops.where(known, last / ops.where(known, before, 1.0), 1.0)
        shares = ops.softmax(ratios / self.temperature)
        return ops.multiply(self.task_weights, shares) * len(self.task_names)

    def end_epoch(self):
        state = (self.loss_sums, self.loss_counts, self.last_means, self.means_before)
        sums, counts, last, before = map(ops.convert_to_tensor, state)
        # A second call in a row, or an epoch without a task, must not shift that task's means.
        counted = counts > 0
        means = sums / ops.maximum(counts, 1.0)
        self.means_before.assign(ops.where(counted, last, before))
        self.last_means.assign(ops.where(counted, means, last))
        for variable in (self.loss_sums, self.loss_counts):
            variable.assign(ops.zeros(variable.shape))

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
