"""Task weights from how fast each loss falls."""

import keras
from keras import ops

from keras_multimodel.weighting.task_weighting import TaskWeighting, has_part


@keras.saving.register_keras_serializable(package="keras_multimodel")
class DWA(TaskWeighting):
    """Dynamic weight average: a task whose loss falls slower than others weighs more.

    In epoch t the factors are `weight_k * K * softmax(r / temperature)_k`, with `r_k = L_k(t - 1) /
    L_k(t - 2)` from the means of the loss over the last two epochs in which the task had a part;
    `r_k` is 1 until there are two (equation 7 of the paper, without its `lambda`). Steps in which
    the loss is 0 do not count in a mean.

    `fit` ends an epoch; `evaluate` does not, wherever it is called. A loop of `train_on_batch`
    calls `model.task_weighting.end_epoch()` after each epoch.

    Args:
        temperature: T; the larger, the more even the factors.
        **kwargs: arguments of `keras.layers.Layer`.

    Example:

    ```python
    model.compile("adam", task_weighting=keras_multimodel.weighting.DWA(temperature=2.0))
    ```

    Raises:
        ValueError: `temperature` is not positive.

    Reference:
        Liu et al. 2019, arXiv 1803.10704, section 3.3.
    """

    def __init__(self, temperature: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"`temperature` must be positive and finite. Received: temperature={temperature}"
            )
        self.temperature = temperature

    def build(self, weights):
        super().build(weights)
        self.loss_sums = self._add_state("loss_sums")
        self.loss_counts = self._add_state("loss_counts")
        self.last_means = self._add_state("last_means")  # 0 where there is none
        self.means_before = self._add_state("means_before")

    def factors(self, losses):
        part = has_part(losses)
        self.loss_sums.assign(self.loss_sums + ops.where(part, losses, 0.0))
        self.loss_counts.assign(self.loss_counts + ops.cast(part, "float32"))
        last, before = (ops.convert_to_tensor(v) for v in (self.last_means, self.means_before))
        known = ops.not_equal(before, 0)
        ratios = ops.where(known, last / ops.where(known, before, 1.0), 1.0)
        shares = ops.softmax(ratios / self.temperature)
        return ops.multiply(self.task_weights, shares) * len(self.task_names)

    def end_epoch(self):
        state = (self.loss_sums, self.loss_counts, self.last_means, self.means_before)
        sums, counts, last, before = (ops.convert_to_tensor(variable) for variable in state)
        counted = counts > 0
        means = sums / ops.maximum(counts, 1.0)
        self.means_before.assign(ops.where(counted, last, before))
        self.last_means.assign(ops.where(counted, means, last))
        for variable in (self.loss_sums, self.loss_counts):
            variable.assign(ops.zeros(variable.shape))

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
