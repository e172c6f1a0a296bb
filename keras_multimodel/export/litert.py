"""LiteRT: one file with the signatures of a task, of fixed shapes."""

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_multimodel.export.programs import portable_graphs
from keras_multimodel.generation.generate import TaskGenerator

FILE = "model.tflite"


def write_litert(
    generator: TaskGenerator, path: Path, max_length: int, input_length: int | None
) -> dict[str, Any]:
    """Writes a task for LiteRT, one row at a time, and returns its description.

    Args:
        generator: what generates for the task.
        path: the folder.
        max_length: the most ids to write.
        input_length: positions of inputs of variable length.

    Raises:
        Exception: LiteRT lacks an operation.
    """
    module, graphs = portable_graphs(generator, max_length, rows=1, length=input_length)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=graphs)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[*graphs])
        (path / FILE).write_bytes(converter.convert())
    return {"file": FILE, "signatures": [*graphs], "input_length": input_length}
