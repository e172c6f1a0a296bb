"""The functional graph: modality nets, groups, body, modality nets."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import name_list
from keras_multimodel.generation.caches import CachedSteps, RecomputedSteps
from keras_multimodel.generation.generate import TaskGenerator
from keras_multimodel.models.body import Body
from keras_multimodel.models.grouping import Group, PadEmptyBatch, Ungroup
from keras_multimodel.models.task import GIVEN, Task, nets_of_batch


def input_tensors(tasks: list[Task]) -> dict:
    """Returns per rows, and per task that writes, its dict of symbolic inputs."""
    return {
        name: {
            key: keras.Input(net.example_shape, dtype=net.example_dtype, name=f"{name}_{key}")
            for key, net in nets.items()
        }
        for name, nets in nets_of_batch(tasks).items()
    }


def fill_empty_batches(inputs: dict) -> tuple[dict, dict]:
    """Gives rows that a batch has none of one row of zeros.

    Args:
        inputs: per rows the dict of its input tensors.

    Returns:
        The same with at least one row, and per rows a boolean `(batch, 1)`, True at real ones.
    """
    filled, real = {}, {}
    for name, tensors in inputs.items():
        pairs = {key: PadEmptyBatch()(tensor) for key, tensor in tensors.items()}
        filled[name] = {key: pair[0] for key, pair in pairs.items()}
        real[name] = next(iter(pairs.values()))[1]
    return filled, real


def encode(
    tasks: list[Task],
    groups: list[list[str]],
    body: Body,
    inputs: dict,
    real: dict | None = None,
) -> dict:
    """Runs input nets and encoder. Rows that several tasks read pass once.

    Args:
        tasks: the tasks.
        groups: lists of the names of sequences (`Task.sequences`) that pass the encoder together.
        body: holder of `encoder` and `parts`.
        inputs: per rows the dict of its input tensors.
        real: per rows a boolean `(batch, 1)`, True at real ones; None if all are.

    Returns:
        Per rows the encoded input `(batch, length, hidden_dim)`, where the parts stand one after
        the other; its mask; and the features before they were flattened.
    """
    readers = {task.rows: task for task in tasks}
    features, sequences, masks = {}, {}, {}
    for rows, task in readers.items():
        for i, (part, name) in enumerate(task.sequences.items()):
            net, raw = task.parts[part], inputs[rows][part]
            x = net(raw)
            mask = net.padding_mask(raw)
            _check_encoded(net, x, mask)
            features[name] = x
            if len(x.shape) > 3:  # the grid of an image: its positions become a sequence
                x = keras.layers.Reshape((-1, x.shape[-1]))(x)
            if mask is None:
                mask = ops.ones_like(x[..., 0], dtype="bool")
            if task.has_parts:
                x = body.parts[part](x)
                mask = ops.logical_and(mask, inputs[rows][GIVEN][:, i : i + 1])
            sequences[name] = x
            masks[name] = mask if real is None else ops.logical_and(mask, real[rows])
    encoded = body.encoder(*_group_all(groups, sequences, masks))
    encoded = _ungroup_all(groups, encoded, sequences)
    return {
        rows: _join([(encoded[n], masks[n], features[n]) for n in task.sequences.values()])
        for rows, task in readers.items()
    }


def _check_encoded(net, x, mask):
    """Checks what a net of the user returns, where the first layer would not name it."""
    name, shape = type(net).__name__, tuple(x.shape)
    if len(shape) < 3 or shape[-1] != net.hidden_dim:
        raise ValueError(
            f"`encode` of {name} must return (batch, positions, hidden_dim). "
            f"Received: shape={shape}, hidden_dim={net.hidden_dim}"
        )
    positions = None if None in shape[1:-1] else math.prod(shape[1:-1])
    given = None if mask is None else tuple(mask.shape)
    if given is not None and (
        len(given) != 2 or (None not in (positions, given[1]) and positions != given[1])
    ):
        raise ValueError(
            f"`padding_mask` of {name} must return (batch, positions), at the length after "
            f"`encode`. Received: shape={given}, after `encode` {shape}"
        )


def _join(parts):
    """Returns the parts of a row as one sequence. A single one keeps the form of its features."""
    if len(parts) == 1:
        return parts[0]
    x = ops.concatenate([part[0] for part in parts], axis=1)
    return x, ops.concatenate([part[1] for part in parts], axis=1), x


def decode(
    tasks: list[Task], groups: list[list[str]], body: Body, inputs: dict, encoded: dict
) -> dict:
    """Runs target nets, mixer and decoder of the tasks that are read from the decoder.

    Args:
        tasks: the tasks.
        groups: lists of the names of tasks that pass mixer and decoder together.
        body: holder of `commands`, `mixer` and `decoder`.
        inputs: per task that writes ids the dict of its input tensors, with the ids `(batch,
            length)` under `"targets"`.
        encoded: per rows the encoded input and its mask, as `encode` returns them.

    Returns:
        Per task the logits `(batch, length, vocabulary_size)`, or what its target net returns for
        the position of its command token.
    """
    if not tasks:
        return {}
    sequences, masks = {}, {}
    for task in tasks:
        if task.autoregressive:
            ids = inputs[task.name]["targets"]
            x = task.targets(ids)
            masks[task.name] = task.targets.padding_mask(ids)
        else:
            source, source_mask = encoded[task.rows][:2]
            x = ops.zeros_like(source[:, :1])  # the command takes the place of what is written
            masks[task.name] = ops.any(source_mask, axis=1, keepdims=True)
        sequences[task.name] = body.commands[task.name](x)
    sources = {task.name: encoded[task.rows][0] for task in tasks}
    source_masks = {task.name: encoded[task.rows][1] for task in tasks}
    x, x_masks = _group_all(groups, sequences, masks)
    source, source_mask = _group_all(groups, sources, source_masks)
    x = body.mixer(x, source, x_masks, source_mask)
    x = body.decoder(x, source, x_masks, source_mask)
    x = _ungroup_all(groups, x, sequences)
    return {t.name: t.targets(x[t.name], mask=masks[t.name], reverse=True) for t in tasks}


def classify(tasks: list[Task], encoded: dict) -> dict:
    """Returns what the nets of tasks return whose targets leave after the encoder, such as logits.

    Args:
        tasks: the tasks.
        encoded: as `encode` returns it.
    """
    outputs = {}
    for task in tasks:
        x, mask, features = encoded[task.rows]
        # The features tell a net the rank of its input: a grid's positions stand in one row in `x`.
        outputs[task.name] = task.targets(x, mask=mask, reverse=True, like=features)
    return outputs


def make_generator(task: Task, body: Body) -> TaskGenerator:
    """Returns what generates for one task: models of that task alone, with shared weights.

    Args:
        task: the task.
        body: the body that holds its weights.
    """
    name, net, groups = task.name, task.targets, [[task.name]]
    inputs = input_tensors([task])
    # A list: names of the tensors would have to be the keys of a dict, which nets may have too.
    source: Any = [inputs[task.rows][key] for key in task.input_nets if key != "targets"]
    encoded = encode([task], [[n] for n in task.sequences.values()], body, inputs)
    source = source if task.has_parts else source[0]
    if task.read_from == "encoder":
        return TaskGenerator(task, keras.Model(source, classify([task], encoded)[name]), None, {})
    if not task.autoregressive:
        outputs = decode([task], groups, body, inputs, encoded)[name]
        return TaskGenerator(task, keras.Model(source, outputs), None, {})
    x, mask, _ = encoded[task.rows]
    read = keras.Model(source, {"encoded": x, "mask": mask})
    # New inputs: the decoder side runs at every step, and must not run the encoder again. Keras
    # warns if their names differ from their keys.
    given = {
        "targets": keras.Input(net.example_shape, dtype=net.example_dtype, name="targets"),
        "encoded": keras.Input((None, body.hidden_dim), dtype=x.dtype, name="encoded"),
        "mask": keras.Input((None,), dtype="bool", name="mask"),
    }
    encoded = {task.rows: (given["encoded"], given["mask"])}
    write = keras.Model(given, decode([task], groups, body, {name: given}, encoded)[name])
    write.supports_masking = True  # the mask is an input of its own
    return TaskGenerator(
        task, read, write, {True: CachedSteps(task, body), False: RecomputedSteps(write)}
    )


def encoder_kinds(tasks: list[Task]) -> dict[str, Any]:
    """Returns for each sequence that the encoder reads what those of a default group share."""
    kinds = {}
    for task in tasks:
        for part, name in task.sequences.items():
            kinds[name] = type(task.parts[part])
    return kinds


def decoder_kinds(tasks: list[Task]) -> dict[str, Any]:
    """Returns for each task that passes the decoder what those of a default group share."""
    passing = [task for task in tasks if task.read_from == "decoder"]
    return {t.name: id(t.targets) if t.autoregressive else "read" for t in passing}


def groups_of(
    side: str, groups: Sequence[Sequence[str]] | None, kinds: dict[str, Any]
) -> list[list[str]]:
    """Returns checked groups of tasks or sequences, by default one for each kind.

    Args:
        side: "encoder" or "decoder", for messages.
        groups: lists of names, or None.
        kinds: the names to distribute, each with what those of a default group have in common.

    Raises:
        ValueError: the groups do not hold each name exactly once.
    """
    if groups is None:
        found: dict = {}
        for name, kind in kinds.items():
            found.setdefault(kind, []).append(name)
        return list(found.values())
    groups, names = [groups] if isinstance(groups, str) else groups, list(kinds)
    groups = [name_list(f"{side}_groups", group) for group in groups]
    if sorted(itertools.chain(*groups)) != sorted(names) or not all(groups):
        raise ValueError(
            f"`{side}_groups` must hold each of {names} exactly once. "
            f"Received: {side}_groups={groups}"
        )
    return groups


def _group_all(groups, sequences, masks) -> tuple[list, list]:
    # A group of one task is the task's own batch.
    pairs = [
        Group()([sequences[n] for n in names], [masks[n] for n in names])
        if len(names) > 1
        else (sequences[names[0]], masks[names[0]])
        for names in groups
    ]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _ungroup_all(groups, grouped, like) -> dict:
    results = {}
    for names, x in zip(groups, grouped):
        parts = Ungroup()(x, [like[n] for n in names]) if len(names) > 1 else [x]
        results.update(zip(names, parts))
    return results
