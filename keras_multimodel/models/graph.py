"""The functional graph: modality nets, groups, body, modality nets."""

import itertools
from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_multimodel.generation.caches import CachedSteps, RecomputedSteps
from keras_multimodel.generation.generate import TaskGenerator
from keras_multimodel.models.body import Body
from keras_multimodel.models.grouping import Group, PadEmptyBatch, Ungroup
from keras_multimodel.models.task import Task


def input_tensors(tasks: list[Task]) -> dict:
    """Returns per task its dict of symbolic inputs."""
    return {
        task.name: {
            key: keras.Input(net.example_shape, dtype=net.example_dtype, name=f"{task.name}_{key}")
            for key, net in task.input_nets.items()
        }
        for task in tasks
    }


def fill_empty_batches(inputs: dict) -> tuple[dict, dict]:
    """Gives each task without rows in a batch one row of zeros.

    Args:
        inputs: per task the dict of its input tensors.

    Returns:
        The same with at least one row, and per task a boolean `(batch, 1)`, True at real rows.
    """
    filled, real = {}, {}
    for name, tensors in inputs.items():
        pairs = {key: PadEmptyBatch()(tensor) for key, tensor in tensors.items()}
        filled[name] = {key: pair[0] for key, pair in pairs.items()}
        real[name] = pairs["inputs"][1]
    return filled, real


def encode(
    tasks: list[Task],
    groups: list[list[str]],
    encoder: keras.layers.Layer,
    inputs: dict,
    real: dict | None = None,
) -> dict:
    """Runs input nets and encoder.

    Args:
        tasks: the tasks.
        groups: lists of the names of tasks that pass the encoder together.
        encoder: the encoder layer.
        inputs: per task the dict of its input tensors.
        real: per task a boolean `(batch, 1)`, True at real rows; None if all are.

    Returns:
        Per task the encoded input `(batch, length, hidden_dim)`, its mask, and the features before
        they were flattened.
    """
    features, sequences, masks = {}, {}, {}
    for task in tasks:
        raw = inputs[task.name]["inputs"]
        x = task.inputs(raw)
        mask = task.inputs.padding_mask(raw)
        features[task.name] = x
        if len(x.shape) > 3:  # the grid of an image: its positions become a sequence
            x = keras.layers.Reshape((-1, x.shape[-1]))(x)
        sequences[task.name] = x
        if mask is None:
            mask = ops.ones_like(x[..., 0], dtype="bool")
        masks[task.name] = mask if real is None else ops.logical_and(mask, real[task.name])
    encoded = encoder(*_group_all(groups, sequences, masks))
    encoded = _ungroup_all(groups, encoded, sequences)
    return {name: (encoded[name], masks[name], features[name]) for name in sequences}


def decode(
    tasks: list[Task], groups: list[list[str]], body: Body, inputs: dict, encoded: dict
) -> dict:
    """Runs target nets, mixer and decoder of the tasks that write one id at a time.

    Args:
        tasks: the tasks.
        groups: lists of the names of tasks that pass mixer and decoder together.
        body: holder of `commands`, `mixer` and `decoder`.
        inputs: per task the dict of its input tensors, with the ids `(batch, length)` under
            `"targets"`.
        encoded: per task the encoded input and its mask, as `encode` returns them.

    Returns:
        Per task the logits `(batch, length, vocabulary_size)`.
    """
    if not tasks:
        return {}
    sequences, masks = {}, {}
    for task in tasks:
        ids = inputs[task.name]["targets"]
        sequences[task.name] = body.commands[task.name](task.targets(ids))
        masks[task.name] = task.targets.padding_mask(ids)
    sources = {name: encoded[name][0] for name in sequences}
    source_masks = {name: encoded[name][1] for name in sequences}
    x, x_masks = _group_all(groups, sequences, masks)
    source, source_mask = _group_all(groups, sources, source_masks)
    x = body.mixer(x, source, x_masks, source_mask)
    x = body.decoder(x, source, x_masks, source_mask)
    x = _ungroup_all(groups, x, sequences)
    return {t.name: t.targets(x[t.name], mask=masks[t.name], reverse=True) for t in tasks}


def classify(tasks: list[Task], encoded: dict) -> dict:
    """Returns the logits `(batch, num_classes)` of tasks whose targets leave after the encoder."""
    outputs = {}
    for task in tasks:
        x, mask, features = encoded[task.name]
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
    encoded = encode([task], groups, body.encoder, inputs)
    source = inputs[name]["inputs"]
    if not task.autoregressive:
        return TaskGenerator(task, keras.Model(source, classify([task], encoded)[name]), None, {})
    x, mask, _ = encoded[name]
    read = keras.Model(source, {"encoded": x, "mask": mask})
    # New inputs: the decoder side runs at every step, and must not run the encoder again. Keras
    # warns if their names differ from their keys.
    given = {
        "targets": keras.Input(net.example_shape, dtype=net.example_dtype, name="targets"),
        "encoded": keras.Input((None, body.hidden_dim), dtype=x.dtype, name="encoded"),
        "mask": keras.Input((None,), dtype="bool", name="mask"),
    }
    encoded = {name: (given["encoded"], given["mask"])}
    write = keras.Model(given, decode([task], groups, body, {name: given}, encoded)[name])
    write.supports_masking = True  # the mask is an input of its own
    return TaskGenerator(
        task, read, write, {True: CachedSteps(task, body), False: RecomputedSteps(write)}
    )


def groups_of(
    side: str, groups: Sequence[Sequence[str]] | None, tasks: list[Task], kind: Callable
) -> list[list[str]]:
    """Returns checked groups of tasks, by default one for each kind of task.

    Args:
        side: "encoder" or "decoder", for messages.
        groups: lists of names of tasks, or None.
        tasks: the tasks to distribute.
        kind: function from a task to what the tasks of a default group have in common.

    Raises:
        ValueError: the groups do not hold each task exactly once.
    """
    if groups is None:
        found: dict = {}
        for task in tasks:
            found.setdefault(kind(task), []).append(task.name)
        return list(found.values())
    groups, names = [list(group) for group in groups], [task.name for task in tasks]
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
