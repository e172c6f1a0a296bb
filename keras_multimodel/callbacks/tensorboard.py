"""Numbers and figures for TensorBoard."""

import importlib.util
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from matplotlib.figure import Figure

from keras_multimodel.callbacks.files import writable_directory


class TensorBoardLog:
    """Writes numbers and figures that TensorBoard shows; also the logger of a study.

    Args:
        log_dir: folder for TensorBoard.

    Raises:
        ImportError: the package `tensorboard` is missing.
        ValueError: no file can be written in `log_dir`.

    Example:

    ```python
    log = kmm.callbacks.TensorBoardLog("runs/study")
    log.log({"no attention/seed 1/val_loss": 2.5}, step=0)
    ```

    With `kmm.ablation.Study(..., logger=log)`, each variant and seed is a run of its own.
    """

    def __init__(self, log_dir: str | os.PathLike):
        self.log_dir = check_log_dir(log_dir)
        self._writers: dict[str, Any] = {}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Writes numbers.

        Args:
            values: name -> number. What stands before the last slash of a name is the run, a folder
                in `log_dir`.
            step: where they stand on the axis, such as the epoch.
        """
        by_run: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            run, _, tag = name.rpartition("/")
            by_run.setdefault(run, {})[tag] = value
        for run, scalars in by_run.items():
            self.write(run, step, scalars)

    def write(
        self,
        run: str,
        step: int,
        scalars: Mapping[str, float] | None = None,
        figures: Mapping[str, Figure] | None = None,
    ) -> None:
        """Writes numbers and figures of one run.

        Args:
            run: name of the run, "" for `log_dir` itself.
            step: where they stand on the axis.
            scalars: tag -> number; TensorBoard groups by what stands before a slash in a tag.
            figures: tag -> figure.
        """
        writer = self._writer(run)
        with writer.as_default(step=step):
            for tag, value in (scalars or {}).items():
                tf.summary.scalar(tag, float(value))
            for tag, figure in (figures or {}).items():
                tf.summary.image(tag, pixels(figure))
        writer.flush()

    def close(self) -> None:
        """Closes the files; a later call opens new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _writer(self, run):
        if run not in self._writers:
            # Names are chosen by users, and must not lead out of the folder.
            parts = [part for part in run.split("/") if part not in ("", ".", "..")]
            folder = self.log_dir.joinpath(*parts)
            self._writers[run] = tf.summary.create_file_writer(str(folder))
        return self._writers[run]


def check_log_dir(log_dir: str | os.PathLike) -> pathlib.Path:
    """Returns `log_dir` as a path, if TensorBoard is installed and files can be written there.

    Args:
        log_dir: folder for TensorBoard.

    Raises:
        ImportError: the package `tensorboard` is missing, which TensorFlow 2.17 brings and 2.21
            does not.
        ValueError: no file can be written there.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            f"`log_dir` needs TensorBoard: `pip install tensorboard`. Received: log_dir={log_dir!r}"
        )
    return writable_directory("log_dir", log_dir)  # TensorFlow opens it after the first epoch


def pixels(figure: Figure) -> tf.Tensor:
    """Returns a figure as uint8 `(1, height, width, 3)`."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return tf.io.decode_png(file.getvalue(), channels=3)[None]
