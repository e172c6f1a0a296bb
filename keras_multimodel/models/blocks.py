"""What the builder does with the blocks it is given: clone, call, check."""

import inspect

import keras
import numpy as np
from keras import ops


def clone(template: keras.layers.Layer, name: str, causal: bool = False) -> keras.layers.Layer:
    """Makes a new layer of a template's config.

    Args:
        template: the block.
        name: name of the clone.
        causal: whether it will stand in a decoder; a `padding` of the config then becomes
            `"causal"`, a `causal` True.

    Returns:
        The layer, not built.
    """
    config = {**template.get_config(), "name": name}
    if causal and "padding" in config:
        config["padding"] = "causal"
    if causal and "causal" in config:
        config["causal"] = True
    return type(template).from_config(config)


def takes(block: keras.layers.Layer, argument: str) -> bool:
    """Returns whether the block's `call` has this argument."""
    return argument in inspect.signature(block.call).parameters


def call_block(block, inputs, training=None, **arguments):
    """Calls a block with those of the arguments that its `call` has.

    A user's block so needs no more than `call(inputs)`.
    """
    known = {name: value for name, value in arguments.items() if takes(block, name)}
    if takes(block, "training"):
        known["training"] = training
    return block(inputs, **known)


def build_block(block, hidden_dim: int) -> None:
    """Builds a block, if there is one, and all layers within it, by a symbolic call."""
    if block is None or block.built:
        return
    sequence = keras.KerasTensor((None, None, hidden_dim), dtype=block.compute_dtype)
    mask = keras.KerasTensor((None, None), dtype="bool")
    call_block(block, sequence, mask=mask, source=sequence, source_mask=mask)


def call_position_wise(block, inputs: list, masks: list, training=None) -> list:
    """Calls a block that treats every position alone once, on the positions of all sequences
    together.

    The experts then see what the whole step holds, whatever stacks it comes in, and are balanced
    over all of it.

    Args:
        block: the block; without `position_wise = True` it is called on each sequence apart.
        inputs: list of `(batch_i, length_i, hidden_dim)`.
        masks: list of boolean `(batch_i, length_i)`.
        training: whether the model trains.

    Returns:
        list of `(batch_i, length_i, hidden_dim)`.
    """
    if len(inputs) == 1 or not getattr(block, "position_wise", False):
        return [call_block(block, x, training, mask=mask) for x, mask in zip(inputs, masks)]
    width = inputs[0].shape[-1]
    shapes = [ops.shape(x) for x in inputs]
    flat = ops.concatenate([ops.reshape(x, (1, -1, width)) for x in inputs], axis=1)
    flat_mask = ops.concatenate([ops.reshape(mask, (1, -1)) for mask in masks], axis=1)
    flat = call_block(block, flat, training, mask=flat_mask)
    results, start = [], 0
    for batch, length, _ in shapes:
        results.append(ops.reshape(flat[:, start : start + batch * length], (batch, length, width)))
        start = start + batch * length
    return results


def check_template(argument: str, template, hidden_dim: int, causal: bool) -> None:
    """Checks that a block maps `(batch, length, hidden_dim)` to itself, and in a decoder looks at
    no later input.

    Args:
        argument: the builder's name for it, for messages.
        template: the block, or None.
        hidden_dim: width of the model.
        causal: whether clones of it stand in the mixer and decoder.

    Raises:
        ValueError: it is no layer, is of another `hidden_dim`, cannot be cloned or called, changes
            the shape, or lets an output see a later input.
    """
    if template is None:
        return
    if not isinstance(template, keras.layers.Layer):
        raise ValueError(f"`{argument}` must be a layer or None. Received: {argument}={template!r}")
    width = getattr(template, "hidden_dim", hidden_dim)
    if width != hidden_dim:
        raise ValueError(
            f"`{argument}` must have the model's `hidden_dim`. "
            f"Received: {argument}.hidden_dim={width}, hidden_dim={hidden_dim}"
        )
    try:
        probe = clone(template, "probe", causal)
    except Exception as error:
        raise ValueError(
            f"`{argument}` must be clonable from its config, which needs all of its arguments. "
            f"Received: {argument}={template!r}, which raised {type(error).__name__}: {error}"
        ) from error
    _check_shape(argument, probe, hidden_dim)
    if causal:
        _check_causality(argument, probe, hidden_dim)


def _check_shape(argument, probe, hidden_dim):
    sequence = keras.KerasTensor((2, 7, hidden_dim), dtype="float32")
    mask = keras.KerasTensor((2, 7), dtype="bool")
    try:
        result = call_block(probe, sequence, mask=mask, source=sequence, source_mask=mask)
    except Exception as error:
        raise ValueError(
            f"`{argument}` must be callable on a tensor of shape (batch, length, hidden_dim). "
            f"Received: {argument}={probe!r}, which raised {type(error).__name__}: {error}"
        ) from error
    if getattr(result, "shape", None) != sequence.shape:
        raise ValueError(
            f"`{argument}` must keep the shape (batch, length, hidden_dim). "
            f"Received: {argument}={probe!r}, which maps "
            f"{sequence.shape} to {getattr(result, 'shape', type(result).__name__)}"
        )


def _check_causality(argument, probe, hidden_dim):
    """Changes the last input and looks whether an earlier output changes."""
    x = np.random.default_rng(0).normal(size=(1, 6, hidden_dim)).astype("float32")
    changed = x.copy()
    changed[:, -1] += 1.0
    mask = np.ones((1, 6), "bool")
    before, after = (
        ops.convert_to_numpy(
            call_block(
                probe, ops.convert_to_tensor(v), False, mask=mask, source=x, source_mask=mask
            )
        )
        for v in (x, changed)
    )
    leak = np.abs(before[:, :-1].astype("float32") - after[:, :-1].astype("float32")).max()
    if leak > 1e-4:
        raise ValueError(
            f"`{argument}` must be causal in the decoder: no output may depend on a later input. "
            f"Received: {argument}={probe!r}, where a change of the last input changed an earlier "
            f"output by {leak:.2g}. A block whose config has a `padding` gets padding='causal' "
            "there, one with a `causal` gets True."
        )
