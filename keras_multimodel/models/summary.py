"""What a model consists of, on one page: tasks, nets, blocks, and their parameters."""

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import optional_positive_int
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.models.body import Body
from keras_multimodel.models.task import Task, unique_modalities
from keras_multimodel.text_tables import table

_NUMBERS: tuple[str, ...] = ("parameters", "trainable", "active per token")
_WIDTHS = 80, 120  # of a line by default, at least and at most


class SummaryModel(keras.Model):
    """The part of a `MultiModel` that prints what it consists of."""

    _tasks: dict[str, Task]
    _body: Body
    task_weighting: Any

    # By task, net and block, where Keras lists the layers of the graph, most without a weight.
    def summary(
        self,
        line_length: int | None = None,
        positions: list[float] | None = None,
        print_fn: Callable[[str], Any] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: tuple[str, str] | None = None,
    ) -> None:
        """Prints tasks, nets and blocks, and how many parameters each has.

        The parameters that are active per token are those that compute something for it: all of
        what it passes, but of the experts only those that are chosen. The row of a task counts
        what the task uses; tasks share most of it, so these rows do not add up.

        Args:
            line_length: the most characters of a line; by default the width of the terminal, from
                80 to 120. Names are cut to fit.
            positions: of the columns of Keras' own table, which is then printed.
            print_fn: called with each line; by default `print`.
            expand_nested: whether to print Keras' own table instead, with all layers of the graph
                and the layers within them.
            show_trainable: whether Keras' own table says which layers are trained; the summary
                always does.
            layer_range: of Keras' own table, which is then printed.

        Raises:
            ValueError: `line_length` is not a positive integer.

        Example:

        ```python
        text = kmm.layers.TextModality(50, hidden_dim=32, name="text")
        model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
        model.summary()
        model.summary(expand_nested=True)  # every layer of the graph
        ```
        """
        optional_positive_int("line_length", line_length)
        if expand_nested or positions or layer_range:
            super().summary(
                line_length, positions, print_fn, expand_nested, show_trainable, layer_range
            )
            return
        if line_length is None:
            least, most = _WIDTHS
            line_length = min(most, max(least, shutil.get_terminal_size().columns))
        for line in _lines(self, line_length):
            (print_fn or print)(line)


def active_parameters(layers: Iterable[keras.layers.Layer]) -> int:
    """Returns how many parameters of some layers compute something for one token.

    Args:
        layers: the layers; what several share counts once.
    """
    idle = [
        idle_parameters(x) for x in _unique(x for y in layers for x in _keras_compat.all_layers(y))
    ]
    return _count(layers) - sum(idle)


def idle_parameters(layer: keras.layers.Layer) -> int:
    """Returns how many parameters of a layer belong to the experts that a token does not take.

    Args:
        layer: the layer; layers within it are not looked at.
    """
    if not isinstance(layer, MoELayer):
        return 0
    # Integers: each expert has the same number. Where experts choose, tokens take `top_k` on
    # average.
    # Kernels, and what lies beside each: adapters, scales of integers.
    each = _size(w for w in layer.weights if "expert_kernel" in w.name) // layer.num_experts
    return each * (layer.num_experts - layer.top_k)


def _lines(model, line_length):
    tasks, body = list(model.tasks.values()), model.body
    title = f'{type(model).__name__} "{model.name}", hidden_dim={body.hidden_dim}'
    rows = [("task", "reads", "writes", *_NUMBERS)]
    for task in tasks:
        numbers = _numbers(_layers_of(task, body))
        reads = ", ".join(net.name for net in task.parts.values())
        rows.append((task.name, reads, task.targets.name, *numbers))
    by_task = table(rows, "<<<>>>", line_length)
    rows = [("layer", "kind", *_NUMBERS), *_rows(model, tasks, body)]
    # Not what is active per token: a token passes one task.
    rows.append(("total", "", *_numbers([model])[:2], ""))
    by_layer = table(rows, "<<>>>", line_length)
    lines = [title, "", *by_task.splitlines(), "", *by_layer.splitlines()]
    if model.compiled and model.optimizer is not None and model.optimizer.built:
        lines.append(f"optimizer: {_size(model.optimizer.variables):,}")
    return lines


def _rows(model, tasks, body):
    """Returns the rows of all layers; the name of a part of the body ends in a slash."""
    rows = [_row(net) for net in unique_modalities(tasks)]
    writers = [task.name for task in tasks if task.read_from == "decoder"]
    for side in (body.encoder, body.mixer, body.decoder) if writers else (body.encoder,):
        rows.append((f"{side.name}/", type(side).__name__, *_numbers([side])))
        layers = side.layers_in_order()
        # What is in no order is not called by its turn, such as a norm at a joint.
        others = [x for x in _keras_compat.sublayers(side) if all(x is not y for y in layers)]
        rows += [_row(layer, "  ") for layer in [*others, *layers]]
    if writers:
        commands = [body.commands[name] for name in writers]
        rows.append((f"commands ({len(commands)})", "CommandToken", *_numbers(commands, 1)))
    names = {part: None for task in tasks if task.has_parts for part in task.parts}
    if names:
        parts = [body.parts[name] for name in names]
        rows.append((f"parts ({len(parts)})", "PartEmbedding", *_numbers(parts)))
    if model.task_weighting is not None and model.task_weighting.weights:
        rows.append(_row(model.task_weighting))
    return rows


def _row(layer, indent=""):
    kind = type(layer).__name__
    if isinstance(layer, MoELayer):
        kind += f", {layer.top_k} of {layer.num_experts} experts"
    return f"{indent}{layer.name}", kind, *_numbers([layer])


def _numbers(layers, used=None):
    trainable = _size(_unique(w for layer in layers for w in layer.trainable_weights))
    numbers = _count(layers), trainable, active_parameters(layers[:used])
    return [f"{number:,}" for number in numbers]


def _layers_of(task, body):
    layers = [*task.parts.values(), task.targets, body.encoder]
    if task.has_parts:
        layers += [body.parts[part] for part in task.parts]
    if task.read_from == "decoder":
        layers += [body.commands[task.name], body.mixer, body.decoder]
    return layers


def _count(layers):
    return _size(_unique(weight for layer in layers for weight in layer.weights))


def _size(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def _unique(things):
    return list({id(thing): thing for thing in things}.values())
