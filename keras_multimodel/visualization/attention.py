"""The weights of attention for one example, as arrays."""

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import one_of
from keras_multimodel.generation.inputs import RawBatcher, input_batcher
from keras_multimodel.models.multimodel import MultiModel, check_multimodel
from keras_multimodel.visualization.positions import Positions, pieces, positions_of, short

_KERAS_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one attention for one example, without padding.

    Attributes:
        weights: float32 `(heads, rows, columns)`, what each row takes of each column. The rows of
            every head sum to 1.
        rows: a label for each row: what the model writes there, or the input position.
        columns: a label for each column: what is looked at.
        parts: where the columns are positions of the input: its parts, one after the other, each
            with labels and the array that its net reads. Empty for other attentions.
    """

    weights: np.ndarray
    rows: list[str]
    columns: list[str]
    parts: list[Positions]


class _Call(NamedTuple):
    """One call of a layer: the weights `(heads, T, S)` of the first row of a batch, by place."""

    name: str
    place: str  # "encoder", "decoder", or "" for elsewhere, such as the backbone of a net
    weights: np.ndarray
    to_itself: bool


class _Example(NamedTuple):
    """What the axes of the weights of one example stand for."""

    parts: list[tuple[Positions, np.ndarray]]  # each with its real positions
    targets: list[str]
    seen: list[str]  # what the decoder has read at each target


def attention_weights(
    model: MultiModel, task: str, inputs: Any, targets: Any = None
) -> dict[str, AttentionMap]:
    """Runs one raw example, and returns what every attention of the model looks at.

    The model reads the whole target at once, as in training. A row stands for what it writes there,
    and it has read what stands before. Attention is seen in `AttentionBlock` and in the layers
    `MultiHeadAttention` and `GroupQueryAttention` of Keras, wherever they are; a layer of your own
    takes part if it has a method `attention_weights` with the arguments of its `call`, which
    returns `(batch, heads, rows, columns)`.

    Blocks stand on convolutions and other blocks, so that a position has seen its neighbors
    before: a weight says where a block looks, not which input decides.

    Args:
        model: a `MultiModel`.
        task: name of the task.
        inputs: one raw input, as in the list that `generate` takes; of a task with several parts, a
            dict.
        targets: the raw target to read. By default what `generate` writes.

    Returns:
        Layer -> its weights, in the order in which the layers run. The names are the paths of the
        layers; those in the encoder of a task with several parts end in the part.

    Raises:
        ValueError: `model` is no `MultiModel`, `task` is unknown, `inputs` or `targets` are no raw
            examples, `targets` are given for a task that does not write ids, or the task passes
            no attention.

    Example:

    ```python
    model = kmm.MultiModel.from_preset("eight_tasks_tiny")
    maps = kmm.visualization.attention_weights(model, "en_de", "Save the file.")
    last = maps["decoder/attention_block_1/source_attention"]
    last.weights.mean(axis=0)  # (pieces written, pieces read), of all heads
    ```
    """
    one_of("task", task, list(check_multimodel(model).tasks))
    found = model.tasks[task]
    if targets is not None and not found.autoregressive:
        raise ValueError(
            f"`targets` must be None for task {task!r}, which does not write ids. "
            f"Received: targets={targets!r}"
        )
    # Of this task alone, with each part apart: weights must not be mixed with those of others.
    groups = [[name] for name in found.sequences.values()]
    body = model.body
    single = MultiModel([found], body.hidden_dim, body=body, encoder_groups=groups)
    x, example = _encode(model, found, inputs, targets)
    with _watched(single) as calls:
        single(x, training=False)
    if not calls:
        names = sorted({type(layer).__name__ for layer in _keras_compat.all_layers(single)})
        raise ValueError(
            f"`model` must have a layer of attention that task {task!r} passes, such as an "
            f"AttentionBlock. Received: a model of the layers {names}"
        )
    return _maps(calls, example)


def _encode(model, task, inputs, targets) -> tuple[dict, _Example]:
    """Returns a batch of one raw example, and what its positions stand for."""
    batcher = input_batcher(task)
    (array,) = batcher([inputs])
    batch = batcher.batch([array])
    x = {task.rows: dict(batch) if task.has_parts else {"inputs": batch}}
    arrays = array if task.has_parts else {"inputs": array}
    parts = []
    for part, net in task.parts.items():
        batched = x[task.rows][part]
        # A part that is missing stands in the batch as zeros, which are masked.
        stand_in = batched[0] if part not in arrays else arrays[part]
        positions, real = positions_of(part, net, stand_in, batched)
        if part not in arrays:
            positions, real = Positions(part, [], stand_in), np.zeros_like(real)
        parts.append((positions, real))
    if task.read_from == "encoder":
        return x, _Example(parts, [], [])
    if targets is None:
        # For one example, compiling a loop with caches would cost more than it saves.
        (targets,) = model.generate(task.name, [inputs], use_cache=False)
    command = f"(command {task.name})"
    if not task.autoregressive:
        return x, _Example(parts, [short(str(targets))], [command])
    ids = _target_ids(task, targets)
    x.setdefault(task.name, {})["targets"] = ids[None]
    names = pieces(task.targets, ids)
    return x, _Example(parts, names, [command, *names[:-1]])


def _target_ids(task, targets) -> np.ndarray:
    if isinstance(targets, str) and not targets.strip():
        raise ValueError(
            "`targets` must be given where the model writes nothing, and hold something. "
            f"Received: targets={targets!r}"
        )
    (ids,) = RawBatcher(task.name, "targets", task.targets, None)([targets])
    return ids


@contextlib.contextmanager
def _watched(model) -> Iterator[list[_Call]]:
    """Collects the weights of every attention that this thread calls within."""
    places = {id(layer): "encoder" for layer in _keras_compat.all_layers(model.body.encoder)}
    for side in (model.body.mixer, model.body.decoder):
        layers = [] if side is None else _keras_compat.all_layers(side)
        places.update({id(layer): "decoder" for layer in layers})
    calls: list[_Call] = []
    watched = [layer for layer in _keras_compat.all_layers(model) if _has_weights(layer)]
    # Two that watch one layer would take each other's function away.
    with _one_at_a_time:
        for layer in watched:
            layer.call = _watching(layer, places.get(id(layer), ""), calls)
        try:
            yield calls
        finally:
            for layer in watched:
                del layer.call  # the instance's; the method of the class is back


def _has_weights(layer) -> bool:
    return isinstance(layer, _KERAS_ATTENTION) or callable(
        getattr(layer, "attention_weights", None)
    )


def _watching(layer, place, calls):
    call, thread = layer.call, threading.get_ident()

    @functools.wraps(call)  # blocks are asked for their arguments by the signature
    def watching(*args, **kwargs):
        if threading.get_ident() == thread:
            weights = keras.ops.convert_to_numpy(_weights(layer, args, kwargs))[0]
            given = [*inspect.signature(call).bind(*args, **kwargs).arguments.values()][:2]
            to_itself = len(given) < 2 or _equal(*given)
            calls.append(_Call(layer.path, place, weights.astype("float32"), to_itself))
        return call(*args, **kwargs)

    return watching


def _weights(layer, args, kwargs):
    """Returns the weights `(batch, heads, T, S)` of a call with these arguments."""
    if not isinstance(layer, _KERAS_ATTENTION):
        return layer.attention_weights(*args, **kwargs)
    arguments = inspect.signature(type(layer).call).bind(layer, *args, **kwargs).arguments
    # By the class of Keras: a subclass, such as that of keras-hub, may return no weights.
    base = next(kind for kind in _KERAS_ATTENTION if isinstance(layer, kind))
    known = inspect.signature(base.call).parameters
    arguments = {name: value for name, value in arguments.items() if name in known}
    return base.call(**{**arguments, "return_attention_scores": True})[1]


def _equal(queries, source) -> bool:
    if getattr(source, "shape", None) is None or tuple(source.shape) != tuple(queries.shape):
        return False
    arrays = (keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in (queries, source))
    return np.array_equal(*arrays)


def _maps(calls, example) -> dict[str, AttentionMap]:
    maps: dict[str, AttentionMap] = {}
    counts: dict[str, int] = {}
    for call in calls:
        number = counts[call.name] = counts.get(call.name, -1) + 1
        name = call.name
        if call.place == "encoder" and len(example.parts) > 1:
            # Every part passes each block of the encoder once, in their order.
            part = number % len(example.parts)
            positions, real = example.parts[part]
            found = _in_encoder(call, positions, real)
            name, number = f"{name}/{positions.name}", number // len(example.parts)
        elif call.place == "encoder":
            found = _in_encoder(call, *example.parts[0])
        elif call.place == "decoder":
            found = _in_decoder(call, example)
        else:
            found = _numbered(call)
        if found.weights.size:  # nothing of a part that is missing
            maps[f"{name}#{number + 1}" if number else name] = found
    return maps


def _in_encoder(call, positions, real) -> AttentionMap:
    if call.weights.shape[1:] != (len(real), len(real)):
        return _numbered(call)
    weights = call.weights[:, real][:, :, real]
    return AttentionMap(weights, positions.labels, positions.labels, [positions])


def _in_decoder(call, example) -> AttentionMap:
    count, real = len(example.targets), np.concatenate([real for _, real in example.parts])
    shape = call.weights.shape[1:]
    if call.to_itself and shape == (count, count):
        return AttentionMap(call.weights, example.targets, example.seen, [])
    if shape != (count, len(real)):
        return _numbered(call)
    parts = [positions for positions, _ in example.parts if positions.labels]
    columns = [label for positions in parts for label in positions.labels]
    return AttentionMap(call.weights[:, :, real], example.targets, columns, parts)


def _numbered(call) -> AttentionMap:
    """Returns the weights of an attention between positions of which nothing is known."""
    rows, columns = ([str(i) for i in range(n)] for n in call.weights.shape[1:])
    return AttentionMap(call.weights, rows, columns, [])
