"""How a block is called, whatever arguments its `call` takes."""

import inspect

import keras
from keras import ops

# What an argument is called here, in keras-hub's encoder and decoder, and in Keras' attention.
_NAMES = {
    "mask": ("mask", "padding_mask", "decoder_padding_mask", "query_mask"),
    "source": ("source", "encoder_sequence", "value"),
    "source_mask": ("source_mask", "encoder_padding_mask", "value_mask"),
}


def name_of(block: keras.layers.Layer, argument: str) -> str | None:
    """Returns the name under which the block's `call` has this argument, or None."""
    parameters = inspect.signature(block.call).parameters
    return next((name for name in _NAMES.get(argument, (argument,)) if name in parameters), None)


def takes(block: keras.layers.Layer, argument: str) -> bool:
    """Returns whether the block's `call` has this argument."""
    return name_of(block, argument) is not None


def call_block(block, inputs, training=None, **arguments):
    """Calls a block with those of the arguments that its `call` has.

    A user's block so needs no more than `call(inputs)`.
    """
    # Keras' attention needs something to attend to: where there is no source, the inputs.
    if name_of(block, "source") == "value" and "source" not in arguments:
        arguments |= {"source": inputs, "source_mask": arguments.get("mask")}
    named = {name_of(block, argument): value for argument, value in arguments.items()}
    known = {name: value for name, value in named.items() if name is not None}
    if takes(block, "training"):
        # None too: Keras then looks up whether the model that calls is in training.
        known["training"] = training
    return block(inputs, **known)


def build_block(block, hidden_dim: int) -> None:
    """Builds a block, if there is one, and all layers within it, by a symbolic call."""
    if block is None or block.built:
        return
    # A call instead of `build`: from its arguments a block learns whether it has a source.
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
    # `(1, total, width)`: one long sequence, since blocks expect an axis of the batch.
    flat = ops.concatenate([ops.reshape(x, (1, -1, width)) for x in inputs], axis=1)
    flat_mask = ops.concatenate([ops.reshape(mask, (1, -1)) for mask in masks], axis=1)
    flat = call_block(block, flat, training, mask=flat_mask)
    results, start = [], 0
    for batch, length, _ in shapes:
        results.append(ops.reshape(flat[:, start : start + batch * length], (batch, length, width)))
        start = start + batch * length
    return results
