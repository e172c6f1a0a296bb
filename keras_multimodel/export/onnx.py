"""ONNX: a file for each function of a task, for any number of rows and positions."""

from pathlib import Path
from typing import Any

from keras_multimodel.export.programs import portable_graphs
from keras_multimodel.generation.generate import TaskGenerator

_OPSET = 17


def converter() -> Any:
    """Returns the module `tf2onnx`.

    Raises:
        ModuleNotFoundError: it is not installed; `keras-multimodel[export]` has it.
    """
    try:
        import tf2onnx
    except ModuleNotFoundError as error:
        message = 'format="onnx" needs tf2onnx: pip install "keras-multimodel[export]"'
        raise ModuleNotFoundError(message, name="tf2onnx") from error
    return tf2onnx


def _where(graph: Any, node: Any, name: str, arguments: list) -> None:
    """Converts `tf.where` to the operation that chooses.

    The handler of tf2onnx multiplies what is not chosen by 0, which leaves NaN of gaps as they are.
    """
    node.type = "Where"


def write_onnx(generator: TaskGenerator, path: Path, max_length: int) -> dict[str, Any]:
    """Writes a task for ONNX Runtime, and returns its description.

    Args:
        generator: what generates for the task.
        path: the folder.
        max_length: the most ids to write.

    Raises:
        Exception: ONNX lacks an operation.
    """
    import onnx

    # The module keeps the weights while the graphs are read.
    module, graphs = portable_graphs(generator, max_length)
    files = {name: f"{name}.onnx" for name in graphs}
    for name, graph in graphs.items():
        converter().convert.from_function(
            graph,
            input_signature=graph.input_signature,
            opset=_OPSET,
            custom_op_handlers={"SelectV2": (_where, [])},
            output_path=str(path / files[name]),
        )
        # What it cannot convert, tf2onnx writes as it is, under names that ONNX does not know.
        onnx.checker.check_model(str(path / files[name]))
    return {"files": files}
