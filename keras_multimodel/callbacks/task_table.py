"""What a training of many tasks shows: a short bar, and after each epoch a table of the tasks."""

import shutil
import sys
import time
from typing import Any

import keras

from keras_multimodel.argument_checks import one_of, optional_positive_int
from keras_multimodel.callbacks.notebook_display import NotebookDisplay, in_notebook
from keras_multimodel.callbacks.task_records import TaskRecords
from keras_multimodel.models.multimodel import check_multimodel
from keras_multimodel.models.training import direction_of
from keras_multimodel.visualization import plot_learning_curves

_DISPLAYS = ("auto", "terminal", "lines", "notebook")
_REFRESH = 0.5  # seconds between two updates of a notebook's line of progress
_NEXT_LINE = 30.0  # seconds between two lines of progress in a file


class TaskTable(keras.callbacks.ProgbarLogger):
    """Shows the progress of many tasks as a table, in place of Keras' long line of numbers.

    In a terminal, Keras' bar shows the loss and the speed, and after each epoch follows a table of
    tasks and their measures, in training and validation; `*` marks what is best so far. Below it,
    the balance of the experts: the least and the most tokens of an expert over its fair share. In a
    notebook, one table is updated, with learning curves. In a file or a pipe, an epoch is one line,
    a long one has another every half minute, and the table comes at the end.

    It takes the place of Keras' own bar; without it, `fit` prints as always. `verbose=2` has an
    epoch printed as one line everywhere, and `verbose=0` nothing. The measures stay in `records`.

    Args:
        display: `"terminal"`, `"notebook"`, `"lines"` for files and pipes, or `"auto"`, which sees
            where the output goes.
        width: the most characters of a line; by default the width of the terminal, or 80 where
            there is none. What does not fit is left out, from the right.
        curves: whether a notebook shows learning curves.

    Raises:
        ValueError: `display` is unknown or `width` is not a positive integer. At the start of
            training: the model is not a `MultiModel`.
        ModuleNotFoundError: `display` is `"notebook"` outside of one, without IPython.

    Example:

    ```python
    text = kmm.layers.TextModality(50, hidden_dim=32)
    model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
    model.compile("adam")
    ids = np.random.randint(3, 50, (8, 6))
    x = {"copy": {"inputs": ids, "targets": ids}}
    table = kmm.callbacks.TaskTable(display="lines")
    model.fit(x, {"copy": ids}, epochs=2, callbacks=[table])
    print(table)
    ```
    """

    def __init__(self, display: str = "auto", width: int | None = None, curves: bool = True):
        super().__init__()
        self.display = one_of("display", display, _DISPLAYS)
        self.width = optional_positive_int("width", width)
        self.curves = curves
        self.records = TaskRecords([])
        self._where = "lines"
        self._notebook: Any = None
        self._start = self._shown = self._epoch = 0.0

    def on_train_begin(self, logs: dict | None = None):
        super().on_train_begin(logs)
        self.records = TaskRecords(list(check_multimodel(self.model).tasks))
        self._where = self._find_display()
        self._notebook = NotebookDisplay() if self._where == "notebook" else None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        self._start, self._epoch, self.seen = time.time(), epoch, 0
        self._shown = self._start if self._where == "lines" else 0.0
        if self._where == "terminal":
            super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        if self._where == "terminal":
            super().on_train_batch_end(batch, _losses(logs))
            return
        self.seen = batch + 1
        since = time.time() - self._shown
        if since <= (_NEXT_LINE if self._where == "lines" else _REFRESH):
            return
        self._shown = time.time()
        line = self._line(self._epoch, _losses(logs))
        if self._notebook is not None:
            self._notebook.progress(line, self.seen, self.target)
        elif self._where == "lines" and self.verbose:
            print(line, flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        logs = dict(logs or {})
        self.records.add(epoch, logs, lambda key: direction_of(self.model, key))
        if self._where == "terminal":
            super().on_epoch_end(epoch, _losses(logs))
            print(self.records.text(self._columns()), flush=True)
        elif self._where == "lines" and self.verbose:
            line = f"{self._line(epoch, _losses(logs))} - {self.records.main()}"
            print(line.removesuffix(" - "), flush=True)
        elif self._notebook is not None:
            self._notebook.table(self._line(epoch, _losses(logs)), self.records, self._figure())

    def on_train_end(self, logs: dict | None = None):
        # After one epoch, its line says it all.
        if self._where == "lines" and self.verbose and len(self.records.epochs) > 1:
            print(self, flush=True)

    def __str__(self) -> str:
        return self.records.text(self._columns())

    def _find_display(self):
        if self.verbose == 0:
            return "nowhere"
        if self.verbose == 2:
            return "lines"
        if self.display != "auto":
            return self.display
        if in_notebook():
            return "notebook"
        return "terminal" if sys.stdout.isatty() else "lines"

    def _columns(self):
        return self.width or shutil.get_terminal_size((80, 24)).columns

    def _figure(self):
        if not self.curves or len(self.records.epochs) < 2:
            return None
        return plot_learning_curves(self.records.history, self.records.tasks, self.records.curve())

    def _line(self, epoch, losses):
        """Returns epoch, steps, time and loss, as Keras writes them."""
        seconds = time.time() - self._start
        steps = f"{self.seen}/{self.target}" if self.target else f"{self.seen}"
        speed = f"{1000 * seconds / max(1, self.seen):.0f}ms/step"
        parts = [f"Epoch {int(epoch) + 1}/{self.epochs}", steps, f"{seconds:.0f}s {speed}"]
        return " - ".join(parts + [f"{name}: {value:.4f}" for name, value in losses.items()])


def _losses(logs):
    """Returns those of the logs that are about all tasks."""
    return {name: logs[name] for name in ("loss", "val_loss") if name in (logs or {})}
