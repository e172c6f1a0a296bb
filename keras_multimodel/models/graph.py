"""The functional graph of a model: modality nets, stacks, body, modality nets."""

import keras
from keras import ops

from keras_multimodel.generation.caches import CachedSteps, RecomputedSteps
from keras_multimodel.generation.generate import TaskGenerator
from keras_multimodel.models.grouping import AtLeastOneRow, Stack, Unstack
from keras_multimodel.models.validation import check_stacks


def input_tensors(tasks) -> dict:
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
        the same with at least one row, and per task a boolean `(batch, 1)`, True at real rows.
    """
    filled, real = {}, {}
    for name, tensors in inputs.items():
        pairs = {key: AtLeastOneRow()(tensor) for key, tensor in tensors.items()}
        filled[name] = {key: pair[0] for key, pair in pairs.items()}
        real[name] = pairs["inputs"][1]
    return filled, real


def encode(tasks, stacks, encoder, inputs: dict, real: dict | None = None) -> dict:
    """Runs input nets and encoder.

    Args:
        tasks: the tasks.
        stacks: lists of the names of tasks that pass the encoder together.
        encoder: the encoder layer.
        inputs: per task the dict of its input tensors.
        real: per task a boolean `(batch, 1)`, True at real rows; None if all are.

    Returns:
        per task the encoded input `(batch, length, hidden_dim)`, its mask, and the features before
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
    encoded = encoder(*_stack_all(stacks, sequences, masks))
    encoded = _unstack_all(stacks, encoded, sequences)
    names = [task.name for task in tasks]
    return {name: (encoded[name], masks[name], features[name]) for name in names}


def decode(tasks, stacks, body, inputs: dict, encoded: dict) -> dict:
    """Runs target nets, mixer and decoder of the tasks that write one id at a time.

    Args:
        tasks: those tasks.
        stacks: lists of the names of tasks that pass mixer and decoder together.
        body: holder of `commands`, `mixer` and `decoder`.
        inputs: per task the dict of its input tensors, with the ids `(batch, length)` under
            `"targets"`.
        encoded: per task the encoded input and its mask, as `encode` returns them.

    Returns:
        per task the logits `(batch, length, vocabulary_size)`.
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
    x, x_masks = _stack_all(stacks, sequences, masks)
    source, source_mask = _stack_all(stacks, sources, source_masks)
    x = body.mixer(x, source, x_masks, source_mask)
    x = body.decoder(x, source, x_masks, source_mask)
    x = _unstack_all(stacks, x, sequences)
    return {
        task.name: task.targets(x[task.name], mask=masks[task.name], reverse=True) for task in tasks
    }


def classify(tasks, encoded: dict) -> dict:
    """Returns per task whose targets leave after the encoder its logits `(batch, num_classes)`."""
    return {
        task.name: task.targets(
            encoded[task.name][0],
            mask=encoded[task.name][1],
            reverse=True,
            like=encoded[task.name][2],
        )
        for task in tasks
    }


def single_task_models(task, body) -> tuple[keras.Model, keras.Model | None]:
    """Makes the models that generation runs for one task, all of shared weights.

    Args:
        task: the task.
        body: the body that holds its weights.

    Returns:
        a model from inputs to class logits, and None; or one from inputs to `{"encoded", "mask"}`,
        and one from `{"targets", "encoded", "mask"}` to logits.
    """
    name, stacks = task.name, [[task.name]]
    inputs = input_tensors([task])
    encoded = encode([task], stacks, body.encoder, inputs)
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
    logits = decode([task], stacks, body, {name: {"targets": given["targets"]}}, state)[name]
    return read, keras.Model(given, logits)


def make_generator(task, body) -> TaskGenerator:
    """Returns what generates for one task."""
    read, write = single_task_models(task, body)
    steps = {}
    if write is not None:
        write.supports_masking = True  # the mask is an input of its own
        steps = {True: CachedSteps(task, body), False: RecomputedSteps(write)}
    return TaskGenerator(task, read, write, steps)


def stacks_of(side, stacks, tasks, kind) -> list[list[str]]:
    """Returns checked stacks; if none were given, one for each kind of task."""
    if stacks is not None:
        return check_stacks(f"{side}_stacks", stacks, [task.name for task in tasks])
    groups: dict = {}
    for task in tasks:
        groups.setdefault(kind(task), []).append(task.name)
    return list(groups.values())


def _stack_all(stacks, sequences, masks) -> tuple[list, list]:
    pairs = [
        Stack()([sequences[n] for n in names], [masks[n] for n in names])
        if len(names) > 1
        else (sequences[names[0]], masks[names[0]])
        for names in stacks
    ]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _unstack_all(stacks, stacked, like) -> dict:
    results = {}
    for names, x in zip(stacks, stacked):
        parts = Unstack()(x, [like[n] for n in names]) if len(names) > 1 else [x]
        results.update(zip(names, parts))
    return results
