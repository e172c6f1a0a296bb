"""The functional graph: modality nets, groups, body, modality nets."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_multimodel.generation.caches import CachedSteps, RecomputedSteps
from keras_multimodel.generation.generate import TaskGenerator
from keras_multimodel.models.body import Body
from keras_multimodel.models.grouping import Group, PadEmptyBatch, Ungroup
from keras_multimodel.models.task import Task
from keras_multimodel.models.validation import check_groups


def input_tensors(tasks: list[Task]) -> dict:
    """Returns per task its dict of symbolic inputs."""
    tensors = {}
    for task in tasks:
        nets = {"inputs": task.inputs, "targets": task.targets}
        tensors[task.name] = {
            key: keras.Input(
                nets[key].example_shape, dtype=nets[key].example_dtype, name=f"{task.name}_{key}"
            )
            for key in task.input_names
        }
    return tensors


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
        sequences[task.name] = (
            x if len(x.shape) == 3 else keras.layers.Reshape((-1, x.shape[-1]))(x)
        )
        if mask is None:
            mask = ops.ones_like(sequences[task.name][..., 0], dtype="bool")
        masks[task.name] = mask if real is None else ops.logical_and(mask, real[task.name])
    encoded = encoder(*_group_all(groups, sequences, masks))
    encoded = _ungroup_all(groups, encoded, sequences)
    names = [task.name for task in tasks]
    return {name: (encoded[name], masks[name], features[name]) for name in names}


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
    sources = {task.name: encoded[task.name][0] for task in tasks}
    source_masks = {task.name: encoded[task.name][1] for task in tasks}
    x, x_masks = _group_all(groups, sequences, masks)
    source, source_mask = _group_all(groups, sources, source_masks)
    x = body.mixer(x, source, x_masks, source_mask)
    x = body.decoder(x, source, x_masks, source_mask)
    x = _ungroup_all(groups, x, sequences)
    return {
        task.name: task.targets(x[task.name], mask=masks[task.name], reverse=True) for task in tasks
    }


def classify(tasks: list[Task], encoded: dict) -> dict:
    """Returns the logits `(batch, num_classes)` of tasks whose targets leave after the encoder."""
    return {
        task.name: task.targets(
            encoded[task.name][0],
            mask=encoded[task.name][1],
            reverse=True,
            like=encoded[task.name][2],
        )
        for task in tasks
    }


def single_task_models(task: Task, body: Body) -> tuple[keras.Model, keras.Model | None]:
    """Makes the models that generation runs for one task, with shared weights.

    Args:
        task: the task.
        body: the body that holds its weights.

    Returns:
        A model from inputs to class logits, and None; or one from inputs to `{"encoded", "mask"}`,
        and one from `{"targets", "encoded", "mask"}` to logits.
    """
    name, groups = task.name, [[task.name]]
    inputs = input_tensors([task])
    encoded = encode([task], groups, body.encoder, inputs)
    source = inputs[name]["inputs"]
    if not task.autoregressive:
        return keras.Model(source, classify([task], encoded)[name]), None
    read = keras.Model(source, {"encoded": encoded[name][0], "mask": encoded[name][1]})
    given = {
        "targets": keras.Input(
            task.targets.example_shape, dtype=task.targets.example_dtype, name="targets"
        ),
        "encoded": keras.Input(
            (None, body.hidden_dim), dtype=encoded[name][0].dtype, name="encoded"
        ),
        "mask": keras.Input((None,), dtype="bool", name="mask"),
    }
    state = {name: (given["encoded"], given["mask"])}
    logits = decode([task], groups, body, {name: {"targets": given["targets"]}}, state)[name]
    return read, keras.Model(given, logits)


def make_generator(task: Task, body: Body) -> TaskGenerator:
    """Returns the generator of one task."""
    read, write = single_task_models(task, body)
    steps = {}
    if write is not None:
        write.supports_masking = True  # the mask is an input of its own
        steps = {True: CachedSteps(task, body), False: RecomputedSteps(write)}
    return TaskGenerator(task, read, write, steps)


def groups_of(
    side: str, groups: Sequence[Sequence[str]] | None, tasks: list[Task], kind: Callable
) -> list[list[str]]:
    """Returns checked groups of tasks, by default one for each kind of task.

    Args:
        side: "encoder" or "decoder", for messages.
        groups: lists of names of tasks, or None.
        tasks: the tasks to distribute.
        kind: function from a task to what the tasks of a default group have in common.
    """
    if groups is not None:
        return check_groups(f"{side}_groups", groups, [task.name for task in tasks])
    found: dict = {}
    for task in tasks:
        found.setdefault(kind(task), []).append(task.name)
    return list(found.values())


def _group_all(groups, sequences, masks) -> tuple[list, list]:
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
