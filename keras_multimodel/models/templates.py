"""Templates of blocks: cloned for every position, checked before anything is built."""

import keras
import numpy as np
from keras import ops

from keras_multimodel.layers.blocks import call_block


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
