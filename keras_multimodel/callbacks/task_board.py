"""TensorBoard for many tasks: measures side by side, and a look inside."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.callbacks.expert_use import Meter
from keras_multimodel.callbacks.task_records import owner_of
from keras_multimodel.callbacks.tensorboard import TensorBoardLog
from keras_multimodel.models.multimodel import check_multimodel
from keras_multimodel.visualization import (
    attention_weights,
    command_similarity,
    expert_similarity,
    plot_attention,
    plot_expert_use,
    plot_similarity,
)

ALL = "all tasks"


class TaskBoard(keras.callbacks.Callback):
    """Writes for TensorBoard the measures of each task, and figures of what the model does inside.

    `keras.callbacks.TensorBoard` has one chart for each number of the logs. Here the numbers are
    grouped by measure: `accuracy/en_de` stands beside `accuracy/parse`, and the runs `train` and
    `validation` share a chart. Figures show which experts the tasks use and share, the similarity
    of the command tokens, and the attention for given examples.

    Args:
        log_dir: folder for TensorBoard.
        data: held-out batches to measure the use of experts with, see `ExpertUse`; None for no
            such figures.
        batches: number of batches to read; for a dict, from each of its data sets.
        examples: task -> `(inputs, targets)`, a raw example whose attention is drawn; None as
            targets of tasks that do not write ids. See `kmm.visualization.plot_attention`.
        every: number of epochs between figures.

    Raises:
        ImportError: the package `tensorboard` is missing.
        ValueError: an argument is out of range, or no file can be written in `log_dir`. At the
            start of training: the model is not a `MultiModel`, has no experts to measure, an
            example is none, or its task passes no attention.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
    model.compile("adam")
    ids = np.random.randint(3, 50, (8, 6))
    board = kmm.callbacks.TaskBoard("runs/copy", examples={"copy": ([3, 4, 1], [3, 4, 1])})
    x = {"copy": {"inputs": ids, "targets": ids}}
    model.fit(x, {"copy": ids}, callbacks=[board], verbose=0)
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        data: Iterable | Mapping[str, Iterable] | None = None,
        batches: int = 1,
        examples: Mapping[str, tuple[Any, Any]] | None = None,
        every: int = 1,
    ):
        super().__init__()
        self.batches = positive_int("batches", batches)
        self.every = positive_int("every", every)
        self.examples = dict(examples or {})
        for task, example in self.examples.items():
            if not isinstance(example, tuple) or len(example) != 2:
                raise ValueError(
                    f"`examples[{task!r}]` must be a tuple (inputs, targets). "
                    f"Received: examples[{task!r}]={example!r}"
                )
        self.data = data
        self._log = TensorBoardLog(log_dir)
        self._meter: Any = None

    def on_train_begin(self, logs: dict | None = None):
        model = check_multimodel(self.model)
        self._meter = None if self.data is None else Meter(model, self.data, self.batches)
        for task, example in self.examples.items():
            attention_weights(model, task, *example)  # a bad one must not cost an epoch

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        runs: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for key, value in (logs or {}).items():
            run = "validation" if key.startswith("val_") else "train"
            runs[run][_tag(list(self.model.tasks), key.removeprefix("val_"))] = value
        for run, scalars in runs.items():
            if scalars:
                self._log.write(run, epoch, scalars)
        if epoch % self.every == 0:
            self._log.write("inside", epoch, figures=self._figures())

    def on_train_end(self, logs: dict | None = None):
        self._log.close()
        self._meter = None

    def _figures(self) -> dict:
        figures = {}
        if self._meter is not None:
            use = self._meter.read()
            shared = expert_similarity(use)
            for layer, by_task in use.items():
                figures[f"expert_use/{layer}"] = plot_expert_use({layer: by_task})
                if len(shared[layer].names) > 1:
                    figures[f"shared_experts/{layer}"] = plot_similarity(shared[layer])
        if sum(task.read_from == "decoder" for task in self.model.tasks.values()) > 1:
            figures["command_tokens"] = plot_similarity(command_similarity(self.model))
        for task, example in self.examples.items():
            figures[f"attention/{task}"] = plot_attention(self.model, task, *example)
        return figures


def _tag(tasks: list[str], key: str) -> str:
    """Returns where a number of the logs stands: its measure, and its task."""
    task = owner_of(tasks, key)
    if task is not None:
        return f"{key.removeprefix(f'{task}_')}/{task}"
    if "_experts" in key:
        return f"experts/{key}"
    return f"{key}/{tasks[0] if len(tasks) == 1 else ALL}"
