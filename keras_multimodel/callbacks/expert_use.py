"""Which experts each task uses, and which experts die."""

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_multimodel import _keras_compat, user_warnings
from keras_multimodel.argument_checks import positive_int
from keras_multimodel.callbacks.tensorboard import check_log_dir, pixels
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.models.multimodel import MultiModel, check_multimodel
from keras_multimodel.models.task import nets_of_batch
from keras_multimodel.visualization import over_fair_share, plot_expert_use


def expert_use(
    model: MultiModel, data: Iterable | Mapping[str, Iterable], batches: int = 1
) -> dict[str, dict[str, np.ndarray]]:
    """Counts, task by task, the tokens that each expert receives.

    Each task runs through the model alone, in inference; padding does not count. No weight, counter
    or metric of the model changes.

    Args:
        model: a `MultiModel`.
        data: batches `(x, y)` of all tasks, as `kmm.data.mix` makes them, or a dict from tasks to
            batches of each, as `kmm.data.batch` makes them.
        batches: number of batches to read; for a dict, from each of its data sets.

    Returns:
        layer -> task -> int64 `(num_experts,)`. A layer has no key for a task that does not use it,
        such as the decoder's experts for a task whose targets are classes.

    Raises:
        ValueError: `model` is not a `MultiModel` or has no `MoELayer` that counts its tokens,
            `batches` is not a positive integer, or a task has no batch.
    """
    return Meter(model, data, batches).read()


class ExpertUse(keras.callbacks.Callback):
    """Measures which experts each task uses, and warns when experts die.

    Each measurement sends the same batches through the model, task by task; see `expert_use`. Give
    it held-out data with a few hundred tokens per expert: of 1,500 tokens with `top_k=4`, the fair
    share of one of 60 experts is 100.

    With a `log_dir`, TensorBoard shows for each expert layer the image of `plot_expert_use`, the
    smallest share of an expert, and for each task the number of experts that it uses: the
    exponential of the entropy of its choices. `history` holds all measurements: epoch -> layer ->
    task -> `(num_experts,)`, the tokens that each expert received.

    Args:
        data: batches `(x, y)` of all tasks, as `kmm.data.mix` makes them, or a dict from tasks to
            batches of each, as `kmm.data.batch` makes them.
        batches: number of batches to read; for a dict, from each of its data sets.
        every: number of epochs between measurements; the last epoch is always measured.
        log_dir: folder for TensorBoard, or None. Needs the package `tensorboard`, which TensorFlow
            2.17 brings and 2.21 does not.
        threshold: an expert is dying below this part of its fair share of the tokens of all tasks.
        patience: number of measurements in a row that must find an expert dying for a warning.

    Raises:
        ImportError: `log_dir` is given, but the package `tensorboard` is missing.
        ValueError: `batches`, `every` or `patience` is not a positive integer, or `threshold` is
            not between 0 and 1, or no file can be written in `log_dir`. At the start of training:
            the model is not a `MultiModel` or has no `MoELayer` that counts its tokens, or a task
            has no batch.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    labels = kmm.layers.CategoryModality(3, hidden_dim=32)
    task = kmm.Task("topic", text, labels)
    model = kmm.MultiModel([task], hidden_dim=32, moe=kmm.layers.MoELayer(32, num_experts=4))
    model.compile("adam")
    x, y = {"topic": {"inputs": np.ones((8, 5), "int32")}}, {"topic": np.arange(8) % 3}
    use = kmm.callbacks.ExpertUse([(x, y)])  # of held-out batches
    model.fit(x, y, callbacks=[use], verbose=0)
    use.latest["encoder_experts"]["topic"]  # tokens by expert, such as [40, 0, 38, 42]
    ```
    """

    def __init__(
        self,
        data: Iterable | Mapping[str, Iterable],
        batches: int = 1,
        every: int = 1,
        log_dir: str | os.PathLike | None = None,
        threshold: float = 0.01,
        patience: int = 3,
    ):
        super().__init__()
        self.batches = positive_int("batches", batches)
        self.every = positive_int("every", every)
        self.patience = positive_int("patience", patience)
        if not 0 <= threshold <= 1:
            raise ValueError(
                f"`threshold` must be between 0 and 1. Received: threshold={threshold}"
            )
        if log_dir is not None:
            check_log_dir(log_dir)
        self.data = data
        self.log_dir = log_dir
        self.threshold = threshold
        self.history = {}
        self._meter: Any = None
        self._writer: Any = None
        self._epoch: int | None = None
        self._measurements_below = {}

    @property
    def latest(self) -> dict[str, dict[str, np.ndarray]]:
        """The last measurement: layer -> task -> `(num_experts,)`; empty before the first."""
        return self.history[max(self.history)] if self.history else {}

    @property
    def shares(self) -> dict[str, np.ndarray]:
        """Layer -> `(num_experts,)`: the latest tokens of all tasks over the fair share."""
        return {layer: over_fair_share(sum(use.values())) for layer, use in self.latest.items()}

    def on_train_begin(self, logs: dict | None = None):
        self._meter = Meter(self.model, self.data, self.batches)
        self.history, self._epoch, self._measurements_below = {}, None, {}
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        self._epoch = epoch
        if (epoch + 1) % self.every == 0:
            self._measure(epoch)

    def on_train_end(self, logs: dict | None = None):
        if self._epoch is not None and self._epoch not in self.history:
            self._measure(self._epoch)
        if self._writer is not None:
            self._writer.close()
        self._meter = self._writer = None

    def _measure(self, epoch):
        self.history[epoch] = self._meter.read()
        self._warn_of_dying_experts()
        if self._writer is not None:
            self._write(epoch)

    def _warn_of_dying_experts(self):
        for layer, shares in self.shares.items():
            below = self._measurements_below.get(layer, 0)
            below = np.where(shares < self.threshold, below + 1, 0)
            self._measurements_below[layer] = below
            # Equal, so that an expert is named once, in the measurement that completes `patience`.
            dying = np.flatnonzero(below == self.patience).tolist()
            if dying and shares.any():
                user_warnings.warn(
                    f"Of {len(shares)} experts of {layer!r}, these had less than "
                    f"{self.threshold:.2%} of their fair share of the tokens in the last "
                    f"{self.patience} measurements: {dying}. A larger `balance_loss_weight` "
                    "spreads tokens more evenly."
                )

    def _write(self, epoch):
        with self._writer.as_default(step=epoch):
            for layer, by_task in self.latest.items():
                tf.summary.image(f"expert_use/{layer}", pixels(plot_expert_use({layer: by_task})))
                tf.summary.scalar(f"least_share/{layer}", self.shares[layer].min())
                for task, tokens in by_task.items():
                    tf.summary.scalar(f"experts_used/{layer}/{task}", _experts_used(tokens))
        self._writer.flush()


class Meter:
    """Counts tokens by task and expert, on batches that it keeps.

    The model sends several tasks through an expert layer together; here each one passes it alone.
    """

    def __init__(self, model, data, batches):
        positive_int("batches", batches)
        self._layers = _counting_layers(model)
        self._inputs = _inputs_by_task(model, data, batches)
        self._models = {name: model.task_model(name) for name in model.tasks}

    def read(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns layer -> task -> int64 `(num_experts,)`."""
        use = {layer: {} for layer in self._layers}
        for task, model in self._models.items():
            # Not all: a task of classes never passes the experts of the decoder.
            passed = {*map(id, _keras_compat.all_layers(model))}
            layers = {name: x for name, x in self._layers.items() if id(x) in passed}
            counters = {name: layer.expert_tokens for name, layer in layers.items()}
            zeros = [(v, ops.zeros(v.shape, v.dtype)) for v in counters.values()]
            # What the layers count stays in the scope, and never reaches their own counters.
            with keras.StatelessScope(state_mapping=zeros) as scope:
                for inputs in self._inputs[task]:
                    model(inputs, training=False)
            for name, counter in counters.items():
                tokens = ops.convert_to_numpy(scope.get_current_value(counter))
                use[name][task] = tokens.astype("int64")
        return use


def _counting_layers(model) -> dict[str, MoELayer]:
    """Returns the expert layers by their path, with underscores as in the names of metrics."""
    layers = _keras_compat.all_layers(check_multimodel(model))
    layers = [x for x in layers if isinstance(x, MoELayer) and x.count_tokens]
    if not layers:
        raise ValueError(
            "`model` must have a `MoELayer` with `count_tokens=True` to show the use of. "
            f"Received: {model.name!r}, which has none"
        )
    return {layer.path.replace("/", "_"): layer for layer in layers}


def _inputs_by_task(model, data, batches) -> dict[str, list]:
    """Returns task -> the inputs of its batches that have rows, as a model of it takes them."""
    # Read once: each measurement uses the same batches, whatever order the data set has next time.
    found = {name: [] for name in model.tasks}
    sources = data.items() if isinstance(data, Mapping) else [(None, data)]
    for owner, source in sources:
        for x, *_ in itertools.islice(source, batches):
            for name in found.keys() & ({owner} if owner else set(found)):
                # Of its rows, and of the ids that it writes where the rows are those of others.
                keys = nets_of_batch([model.tasks[name]])
                if keys.keys() <= x.keys():
                    inputs = {key: {k: x[key][k] for k in nets} for key, nets in keys.items()}
                    found[name].append(keras.tree.map_structure(np.asarray, inputs))
    missing = [name for name, inputs in found.items() if not inputs]
    if missing:
        raise ValueError(
            f"`data` must hold a batch of every task: {list(found)}. Received: none of {missing}"
        )
    # A mixture of one task per step has batches without rows of the others.
    return {
        name: [x for x in inputs if len(keras.tree.flatten(x)[0])] for name, inputs in found.items()
    }


def _experts_used(tokens) -> float:
    """Returns the exponential of the entropy of the choices; 0 without any."""
    share = tokens[tokens > 0] / max(1, tokens.sum())
    return float(np.exp(-np.sum(share * np.log(share)))) if share.size else 0.0
