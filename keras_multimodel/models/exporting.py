"""A trained task leaves the library: files that other runtimes serve."""

import json
import os
from pathlib import Path

import keras

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import made_folder, one_of, optional_positive_int
from keras_multimodel.export.litert import write_litert
from keras_multimodel.export.onnx import converter, write_onnx
from keras_multimodel.export.programs import served_names
from keras_multimodel.export.saved_model import write_saved_model
from keras_multimodel.generation.generate import TaskGenerator
from keras_multimodel.generation.loop import END, PADDING
from keras_multimodel.models.adapting import AdaptingModel
from keras_multimodel.models.task import Task

FORMATS = ("saved_model", "litert", "onnx")
DESCRIPTION, PREPROCESSORS = "export.json", "preprocessors.json"


class ExportingModel(AdaptingModel):
    """The part of a `MultiModel` that exports a task."""

    def export_task(
        self,
        task: str,
        path: str | os.PathLike,
        format: str = "saved_model",
        raw: bool = True,
        max_length: int | None = None,
        input_length: int | None = None,
    ) -> None:
        """Exports a task for serving, as files that need nothing of this library.

        A SavedModel takes raw inputs and returns classes, or the texts that greedy search writes.
        The other formats hold the mathematics: arrays in, logits out; for a task that writes, the
        functions `prefill` and `step`, around which a loop is yours. `docs/export.md` has what each
        format holds, and how it is served.

        Args:
            task: name of the task.
            path: the folder to write; created if it does not exist.
            format: `"saved_model"`, `"litert"` or `"onnx"`.
            raw: for a SavedModel, whether there is a signature that takes raw inputs. Text then
                needs `import tensorflow_text` in the process that loads it.
            max_length: the most ids to write, the end included. By default the `max_target_length`
                of the task.
            input_length: for LiteRT, the positions of inputs of variable length; shorter ones are
                padded with zeros. By default the `max_input_length` of the task, or the
                `max_length` of the preprocessor.

        Raises:
            ValueError: `task` or `format` is unknown, `path` is a file, an argument is not for this
                format or task, or the task has what the format cannot express.
            OSError: no file can be written in `path`.
            ModuleNotFoundError: tf2onnx is needed; `keras-multimodel[export]` has it.

        Example:

        ```python
        import tensorflow as tf

        text = kmm.layers.TextModality(50, hidden_dim=32)
        kinds = kmm.layers.CategoryModality(3, hidden_dim=32)
        model = kmm.MultiModel(
            [kmm.Task("kind", text, kinds)], hidden_dim=32, moe=None, num_encoder_blocks=1
        )
        if keras.backend.backend() == "tensorflow":
            model.export_task("kind", "exports/kind", raw=False)
            served = tf.saved_model.load("exports/kind").signatures["arrays"]
            assert served(inputs=tf.constant([[3, 4, 1]]))["logits"].shape == (1, 3)
        ```
        """
        chosen = self._task(task)
        one_of("format", format, FORMATS)
        if keras.backend.backend() != "tensorflow":
            expected = "the backend must be TensorFlow, where files of others load too"
            raise ValueError(f"{expected}. Received: backend={keras.backend.backend()!r}")
        if max_length is not None and not chosen.autoregressive:
            expected = f"`max_length` must be None for task {task!r}, which writes no ids"
            raise ValueError(f"{expected}. Received: max_length={max_length}")
        limit = optional_positive_int("max_length", max_length) or chosen.max_target_length
        length = _input_length(chosen, format, input_length)
        generator = self._generator(task)
        if format != "saved_model":
            _check_portable(format, generator)
        folder = made_folder("path", path)
        # What an older export says of itself ends here; a folder without right to write as well.
        (folder / DESCRIPTION).write_bytes(b"")
        (folder / DESCRIPTION).unlink()
        try:
            if format == "saved_model":
                found = write_saved_model(generator, folder, limit, raw)
            elif format == "litert":
                found = write_litert(generator, folder, limit, length)
            else:
                found = write_onnx(generator, folder, limit)
        except OSError:  # such as a full disk
            raise
        # Converters raise all kinds, where a layer of a user has what a runtime lacks.
        except Exception as error:
            expected = f"task {task!r} must consist of operations that {format!r} can express"
            raise ValueError(f"{expected}. Received: {type(error).__name__}: {error}") from error
        _write_preprocessors(folder, chosen)
        _describe(folder, format, chosen, limit, found)


def _input_length(task: Task, format: str, given: int | None) -> int | None:
    """Returns the positions of inputs of variable length, for LiteRT."""
    nets = [net for net in task.parts.values() if None in net.example_shape]
    if format != "litert" or not nets:
        if given is not None:
            expected = '`input_length` must be None but for format="litert" and inputs of variable'
            received = f"input_length={given}, format={format!r}, task={task.name!r}"
            raise ValueError(f"{expected} length. Received: {received}")
        return None
    cuts: list = [getattr(net.preprocessor, "max_length", None) for net in nets]
    known = max(cuts) if None not in cuts else None
    length = optional_positive_int("input_length", given) or task.max_input_length or known
    if length is None:
        expected = f'`input_length` must be given for format="litert" of task {task.name!r}'
        raise ValueError(f"{expected}, whose inputs have any length. Received: input_length=None")
    return length


def _check_portable(format: str, generator: TaskGenerator) -> None:
    """Refuses, before any long work, what is known to have no counterpart in other runtimes."""
    if format == "onnx":
        converter()
    models = [generator.read, *([] if generator.write is None else [generator.write])]
    for layer in [x for model in models for x in _keras_compat.all_layers(model)]:
        if layer.compute_dtype != "float32" or getattr(layer, "quantization_mode", None):
            kind = getattr(layer, "quantization_mode", None) or layer.compute_dtype
            expected = 'must be "saved_model" unless all layers compute in float32'
        elif getattr(getattr(layer, "router", None), "experts_choose", False):
            kind = "a router by which experts choose tokens"
            expected = 'must be "saved_model" where shapes depend on the number of tokens'
        else:
            continue
        raise ValueError(f"`format` {expected}. Received: format={format!r}, {layer.path}: {kind}")


def _describe(folder: Path, format: str, task: Task, max_length: int, found: dict) -> None:
    """Writes what a process that serves the task must know."""
    known = {"task": task.name, "format": format, **found}
    names = served_names(task)
    if any(key != name for key, name in names.items()):
        known["inputs"] = names
    if task.autoregressive:
        known |= {"max_length": max_length, "padding_id": PADDING, "end_id": END}
    classes = getattr(task.targets.preprocessor, "names", None)
    if isinstance(classes, list):
        known["names"] = classes
    (folder / DESCRIPTION).write_text(json.dumps(known, indent=1))


def _write_preprocessors(folder: Path, task: Task) -> None:
    """Writes what makes the arrays, for processes that make them, and what their numbers mean."""
    known = {}
    for key, net in {**task.parts, "targets": task.targets}.items():
        config = dict(getattr(net.preprocessor, "get_config", dict)())
        if isinstance(getattr(net.preprocessor, "proto", None), bytes):
            (folder / f"{key}.spm").write_bytes(net.preprocessor.proto)
            config.pop("proto", None)
        if net.preprocessor is not None:
            known[key] = {"class": type(net.preprocessor).__name__, "config": config}
    (folder / PREPROCESSORS).write_text(json.dumps(known, indent=1, default=str))
